"""A client that knows nothing but docs/wire.md: plain commands and msgpack, none of this project's code."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from time import time
from typing import Any
from uuid import uuid4

import msgpack
import pytest
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection

from producer import Cancellation, Cancelled, Chunk, Done, Producer, Queued, Started
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.servers import Server
from tests.wire.vectors import one

Event = dict[str, Any]
Id = tuple[int, int]

# -- the foreign client ----------------------------------------------------------------------------------------

WEEK_MS, HOUR_MS, MINUTE_MS = 604_800_000, 3_600_000, 60_000
WORKERS_TURN_MS = 10_000
PAGE = 128
TERMINAL = ("done", "failed", "cancelled")


class NoSuchJob(Exception):
    pass


def pack(value: dict[str, Any]) -> bytes:
    return bytes(msgpack.packb(value))


def unpack_frame(frame: bytes) -> list[Event]:
    unpacker = msgpack.Unpacker(raw=False)
    unpacker.feed(frame)
    events = list(unpacker)
    if not events or unpacker.tell() < len(frame):
        raise ValueError("a frame that is empty or cut off")
    return events


def id_of(event: Event) -> Id:
    attempt, seq = event["id"].split("-")
    return int(attempt), int(seq)


class ForeignClient:
    """``open`` gives a connection of its own each time: one is said commands on, others are subscribed."""

    def __init__(
        self, prefix: str, commands: AbstractConnection, open_: Callable[[], Awaitable[AbstractConnection]]
    ):
        self.tail_check = 5.0  # seconds
        self._prefix = prefix
        self._commands = commands
        self._open = open_

    async def say(self, *command: Any) -> Any:
        await self._commands.send_command(*command)
        return await self._commands.read_response()

    async def transaction(self, *commands: tuple[Any, ...]) -> Any:
        await self.say("MULTI")
        for command in commands:
            assert await self.say(*command) == b"QUEUED"
        return await self.say("EXEC")

    def job_key(self, job_id: str, name: str) -> str:
        return f"{self._prefix}:{{{job_id}}}:{name}"

    def queue_key(self, queue: str, name: str) -> str:
        return f"{self._prefix}:{{{queue}}}:{name}"

    # -- enqueue

    async def enqueue(self, text: str, *, delay_ms: int = 0, **fields: Any) -> str:
        """Put a job on its queue; with an ``id`` of the caller's own, at most once."""
        own_id = "id" in fields
        job = {
            "v": 1,
            "id": uuid4().hex,
            "queue": "default",
            "messages": [{"role": "user", "content": text}],
            "created_at": int(time() * 1000),
            "provider": "echo",
            **fields,
        }
        due = await self.now_ms() + delay_ms if delay_ms else None
        if not own_id:
            assert await self.accept(job, WEEK_MS + delay_ms, due) is not None
            await self.add(job, due)
        elif await self.accept_once(job, due):
            await self.add(job, due)
            await self.confirm(job["id"], WEEK_MS + delay_ms)
        return str(job["id"])

    async def now_ms(self) -> int:
        seconds, microseconds = await self.say("TIME")
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def accept(
        self, job: dict[str, Any], ttl_ms: int, due: int | None = None, below: int | None = None
    ) -> Any:
        """Accept it; ``below``: what whoever may still run an earlier life of the id must not append above."""
        log, record, cancel, events = (
            self.job_key(job["id"], name) for name in ("log", "record", "cancel", "events")
        )
        frame = pack({"id": "0-1", "type": "queued", "queue": job["queue"]})
        status = ("status", "queued", "queue", job["queue"], "provider", job["provider"])
        status += ("model", job.get("model", ""), "created_at", job["created_at"], "number", 0)
        status += ("attempt", below or 0)
        status += ("deadline", job["deadline"]) if "deadline" in job else ()
        status += ("due", due) if due else ()
        fence = f"{below}-18446744073709551614"
        return await self.transaction(
            ("DEL", log, cancel),
            ("XADD", log, "0-1", "f", frame),
            *([("XADD", log, fence, "f", ""), ("XDEL", log, fence)] if below else []),
            ("HSET", record, *status),
            ("PEXPIRE", log, ttl_ms),
            ("PEXPIRE", record, ttl_ms),
            ("PUBLISH", events, frame),
        )

    async def accept_once(self, job: dict[str, Any], due: int | None = None) -> bool:
        record = self.job_key(job["id"], "record")
        while True:
            below = await self.now_ms() - 1
            await self.say("WATCH", record)
            status, confirmed = await self.say("HMGET", record, "status", "confirmed")
            if status is None:
                if await self.accept(job, MINUTE_MS, due, below) is not None:
                    return True
                continue
            await self.say("UNWATCH")
            return bool(status == b"queued" and confirmed is None)

    async def add(self, job: dict[str, Any], due: int | None = None) -> None:
        jobs, later, control = (self.queue_key(job["queue"], name) for name in ("jobs", "later", "control"))
        if due is None:
            await self.say("XADD", jobs, "*", "job", pack(job))
            return
        await self.say("ZADD", later, "NX", due, pack(job))
        if await self.say("ZRANGE", later, 0, 0) == [pack(job)]:
            await self.say("PUBLISH", control, pack({"type": "later"}))

    async def confirm(self, job_id: str, ttl_ms: int = WEEK_MS) -> None:
        log, record = self.job_key(job_id, "log"), self.job_key(job_id, "record")
        while True:
            await self.say("WATCH", record)
            if await self.say("HGET", record, "status") != b"queued":
                await self.say("UNWATCH")
                return
            confirm = ("HSET", record, "confirmed", 1)
            if (
                await self.transaction(confirm, ("PEXPIRE", log, ttl_ms), ("PEXPIRE", record, ttl_ms))
                is not None
            ):
                return

    # -- subscribe

    async def subscribe(self, job_id: str, cursor: str = "0-0") -> AsyncIterator[Event]:
        """Yield every event above the cursor, to the terminal one."""
        channel = self.job_key(job_id, "events")
        live = await self._open()
        await live.send_command("SUBSCRIBE", channel)
        assert (await live.read_response())[0] == b"subscribe"
        seen: Id = id_of({"id": cursor})
        behind = True
        while True:
            if behind:
                events, behind, ended = await self._replay(job_id, seen)
            else:
                events, behind, ended = *_follow(await _next_frame(live, self.tail_check), seen), False
            for event in events:
                seen = id_of(event)
                yield event
                ended = event["type"] in TERMINAL
            if ended:
                await live.send_command("UNSUBSCRIBE", channel)
                return

    async def _replay(self, job_id: str, seen: Id) -> tuple[list[Event], bool, bool]:
        """Return a page's events; whether there may be more; whether they end with what was seen already."""
        log = self.job_key(job_id, "log")
        page = await self.say("XRANGE", log, f"({seen[0]}-{seen[1]}", "+", "COUNT", PAGE)
        tail = await self.say("XREVRANGE", log, "+", "-", "COUNT", 1)
        if not tail:
            raise NoSuchJob(job_id)
        events: list[Event] = []
        for entry_id, (field, frame) in page:
            assert field == b"f"
            of_frame = unpack_frame(frame)
            assert of_frame[-1]["id"].encode() == entry_id
            events += [event for event in of_frame if id_of(event) > seen]
        last = unpack_frame(tail[0][1][1])[-1]
        return events, len(page) == PAGE, not events and last["type"] in TERMINAL

    # -- cancel

    async def cancel(self, job_id: str, reason: str) -> str:
        """Return what came of it: ``cancelled``, ``requested``, ``too late`` or ``unknown``."""
        record = self.job_key(job_id, "record")
        while True:
            await self.say("WATCH", record)
            status, attempt, queue = await self.say("HMGET", record, "status", "attempt", "queue")
            now = await self.now_ms()
            if status in (b"queued", b"waiting"):
                own = max(now, int(attempt) + 1)
                body = {"id": f"{own}-0", "type": "cancelled", "reason": reason, "upstream_closed": True}
                if await self.end(job_id, "cancelled", own, now, pack(body)) is not None:
                    return "cancelled"
            elif status == b"running":
                mark = ("SET", self.job_key(job_id, "cancel"), reason, "PX", WEEK_MS)
                if await self.transaction(mark) is not None:
                    message = {"type": "cancel", "id": job_id, "attempt": int(attempt), "reason": reason}
                    await self.say("PUBLISH", self.queue_key(queue.decode(), "control"), pack(message))
                    return "requested"
            else:
                await self.say("UNWATCH")
                return "too late" if status else "unknown"

    async def end(
        self, job_id: str, status: str, attempt: int, now: int, frame: bytes, *more: tuple[Any, ...]
    ) -> Any:
        log, record, events = (self.job_key(job_id, name) for name in ("log", "record", "events"))
        return await self.transaction(
            ("XADD", log, "NOMKSTREAM", f"{attempt}-0", "f", frame),
            ("HSET", record, "status", status, "attempt", attempt, "finished_at", now),
            ("PEXPIRE", log, WEEK_MS, "GT"),
            ("PEXPIRE", record, WEEK_MS, "GT"),
            ("PUBLISH", events, frame),
            *more,
        )

    # -- deadline

    async def expire(self, job_id: str) -> bool:
        """End the job if its deadline has passed and nobody runs it, or who did is gone."""
        cancel, record = self.job_key(job_id, "cancel"), self.job_key(job_id, "record")
        while True:
            await self.say("WATCH", record, cancel)
            fields = ("status", "attempt", "number", "deadline")
            status, attempt, number, deadline = await self.say("HMGET", record, *fields)
            mark, now = await self.say("GET", cancel), await self.now_ms()
            turn_ms = {b"queued": 0, b"waiting": 0, b"running": WORKERS_TURN_MS}.get(status)
            if turn_ms is None or deadline is None or now < int(deadline) + turn_ms:
                await self.say("UNWATCH")
                return False
            own = max(now, int(attempt) + 1)
            if mark is None:
                body = {"id": f"{own}-0", "type": "failed", "code": "deadline_exceeded"}
                body |= {"message": "nobody took it in time", "attempts": int(number)}
            else:
                body = {"id": f"{own}-0", "type": "cancelled", "reason": mark.decode()}
                body |= {"upstream_closed": status != b"running"}
            forget = [("DEL", cancel)] if mark is not None else []
            if await self.end(job_id, body["type"], own, now, pack(body), *forget) is not None:
                return True


async def _next_frame(live: AbstractConnection, tail_check: float) -> list[Event]:
    """Return the events of the next published frame; none if it is no frame, or nothing came for a while."""
    reply = await live.read_response(timeout=tail_check)
    try:
        return unpack_frame(reply[2]) if reply is not None else []
    except ValueError:
        return []  # anybody may publish anything


def _follow(frame: list[Event], seen: Id) -> tuple[list[Event], bool]:
    """Return what is new in a live frame, and whether the log has to be read instead."""
    if not frame:
        return [], True
    first, last = id_of(frame[0]), id_of(frame[-1])
    if last <= seen:
        return [], False
    goes_on = first[0] == seen[0] and first[1] <= seen[1] + 1
    begins = seen == (0, 1) and first[1] == 0
    if not (goes_on or begins):
        return [], True
    return [event for event in frame if id_of(event) > seen], False


def text_of(events: list[Event]) -> str:
    text = ""
    for event in events:
        if event["type"] == "started":
            text = text[: event["keeps"]]
        elif event["type"] == "chunk":
            text += event["text"]
    return text


# -- what it can do --------------------------------------------------------------------------------------------


@pytest.fixture
async def foreign(server: Server, prefix: str) -> AsyncIterator[ForeignClient]:
    pool = ConnectionPool.from_url(server.url, protocol=2)
    async with AsyncExitStack() as stack:

        async def open_() -> AbstractConnection:
            connection = pool.make_connection()
            await connection.connect()
            stack.push_async_callback(connection.disconnect)
            return connection

        yield ForeignClient(prefix, await open_(), open_)


async def test_its_job_is_answered_and_read_to_the_end(
    foreign: ForeignClient, start_worker: StartWorker
) -> None:
    job_id = await foreign.enqueue("שלום, 𝄞 and hello", options={"chunk_size": 3})
    await start_worker()
    events = [event async for event in foreign.subscribe(job_id)]
    assert text_of(events) == "שלום, 𝄞 and hello"
    assert [event["type"] for event in events][:3] == ["queued", "started", "chunk"]
    assert events[-1]["type"] == "done"
    assert events[-1]["chars"] == len("שלום, 𝄞 and hello")


async def test_it_reads_live_what_is_written_while_it_listens(
    foreign: ForeignClient, start_worker: StartWorker
) -> None:
    job_id = await foreign.enqueue("a long story " * 50, options={"chunk_size": 1, "delay": 0.001})
    subscription = foreign.subscribe(job_id)
    events = [await anext(subscription)]
    assert events[0]["type"] == "queued"
    await start_worker()
    events += [event async for event in subscription]
    assert text_of(events) == "a long story " * 50
    assert [event["id"].split("-")[1] for event in events[1:]] == [str(seq) for seq in range(len(events) - 1)]


async def test_it_resumes_from_any_cursor_after_the_end(
    foreign: ForeignClient, start_worker: StartWorker
) -> None:
    job_id = await foreign.enqueue("hello there")
    await start_worker()
    events = [event async for event in foreign.subscribe(job_id)]
    for place, event in enumerate(events):
        rest = [event async for event in foreign.subscribe(job_id, cursor=event["id"])]
        assert rest == events[place + 1 :]


async def test_it_resumes_in_the_middle_of_a_frame(foreign: ForeignClient) -> None:
    frame = one("frames", "several events")
    await foreign.say("XADD", foreign.job_key("j", "log"), frame["json"][-1]["id"], "f", frame["data"])
    rest = [event async for event in foreign.subscribe("j", cursor=frame["json"][1]["id"])]
    assert rest == frame["json"][2:]


async def test_noise_on_the_channel_sends_it_to_the_log(foreign: ForeignClient) -> None:
    queued, whole = one("frames", "queued"), one("frames", "several events")
    await foreign.say("XADD", foreign.job_key("j", "log"), "0-1", "f", queued["data"])
    subscription = foreign.subscribe("j")
    assert await anext(subscription) == queued["json"][0]
    await foreign.say("XADD", foreign.job_key("j", "log"), whole["json"][-1]["id"], "f", whole["data"])
    await foreign.say("PUBLISH", foreign.job_key("j", "events"), b"\xc1")
    assert [event async for event in subscription] == whole["json"]


async def test_a_hole_on_the_channel_sends_it_to_the_log(foreign: ForeignClient) -> None:
    queued, whole = one("frames", "queued"), one("frames", "several events")
    await foreign.say("XADD", foreign.job_key("j", "log"), "0-1", "f", queued["data"])
    subscription = foreign.subscribe("j")
    assert await anext(subscription) == queued["json"][0]
    await foreign.say("XADD", foreign.job_key("j", "log"), whole["json"][-1]["id"], "f", whole["data"])
    await foreign.say("PUBLISH", foreign.job_key("j", "events"), pack(whole["json"][-1]))
    assert [event async for event in subscription] == whole["json"]


async def test_what_was_never_published_is_found_by_looking_at_the_tail(foreign: ForeignClient) -> None:
    queued, whole = one("frames", "queued"), one("frames", "several events")
    foreign.tail_check = 0.01
    await foreign.say("XADD", foreign.job_key("j", "log"), "0-1", "f", queued["data"])
    subscription = foreign.subscribe("j")
    assert await anext(subscription) == queued["json"][0]
    await foreign.say("XADD", foreign.job_key("j", "log"), whole["json"][-1]["id"], "f", whole["data"])
    assert [event async for event in subscription] == whole["json"]


async def test_it_is_told_that_there_is_no_such_job(foreign: ForeignClient) -> None:
    with pytest.raises(NoSuchJob):
        await anext(foreign.subscribe("never-was"))
    assert await foreign.cancel("never-was", "no reason") == "unknown"


async def test_its_cancelled_job_never_starts(foreign: ForeignClient, start_worker: StartWorker) -> None:
    job_id = await foreign.enqueue("never said")
    assert await foreign.cancel(job_id, "changed my mind") == "cancelled"
    next_job_id = await foreign.enqueue("said")
    await start_worker(
        concurrency=1
    )  # one after the other: when the next one is done, this one has been seen
    assert text_of([event async for event in foreign.subscribe(next_job_id)]) == "said"
    events = [event async for event in foreign.subscribe(job_id)]
    assert [event["type"] for event in events] == ["queued", "cancelled"]
    assert events[-1]["reason"] == "changed my mind"
    assert await foreign.cancel(job_id, "again") == "too late"


async def test_it_ends_a_job_whose_deadline_has_passed(foreign: ForeignClient, producer: Producer) -> None:
    early = await foreign.enqueue("x", deadline=int((time() + 3600) * 1000))
    assert not await foreign.expire(early)
    late = await foreign.enqueue("x", deadline=5)
    assert await foreign.expire(late)
    assert not await foreign.expire(late)
    events = [event async for event in producer.subscribe(late)]
    assert [event.type for event in events] == ["queued", "failed"]
    theirs = await producer.enqueue("x", provider="echo", deadline=-60)
    assert await foreign.expire(theirs.id)
    ours = await foreign.enqueue("x", deadline=5)
    assert [event.type async for event in producer.subscribe(ours)] == ["queued", "failed"]


async def test_it_ends_a_cancelled_job_whose_worker_is_gone_as_cancelled(
    foreign: ForeignClient, producer: Producer, redis: Redis, keys: Keys
) -> None:
    job_id = await foreign.enqueue("x", deadline=5)
    await redis.hset(keys.record(job_id), mapping={"status": "running", "attempt": 7, "number": 1})
    assert await foreign.cancel(job_id, "enough") == "requested"
    assert await foreign.expire(job_id)
    (_, end) = [event async for event in producer.subscribe(job_id)]
    assert isinstance(end, Cancelled)
    assert (end.reason, end.upstream_closed) == ("enough", False)
    assert await redis.exists(keys.cancel(job_id)) == 0


async def test_its_cancel_of_a_delayed_job_keeps_the_record_until_the_job_is_due(
    foreign: ForeignClient, redis: Redis, keys: Keys
) -> None:
    job_id = await foreign.enqueue("never said", delay_ms=4 * WEEK_MS)
    assert await foreign.cancel(job_id, "changed my mind") == "cancelled"
    for key in (keys.log(job_id), keys.record(job_id)):
        assert await redis.pttl(key) > 4 * WEEK_MS


async def test_it_cancels_a_job_whose_answer_streams_as_fast_as_it_can(
    foreign: ForeignClient, start_worker: StartWorker
) -> None:
    job_id = await foreign.enqueue("ab" * 5000, options={"chunk_size": 1, "delay": 0.001})
    await start_worker()
    end = None
    async for end in foreign.subscribe(job_id):
        if end["type"] == "chunk" and id_of(end)[1] == 5:
            assert await foreign.cancel(job_id, "user left") == "requested"
    assert end is not None
    assert end["type"] == "cancelled"


async def test_it_cancels_a_running_job(foreign: ForeignClient, start_worker: StartWorker) -> None:
    job_id = await foreign.enqueue("ab", options={"chunk_size": 1, "delay": 60})
    await start_worker()
    events = []
    async for event in foreign.subscribe(job_id):
        events.append(event)
        if event["type"] == "chunk":
            assert await foreign.cancel(job_id, "user left") == "requested"
    assert text_of(events) == "a"
    assert (events[-1]["type"], events[-1]["reason"], events[-1]["upstream_closed"]) == (
        "cancelled",
        "user left",
        True,
    )


async def test_an_id_of_its_own_is_one_job_however_often_it_is_enqueued(
    foreign: ForeignClient, start_worker: StartWorker
) -> None:
    for _ in range(3):
        await foreign.enqueue("once", id="order-1")
    assert await foreign.say("XLEN", foreign.queue_key("default", "jobs")) == 1
    await start_worker()
    assert text_of([event async for event in foreign.subscribe("order-1")]) == "once"


async def test_it_finishes_what_a_dead_producer_began(
    foreign: ForeignClient, start_worker: StartWorker
) -> None:
    job = {"id": "order-2", "queue": "default", "provider": "echo", "created_at": 0}
    assert await foreign.accept_once(job)  # and here the producer died
    await foreign.enqueue("finished", id="order-2")
    await start_worker()
    assert text_of([event async for event in foreign.subscribe("order-2")]) == "finished"


# -- side by side with this project's own ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("our_id", "their_id"), [(None, None), ("ours", "theirs")], ids=["random id", "own id"]
)
async def test_what_it_leaves_in_redis_is_what_a_producer_leaves(
    foreign: ForeignClient,
    producer: Producer,
    redis: Redis,
    keys: Keys,
    our_id: str | None,
    their_id: str | None,
) -> None:
    ours = (await producer.enqueue("hello", provider="echo", id=our_id)).id
    theirs = await foreign.enqueue("hello", **({"id": their_id} if their_id else {}))
    assert await redis.xrange(keys.log(theirs)) == await redis.xrange(keys.log(ours))
    records = [await redis.hgetall(keys.record(job_id)) for job_id in (ours, theirs)]
    assert all(record.pop(b"created_at").isdigit() for record in records)
    records[0].pop(b"acceptance")  # a token of ours, which others need not have
    no_attempt_yet(records, has_fence=our_id is not None)
    assert records[0] == records[1]
    for key in (keys.log, keys.record):
        lives = [await redis.pttl(key(job_id)) for job_id in (ours, theirs)]
        assert all(WEEK_MS - MINUTE_MS < life <= WEEK_MS for life in lives)
    one_entry, other_entry = await foreign.say("XRANGE", keys.jobs("default"), "-", "+")
    jobs = [msgpack.unpackb(fields[1]) for _, fields in (one_entry, other_entry)]
    assert jobs[0].keys() == jobs[1].keys()


@pytest.mark.parametrize(
    ("our_id", "their_id"), [(None, None), ("ours", "theirs")], ids=["random id", "own id"]
)
async def test_its_delayed_job_is_what_a_producers_is(
    foreign: ForeignClient,
    producer: Producer,
    redis: Redis,
    keys: Keys,
    our_id: str | None,
    their_id: str | None,
) -> None:
    ours = (await producer.enqueue("hello", provider="echo", id=our_id, delay=3600, deadline=7200)).id
    deadline = int((time() + 7200) * 1000)
    fields = {"id": their_id} if their_id else {}
    theirs = await foreign.enqueue("hello", delay_ms=HOUR_MS, deadline=deadline, **fields)
    dues = [
        await redis.zscore(keys.later("default"), body)
        for body in await foreign.say("ZRANGE", keys.later("default"), 0, -1)
    ]
    assert len(dues) == 2
    assert dues[1] - dues[0] < MINUTE_MS
    records = [await redis.hgetall(keys.record(job_id)) for job_id in (ours, theirs)]
    records[0].pop(b"acceptance")
    no_attempt_yet(records, has_fence=our_id is not None)
    for name in (b"due", b"deadline", b"created_at"):
        assert 0 <= int(records[1].pop(name)) - int(records[0].pop(name)) < MINUTE_MS
    assert records[0] == records[1]
    for key in (keys.log, keys.record):
        lives = [await redis.pttl(key(job_id)) for job_id in (ours, theirs)]
        assert all(WEEK_MS + HOUR_MS - MINUTE_MS < life <= WEEK_MS + HOUR_MS for life in lives)


def no_attempt_yet(records: list[dict[bytes, bytes]], *, has_fence: bool) -> None:
    """Where others may know the id, both say what every attempt is above."""
    assert [int(record.pop(b"attempt")) > 0 for record in records] == [has_fence, has_fence]


async def test_a_producer_reads_and_cancels_its_jobs(
    foreign: ForeignClient, producer: Producer, start_worker: StartWorker
) -> None:
    cancelled = await foreign.enqueue("never said")
    assert await producer.cancel(cancelled) is Cancellation.CANCELLED
    assert [event["type"] async for event in foreign.subscribe(cancelled)] == ["queued", "cancelled"]
    job_id = await foreign.enqueue("hi")
    await start_worker()
    events = [event async for event in producer.subscribe(job_id)]
    attempt = events[1].id.partition("-")[0]
    assert events == [
        Queued("0-1", "default"),
        Started(f"{attempt}-0", 1, "echo", "w1", "echo", 0),
        Chunk(f"{attempt}-1", "hi"),
        Done(f"{attempt}-2", "stop", 2),
    ]


async def test_it_reads_and_cancels_a_producers_jobs(
    foreign: ForeignClient, producer: Producer, start_worker: StartWorker
) -> None:
    cancelled = await producer.enqueue("never said", provider="echo")
    assert await foreign.cancel(cancelled.id, "by a stranger") == "cancelled"
    assert (await producer.status(cancelled.id)).status == "cancelled"
    job = await producer.enqueue("hi", provider="echo")
    await start_worker()
    assert text_of([event async for event in foreign.subscribe(job.id)]) == "hi"
