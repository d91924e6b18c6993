"""G8: Redis dies and comes back, with all it acknowledged or without its last second. What is missing is said again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from producer import Cancellation, Chunk, Producer, Started
from producer.connection import Line, Url, connect
from producer.connection.tasks import end
from producer.wire.keys import GROUP, Keys
from tests.support.facts import until
from tests.support.gated import Gate, gated_registry
from tests.support.transcripts import events_of
from tests.worker.test_fence import claimed, done, started
from worker import writer as writer_module
from worker.entry_reader import EntryReader
from worker.event_log import EventLog
from worker.holdings import Holdings
from worker.outcome import NothingToDo
from worker.queue import Claim, Claimed, NotClaimed, Queue
from worker.settings import Settings
from worker.verify.servers import OwnServer
from worker.worker import Worker
from worker.writer import Writer


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    async with OwnServer() as server:
        yield server


@pytest.fixture
async def producer(own: OwnServer, prefix: str) -> AsyncIterator[Producer]:
    async with Producer(own.url, prefix=prefix) as client:
        yield client


class Parts:
    """A worker's parts, over connections that are made anew after a restart."""

    def __init__(self, own: OwnServer, keys: Keys, writer: Writer, reader: EntryReader, queue: Queue) -> None:
        self.own, self.keys = own, keys
        self.writer, self.reader, self.queue = writer, reader, queue
        self.log = EventLog(writer, keys)


@pytest.fixture
async def parts(own: OwnServer, keys: Keys) -> AsyncIterator[Parts]:
    settings = Settings(redis_url=own.url, name="w1", consumer_suffix="x", poll=0.02)
    holdings = Holdings("w1:x")
    blocking, writing = Line(Url(own.url), 5), Line(Url(own.url), 5)
    with contextlib.closing(blocking), contextlib.closing(writing):
        writer = Writer(writing, 5)
        running = asyncio.create_task(writer.run())
        reader = EntryReader(blocking, keys, holdings, settings)
        yield Parts(own, keys, writer, reader, Queue(writer, keys, holdings, settings))
        assert not running.done(), "the writer broke"
        await end(running)


StartOwnWorker = Callable[..., Awaitable[None]]


@pytest.fixture
async def start_own_worker(own: OwnServer, prefix: str) -> AsyncIterator[StartOwnWorker]:
    started: list[tuple[Worker, asyncio.Task[None]]] = []

    async def start(gate: Gate, name: str, *, lease: float) -> None:
        times = {"lease": lease, "sweep": lease / 4, "poll": 0.02}
        worker = Worker(Settings(redis_url=own.url, prefix=prefix, name=name, **times), gated_registry(gate))
        started.append((worker, asyncio.create_task(worker.run())))

    yield start
    for worker, _ in started:
        worker.stop()
    await asyncio.gather(*(run for _, run in started))


@contextlib.asynccontextmanager
async def restarted(own: OwnServer, *, without_what_came_after: int | None = None) -> AsyncIterator[None]:
    """Inside, the server is dead; then it is back, maybe without the end of its file."""
    own.kill()
    if without_what_came_after is not None:
        own.lose_since(without_what_came_after)
    yield
    await own.start()


async def test_frames_that_a_restart_lost_are_written_again_once_and_in_their_order(
    parts: Parts, producer: Producer
) -> None:
    entry, attempt = await claimed(parts.queue, parts.reader, producer)
    parts.log.append(attempt, started(attempt))
    await parts.log.flush(attempt)
    size = parts.own.file_size()
    for text in ("one ", "two "):
        parts.log.append(attempt, Chunk(attempt.next_id(), text))
        await parts.log.flush(attempt)
    async with restarted(parts.own, without_what_came_after=size):
        parts.log.append(attempt, Chunk(attempt.next_id(), "three"))
    await parts.log.finish(attempt, done(attempt))
    await parts.queue.settle(entry)
    events = await events_of(producer, "j")
    assert [event.id for event in events] == ["0-1", *(f"{attempt.id}-{seq}" for seq in range(5))]
    assert [event.text for event in events if isinstance(event, Chunk)] == ["one ", "two ", "three"]


async def test_a_claim_that_a_restart_lost_is_restored_with_its_fence(
    parts: Parts, producer: Producer
) -> None:
    await parts.reader.open()
    await producer.enqueue("x", provider="echo", id="j")
    size = parts.own.file_size()
    _, attempt = await claimed(parts.queue, parts.reader, producer)  # the same id is the same job
    parts.log.append(attempt, started(attempt))
    await parts.log.flush(attempt)
    async with restarted(parts.own, without_what_came_after=size):
        pass
    assert (await producer.status("j")).status == "queued"  # forgotten, indeed
    parts.log.append(attempt, Chunk(attempt.next_id(), "text"))
    await parts.log.flush(attempt)
    status = await producer.status("j")
    assert (status.status, status.attempts, status.worker) == ("running", 1, "w1")
    await parts.log.finish(attempt, done(attempt))
    assert [event.type for event in await events_of(producer, "j")] == ["queued", "started", "chunk", "done"]


async def test_an_end_that_a_restart_lost_comes_again_and_its_entry_is_left_to_whoever_reclaims_it(
    parts: Parts, producer: Producer
) -> None:
    await ended_and_forgotten(parts, producer)
    await parts.queue.renew()  # the next thing that a worker says, at the latest
    assert [event.type for event in await events_of(producer, "j")] == ["queued", "started", "done"]
    assert await reclaimed_and_claimed(parts) == NothingToDo()


async def test_a_job_that_is_cancelled_before_its_lost_end_comes_again_ends_all_the_same(
    parts: Parts, producer: Producer
) -> None:
    await ended_and_forgotten(parts, producer)
    assert await producer.cancel("j") is Cancellation.REQUESTED
    await parts.queue.renew()
    again = await reclaimed_and_claimed(parts)
    assert isinstance(again, Claimed)
    assert again.cancel_reason == "requested"


async def ended_and_forgotten(parts: Parts, producer: Producer) -> None:
    """A job has ended, its entry is settled, and the server does not know it any more."""
    entry, attempt = await claimed(parts.queue, parts.reader, producer)
    parts.log.append(attempt, started(attempt))
    await parts.log.flush(attempt)
    size = parts.own.file_size()
    await parts.log.finish(attempt, done(attempt))
    await parts.queue.settle(entry)
    async with restarted(parts.own, without_what_came_after=size):
        pass
    assert (await producer.status("j")).status == "running"
    assert (await producer.queues())[0].in_flight == 1


async def reclaimed_and_claimed(parts: Parts) -> Claimed | NotClaimed:
    """What somebody finds who reclaims the entry when its lease is over."""
    settings = Settings(redis_url=parts.own.url, name="w2", consumer_suffix="y", lease=0.001)
    theirs = Queue(parts.writer, parts.keys, Holdings("w2:y"), settings)
    async with asyncio.timeout(10):
        while not (entries := (await theirs.reclaim("default", "0-0", 1))[1]):
            pass
    return await theirs.claim(entries[0], Claim("j", created_at=0))


async def test_after_a_restart_that_lost_nothing_nothing_is_doubled(parts: Parts, producer: Producer) -> None:
    entry, attempt = await claimed(parts.queue, parts.reader, producer)
    parts.log.append(attempt, started(attempt))
    await parts.log.flush(attempt)
    for _ in range(3):
        async with restarted(parts.own):
            parts.log.append(attempt, Chunk(attempt.next_id(), "x"))
        await parts.log.flush(attempt)
    await parts.log.finish(attempt, done(attempt))
    await parts.queue.settle(entry)
    async with restarted(parts.own):
        pass
    await parts.queue.renew()
    assert [event.id for event in await events_of(producer, "j")] == [
        "0-1",
        *(f"{attempt.id}-{seq}" for seq in range(5)),
    ]
    async with connect(Url(parts.own.url), connect_timeout=5) as redis:
        assert await redis.xlen(parts.keys.log("j")) == 6
        assert (await redis.xpending(parts.keys.jobs("default"), GROUP))["pending"] == 0


async def test_an_answer_under_way_while_redis_is_away_is_finished_in_the_same_attempt(
    own: OwnServer,
    producer: Producer,
    start_own_worker: StartOwnWorker,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(writer_module, "_LONGEST_PAUSE", 0.1)  # well below the lease, as it is by default
    gate = Gate()
    lease = 0.6
    for name in ("a", "b"):
        await start_own_worker(gate, name, lease=lease)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await until(lambda: _has_text(producer, job.id))
    size = own.file_size()
    async with restarted(own, without_what_came_after=size - 1):  # the last command is in it by half
        gate.open.set()
        await asyncio.sleep(2 * lease)  # so long is the outage: all leases are over
    assert (await producer.result(job.id)).text == "one two"
    assert [type(event) for event in await events_of(producer, job.id)].count(Started) == 1
    assert gate.calls == 1


async def _has_text(producer: Producer, job_id: str) -> bool:
    async for event in producer.subscribe(job_id):
        if isinstance(event, Chunk):
            break
    return True


async def test_a_job_whose_handing_over_a_restart_lost_is_answered_to_its_end(
    own: OwnServer, producer: Producer, start_own_worker: StartOwnWorker
) -> None:
    """G1, G4: whoever gets it then; and the answer is one answer."""
    gate = Gate()
    for name in ("a", "b"):
        await start_own_worker(gate, name, lease=0.9)
    await until(lambda: _is_ready(producer))  # before the point that is gone back to
    job = await producer.enqueue("x", provider="gated")
    size = own.file_size()
    await gate.first_chunk_out.wait()
    await until(lambda: _has_text(producer, job.id))
    async with restarted(own, without_what_came_after=size):
        gate.open.set()
    assert (await producer.result(job.id)).text == "one two"
    events = await events_of(producer, job.id)
    assert [event.type for event in events].count("done") == 1
    await until(lambda: _is_settled(producer))


async def _is_ready(producer: Producer) -> bool:
    return any(queue.workers == 2 for queue in await producer.queues())


async def _is_settled(producer: Producer) -> bool:
    (queue,) = await producer.queues()
    return (queue.length, queue.in_flight) == (0, 0)
