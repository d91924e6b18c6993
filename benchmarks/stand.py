"""What stands around a relay that is measured: a server, an upstream, a tap on the channels, one way at a time.

Every way but the direct ones gets its jobs from a real `Producer`, off the same stream.
"""

import asyncio
import contextlib
import http.client
import json
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from benchmarks import processes, servers
from benchmarks.plan import Plan
from benchmarks.processes import Child, ProcessFailed
from benchmarks.servers import Server
from benchmarks.ways import CALLING
from producer import ChatRelayError, Producer
from producer.wire.events import Chunk, Done, Queued, Started
from producer.wire.frames import decode_frame
from producer.wire.keys import FRAME_FIELD, Keys

CHATRELAY = "chatrelay"
SUBSCRIBED = "chatrelay, subscribed"
"""Read by a service that enqueues and subscribes, in place of the tap."""
_POLL = 0.002  # seconds
_PATIENCE = 180.0  # seconds: the naive ways need their time
_AT_ONCE = 100  # jobs that are enqueued, and logs that are read, side by side


class NotExact(RuntimeError):
    """An answer is not what the upstream sent: whatever was measured does not count."""


FAILURES = (NotExact, ProcessFailed, ChatRelayError, RedisError, OSError, ValueError)
"""What keeps one setting from being measured; the others go on, on a stand of their own."""


@dataclass
class Stand:
    """One server, one upstream, one tap, one producer."""

    server: Server
    upstream: Child
    base_url: str
    tap: Child
    producer: Producer
    redis: Redis
    _asked: http.client.HTTPConnection
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1 << 60)))

    def new_ids(self, count: int) -> list[str]:
        """Return ids that no job had."""
        return [f"job-{next(self._numbers)}" for _ in range(count)]

    def ask_upstream(self, path: str) -> Any:
        """Ask for ``figures`` or ``held``, or to ``open`` or ``shut`` the gate."""
        self._asked.request("GET", f"/{path}")
        return json.loads(self._asked.getresponse().read())

    async def until_calls(self, count: int, path: str) -> None:
        """Wait until so many calls are held, or have begun since the figures were last taken."""
        ends_at = time.monotonic() + _PATIENCE
        seen = 0
        while seen < count:
            if time.monotonic() > ends_at:
                raise ProcessFailed(f"{seen} of {count} calls reached the upstream within {_PATIENCE:g} s")
            await asyncio.sleep(_POLL)
            told = self.ask_upstream(path)
            seen = told if path == "held" else seen + told["calls"]

    async def until_settled(self) -> None:
        """Wait until no job is queued or running."""
        ends_at = time.monotonic() + _PATIENCE
        while await self.redis.xlen(Keys().jobs("default")):
            if time.monotonic() > ends_at:
                raise ProcessFailed("not all jobs were settled")
            await asyncio.sleep(_POLL)

    async def enqueue(self, plan: Plan, ids: Sequence[str], ramp: float) -> dict[str, int]:
        """Enqueue jobs of these ids over ``ramp`` seconds; return when each was, by channel, in ns."""
        places, handed, begins_at = asyncio.Semaphore(_AT_ONCE), dict[str, int](), time.monotonic()

        async def one(number: int, job_id: str) -> None:
            await asyncio.sleep(max(0.0, begins_at + ramp * number / len(ids) - time.monotonic()))
            async with places:
                handed[Keys().events(job_id)] = time.monotonic_ns()
                await self.producer.enqueue(plan.prompt(), id=job_id, provider="upstream", model="m")

        await asyncio.gather(*(one(number, job_id) for number, job_id in enumerate(ids)))
        return handed

    async def check(self, plan: Plan, ids: Sequence[str]) -> None:
        """Read the log of every job.

        Raises:
            NotExact: one does not hold what the upstream sent, each event in its place.
        """
        for first in range(0, len(ids), _AT_ONCE):
            some = ids[first : first + _AT_ONCE]
            async with self.redis.pipeline(transaction=False) as pipe:
                for job_id in some:
                    pipe.xrange(Keys().log(job_id))
                for job_id, log in zip(some, await pipe.execute(), strict=True):
                    check_log(plan, job_id, [fields[FRAME_FIELD.encode()] for _, fields in log])


def check_log(plan: Plan, job_id: str, log: Sequence[bytes]) -> None:
    """Check the frames of one job; see `Stand.check`."""
    frames = [decode_frame(data) for data in log]
    events = [event for frame in frames for event in frame.events]
    ends_meet = all(
        (later.attempt, later.first_seq) == (earlier.attempt, earlier.last.seq + 1)
        for earlier, later in pairwise(frames[1:])
    )
    kinds = [Queued, Started, *[Chunk] * plan.chunks, Done]
    texts = [event.text for event in events if isinstance(event, Chunk)]
    if not (ends_meet and [type(event) for event in events] == kinds and plan.is_exact(texts)):
        others = [event.type for event in events if not isinstance(event, Chunk)]
        raise NotExact(f"{job_id}: {len(texts)} of {plan.chunks} chunks, beside them {', '.join(others)}")


@contextlib.asynccontextmanager
async def open_stand(server_name: str) -> AsyncIterator[Stand]:
    """Start all of it."""
    with (
        servers.started(server_name) as server,
        processes.upstream() as (upstream, base_url),
        processes.python("benchmarks.tap", "--redis", server.url) as tap,
        contextlib.closing(http.client.HTTPConnection(urlsplit(base_url).netloc)) as asked,
    ):
        tap.answer()
        async with Producer(server.url) as producer, Redis.from_url(server.url) as redis:
            yield Stand(server, upstream, base_url, tap, producer, redis, asked)


class Side:
    """One way that runs. The same three steps for all: hand streams over, wait for their ends, take the figures."""

    def __init__(self, way: str, child: Child, stand: Stand, service: Child | None = None) -> None:
        self.way, self.child = way, child
        self._stand = stand
        self._caller = child if way in CALLING else service
        self._notes = self._caller or stand.tap  # who takes down when chunks came
        self._ids: list[str] = []
        self._handed: dict[str, int] = {}

    async def hand(self, plan: Plan, streams: int, ramp: float = 0.0) -> None:
        """Hand over so many streams, begun over ``ramp`` seconds."""
        self._ids = self._stand.new_ids(streams)
        if self._caller is not None:
            await self._ask(prompt=plan.prompt(), ids=self._ids, ramp=ramp)
            return
        await self._ask(channels=[Keys().events(job_id) for job_id in self._ids])
        self._handed = await self._stand.enqueue(plan, self._ids, ramp)

    async def ended(self, streams: int) -> int:
        """Wait for the last end, and for the queue to be empty; return when the end was seen, in ns."""
        told = await self._ask(ends=streams)
        if told["failures"]:
            raise NotExact(f"{self.way}: {told['failures']} of {streams} streams failed")
        await self._stand.until_settled()
        return int(told["last_end_at"])

    async def figures(self, since: int = 0, last_sent_at: int = 0) -> dict[str, Any]:
        """Return what `benchmarks.delays.Delays` tells."""
        handed = {} if self._caller else {"handed": self._handed}  # who hands over knows when
        told = await self._ask(since=since, last_sent_at=last_sent_at, **handed)
        assert isinstance(told, dict)
        return told

    async def check(self, plan: Plan) -> None:
        """Check that all answers are exact, where there is a log; forget them."""
        if self.way in (CHATRELAY, SUBSCRIBED):
            await self._stand.check(plan, self._ids)
        await self.forget()

    async def log_bytes(self) -> float:
        """Return the server's memory for one log, in the mean over some."""
        some = self._ids[:_AT_ONCE]
        sizes = [await self._stand.redis.memory_usage(Keys().log(job_id), samples=0) for job_id in some]
        return sum(size or 0 for size in sizes) / len(some)

    async def forget(self) -> None:
        """Remove what the last streams left on the server."""
        keys = [key for job_id in self._ids for key in (Keys().log(job_id), Keys().record(job_id))]
        if keys:
            await self._stand.redis.unlink(*keys)

    async def _ask(self, **words: Any) -> Any:
        return await asyncio.to_thread(self._notes.ask, _PATIENCE, **words)


@contextlib.asynccontextmanager
async def side(stand: Stand, way: str, concurrency: int) -> AsyncIterator[Side]:
    """Start a way, and warm it up."""
    with contextlib.ExitStack() as stack:
        child, service = stack.enter_context(_process(stand, way, concurrency)), None
        if way == SUBSCRIBED:
            service = stack.enter_context(processes.python("benchmarks.service", "--redis", stand.server.url))
            service.answer()
        elif way != CHATRELAY:
            child.answer()
        made = Side(way, child, stand, service)
        warm = Plan(chunks=50)
        for _ in range(2):
            await made.hand(warm, min(50, concurrency))
            await made.ended(min(50, concurrency))
            await made.figures()
        stand.ask_upstream("figures")
        yield made
    await stand.redis.flushall()


def _process(stand: Stand, way: str, concurrency: int) -> contextlib.AbstractContextManager[Child]:
    if way in (CHATRELAY, SUBSCRIBED):
        config = processes.one_provider(stand.base_url)
        return processes.chat_worker(stand.server.url, config, concurrency)
    return processes.python(
        "benchmarks.ways",
        *(way, "--upstream", stand.base_url, "--redis", stand.server.url),
        *("--concurrency", str(concurrency)),
    )
