"""Workers and producers that move only when the test pulls a string: the real parts, over a writer that waits."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import redis as sync_redis

from producer.connection import Call, Script
from producer.home_loop import HomeLoop
from producer.link import Link
from producer.wire.keys import Keys
from tests.support.at_once import AtOnce, AtOnceLine, RunCall, RunsAtOnce
from worker import scripts
from worker.asking import Asker
from worker.cancellations import Cancellations
from worker.entry_reader import EntryReader
from worker.event_log import EventLog
from worker.executor import Executor
from worker.holdings import Entry, Holdings
from worker.limits import Limits
from worker.parking import Parking
from worker.pending import Asked, Pending
from worker.providers.provider import Provider
from worker.providers.registry import Registry
from worker.queue import Queue
from worker.settings import Settings
from worker.settling import Settling
from worker.standing import StandingReader

QUEUE = "q"
LEASE_MS = 3_600_000
"""So long that none ends by itself: the test says when one does."""

PROVIDERS = ("p1", "p2")


@dataclass(slots=True)
class Step:
    """A call that a worker wants to make, and who waits for its reply. Appends are made when they are sent."""

    script: Script
    pending: Pending


class SteppedWriter:
    """In place of a `Writer`: what is submitted waits here until the test sends it."""

    def __init__(self) -> None:
        self.waiting: list[Step] = []

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    def submit(self, call: Call, *, remember: bool = True, repeat: bool = True) -> "asyncio.Future[Any]":
        asked = Asked(call, self.loop, remembered=remember, repeated=repeat)
        self.waiting.append(Step(call.script, asked))
        return asked.future

    def add(self, pending: Pending) -> None:
        self.waiting.append(Step(_script_of(pending), pending))

    def remember(self, call: Call) -> None:
        """A server that forgets what it acknowledged is not played here."""


def _script_of(pending: Pending) -> Script:
    """What is made only when it is sent: the end of an attempt, the end of entries, a frame."""
    if isinstance(pending, Asked):
        return scripts.FINISH
    return scripts.SETTLE if isinstance(pending, Settling) else scripts.APPEND


class AskedCall:
    """A provider's call that is open: it says what the test has it say."""

    def __init__(self) -> None:
        self._parts: asyncio.Queue[str | Exception | None] = asyncio.Queue()
        self.open = True

    def say(self, part: str | Exception | None) -> None:
        """A chunk, an error, or None: the answer is whole."""
        self._parts.put_nowait(part)

    async def answer(self) -> AsyncIterator[str]:
        try:
            while (part := await self._parts.get()) is not None:
                if isinstance(part, Exception):
                    raise part
                yield part
        finally:
            self.open = False


class PuppetWorker:
    """A worker without its timers: the test says when it takes, renews, reclaims, promotes, stops or dies."""

    def __init__(self, name: str, client: sync_redis.Redis, keys: Keys) -> None:
        redis: Any = AtOnce(client)
        self.redis = redis
        self.settings = Settings(
            redis_url="redis://unused",
            prefix=keys.prefix,
            queues=(QUEUE,),
            name=name,
            consumer_suffix="x",
            lease=LEASE_MS / 1000,
            retention=2 * LEASE_MS / 1000,
            backoff=3600,
            longest_backoff=3600,
            poll=0.001,
        )
        self._stepped = SteppedWriter()
        writer: Any = self._stepped
        self._asked: list[AskedCall] = []
        self.holdings = Holdings(f"{name}:x")
        self.line = AtOnceLine(client)
        line: Any = self.line
        self.reader = EntryReader(line, keys, self.holdings, self.settings)
        self.queue = Queue(writer, keys, self.holdings, self.settings)
        self.cancellations = Cancellations(redis, keys, self.settings)
        log, limits = EventLog(writer, keys, patience=0), Limits(writer, keys, self.settings.lease)
        http: Any = None
        asker = Asker(log, self.cancellations, limits, http, name)
        standing = StandingReader(writer, keys)
        parking = Parking(writer, keys)
        registry = self._registry()
        self._executor = Executor(self.queue, log, asker, parking, standing, registry, self.settings)
        self._jobs: set[asyncio.Task[Any]] = set()
        self._duties: set[asyncio.Task[Any]] = set()
        self._drain: asyncio.Task[Any] | None = None
        self.is_frozen = False

    def _registry(self) -> Registry:
        asked = self._asked

        class Puppet:
            url = "http://puppet"
            working = True
            models = ("m",)

            @classmethod
            def create_async_generator(cls, model: str, messages: Any, **_: Any) -> AsyncIterator[str]:
                asked.append(AskedCall())
                return asked[-1].answer()

        return Registry(
            Provider(name, "puppet", Puppet, Puppet.url, True, Puppet.models) for name in PROVIDERS
        )

    # -- what the test sees --------------------------------------------------------------------------------

    @property
    def consumer(self) -> str:
        return self.holdings.consumer

    @property
    def waiting(self) -> list[Step]:
        """What it is about to say to Redis, in order."""
        return self._stepped.waiting

    @property
    def can_speak(self) -> bool:
        return bool(self.waiting) and not self.is_frozen

    @property
    def asked(self) -> list[AskedCall]:
        """The calls of providers that are open."""
        self._asked[:] = [call for call in self._asked if call.open]
        return self._asked

    @property
    def is_holding(self) -> bool:
        """Whether it holds entries, as far as it knows."""
        return bool(self.holdings.of(QUEUE))

    @property
    def has_more_to_take(self) -> bool:
        """Whether it would find something, were there nothing new in the queue."""
        return self.reader._in_doubt

    @property
    def is_stopping(self) -> bool:
        return self._drain is not None

    @property
    def has_stopped(self) -> bool:
        return self._drain is not None and self._drain.done()

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing in hand."""
        return not (self.waiting or self._jobs or self.holdings.of(QUEUE))

    def check(self) -> None:
        """Raise what broke a task."""
        for task in [*self._jobs, *self._duties]:
            if task.done() and not task.cancelled():
                task.result()
        self._jobs = {task for task in self._jobs if not task.done()}
        self._duties = {task for task in self._duties if not task.done()}

    # -- what it does --------------------------------------------------------------------------------------

    async def take(self, count: int) -> None:
        for entry in await self.reader.take(count):
            self._begin(entry)

    def renew(self) -> None:
        async def renew() -> None:
            for entry in await self.queue.renew():
                self.cancellations.lose(entry)

        self._do(renew())

    def reclaim(self) -> None:
        async def reclaim() -> None:
            _, entries = await self.queue.reclaim(QUEUE, "0-0", 10)
            for entry in entries:
                self._begin(entry)

        self._do(reclaim())

    def promote(self) -> None:
        self._do(self.queue.promote(QUEUE))

    def stop(self) -> None:
        """Hand back all at once, as a worker does whose grace time is over."""
        for task in self._duties:
            task.cancel()
        self.cancellations.release_all()
        self._drain = asyncio.ensure_future(self._hand_back())
        self._duties.add(self._drain)

    async def _hand_back(self) -> None:
        await self.queue.renew()
        await asyncio.gather(*[self.queue.release(entry) for entry in await self.reader.rest()])
        while running := [job for job in self._jobs if not job.done()]:
            await asyncio.wait(running)
        await self.queue.leave()

    async def die(self) -> list[Call]:
        """Forget all; return what was about to be said."""
        tasks = self._jobs | self._duties
        for task in tasks:
            task.cancel()
        # Their last words, said while they end, are none: a killed process says nothing.
        unsaid = [call for step in self.waiting if (call := step.pending.prepare()) is not None]
        await asyncio.gather(*tasks, return_exceptions=True)
        return unsaid

    def _begin(self, entry: Entry) -> None:
        self._jobs.add(asyncio.ensure_future(self._executor.execute(entry)))

    def _do(self, duty: Coroutine[Any, Any, Any]) -> None:
        self._duties.add(asyncio.ensure_future(duty))


class Died(Exception):
    """The producer is no more."""


class NoLine:
    """Stands in for a line over which nothing goes: a link goes the long way, which the test steps through."""

    is_open = False
    silence = 0.0

    async def open(self) -> None:
        """It stays as it is."""

    def close(self) -> None:
        """It stays as it is."""


class PuppetLink(Link):
    """A producer's way to Redis. ``dies_before``: the step, counted from 0, that it does not live to make;
    ``says_twice``: the one whose reply gets lost, so that it is made again.
    """

    def __init__(
        self,
        client: sync_redis.Redis,
        run_call: RunCall,
        *,
        dies_before: int | None = None,
        says_twice: int | None = None,
    ) -> None:
        self._redis: Any = AtOnce(client)
        scripts: Any = RunsAtOnce(run_call)
        self._scripts = scripts
        self._line: Any = NoLine()
        self._home = HomeLoop()
        self._was_demoted = False
        self.timeout = 5.0
        self.closed = False
        self._dies_before, self._says_twice = dies_before, says_twice
        self._steps = itertools.count()

    async def _patiently(
        self, command: Callable[[], Awaitable[Any]], line: object = None, give_up_at: float | None = None
    ) -> Any:
        step = next(self._steps)
        if step == self._dies_before:
            raise Died
        if step == self._says_twice:
            await command()
        return await command()


async def calm() -> None:
    """Let every task go on until it waits for the test."""
    loop: Any = asyncio.get_running_loop()
    for _ in range(10_000):
        if not loop._ready:
            return
        await asyncio.sleep(0)
    raise AssertionError("something goes round and round")
