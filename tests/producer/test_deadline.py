"""A deadline ends a job that no worker has: whoever reads it is told in time, and exactly once."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import (
    Cancellation,
    Cancelled,
    Event,
    Failed,
    JobFailed,
    Producer,
    Queued,
    Started,
    Unavailable,
    Waiting,
    expiry,
    subscription,
)
from producer.expiry import expire_job
from producer.status import read_record, server_ms
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNFINISHED_MS
from tests.conftest import StartWorker
from tests.support.gated import Gate, gated_registry
from tests.support.lossy import LosesReplies
from tests.support.scribe import Scribe
from tests.support.servers import Server

SOON = 0.15  # seconds


@pytest.fixture
async def producer(server: Server, prefix: str) -> AsyncIterator[Producer]:
    """One that does not look at the log by itself within a test's time: only the deadline makes it."""
    async with Producer(server.url, prefix=prefix, idle_check=600) as client:
        yield client


async def read_all(producer: Producer, job_id: str) -> list[Event]:
    async with asyncio.timeout(30):
        return [event async for event in producer.subscribe(job_id)]


async def test_a_job_that_no_worker_takes_fails_when_its_deadline_passes(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    """Nobody is left waiting: nobody works, it stays queued, and the deadline still ends it."""
    job = await producer.enqueue("x", provider="echo", deadline=SOON)
    queued, failed = await read_all(producer, job.id)
    assert queued == Queued("0-1", "default")
    message = "the deadline passed while no worker had taken it"
    assert failed == Failed(failed.id, "deadline_exceeded", message, 0)
    assert job.deadline is not None
    status = await producer.status(job.id)
    assert (status.status, status.attempts) == ("failed", 0)
    assert status.finished_at is not None
    assert status.finished_at.timestamp() * 1000 >= job.deadline
    assert await server_ms(redis) - job.deadline < 20_000


@pytest.mark.parametrize("own_id", [None, "mine"])
async def test_the_record_keeps_the_deadline(
    producer: Producer, redis: Redis, keys: Keys, own_id: str | None
) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=60, id=own_id)
    assert await redis.hget(keys.record(job.id), "deadline") == str(job.deadline).encode()
    other = await producer.enqueue("x", provider="echo")
    assert not await redis.hexists(keys.record(other.id), "deadline")


async def test_result_and_stream_are_told_as_well(producer: Producer) -> None:
    for wait in (
        producer.result((await producer.enqueue("x", provider="echo", deadline=SOON)).id),
        anext(producer.stream("x", provider="echo", deadline=SOON)),
    ):
        with pytest.raises(JobFailed) as caught:
            async with asyncio.timeout(30):
                await wait
        assert (caught.value.code, caught.value.attempts) == ("deadline_exceeded", 0)


async def test_a_hundred_readers_see_one_end(producer: Producer, redis: Redis, keys: Keys) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=SOON)
    seen = await asyncio.gather(*(read_all(producer, job.id) for _ in range(100)))
    assert all(events == seen[0] for events in seen)
    assert [event.type for event in seen[0]] == ["queued", "failed"]
    assert await redis.xlen(keys.log(job.id)) == 2


async def test_a_reader_that_comes_after_the_deadline_ends_it_at_once(producer: Producer) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=-60)
    assert [event.type for event in await read_all(producer, job.id)] == ["queued", "failed"]


async def test_a_delayed_job_fails_before_it_is_due(producer: Producer, redis: Redis, keys: Keys) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=SOON, delay=86_400)
    assert [event.type for event in await read_all(producer, job.id)] == ["queued", "failed"]
    for key in (keys.log(job.id), keys.record(job.id)):  # until a worker meets its bytes in `later`
        assert await redis.pttl(key) > UNFINISHED_MS


async def test_a_job_that_waits_for_another_attempt_fails_with_its_attempts_counted(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=SOON)
    attempt = 4_000_000_000_000  # ahead of the clock: what comes after it must be above it all the same
    scribe = Scribe(redis, keys, job.id)
    await scribe.write(Started(f"{attempt}-0", 2, "echo", "w1"), Waiting(f"{attempt}-1", 0, "retry"))
    waiting = {"status": "waiting", "attempt": attempt, "number": 2}
    await redis.hset(keys.record(job.id), mapping=waiting)
    events = await read_all(producer, job.id)
    message = "the deadline passed while it waited for another attempt"
    assert events[-1] == Failed(f"{attempt + 1}-0", "deadline_exceeded", message, 2)


async def test_a_running_job_is_left_to_its_worker(producer: Producer, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated", deadline=3600)
    await gate.first_chunk_out.wait()
    now_ms = time.time_ns() // 1_000_000
    await producer._link.ask(lambda redis: redis.hset(producer._keys.record(job.id), "deadline", now_ms))
    assert not await expire_job(producer._link, producer._keys, job.id)
    reading = asyncio.create_task(read_all(producer, job.id))
    gate.open.set()
    assert (await reading)[-1].type == "done"


async def test_a_running_job_whose_worker_is_gone_is_ended(
    producer: Producer, start_worker: StartWorker
) -> None:
    """A worker that lives would have ended it ten seconds ago."""
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated", deadline=3600)
    await gate.first_chunk_out.wait()
    long_ago = time.time_ns() // 1_000_000 - 10_001
    await producer._link.ask(lambda redis: redis.hset(producer._keys.record(job.id), "deadline", long_ago))
    assert await expire_job(producer._link, producer._keys, job.id)
    end = (await read_all(producer, job.id))[-1]
    assert isinstance(end, Failed)
    assert (end.code, end.attempts) == ("deadline_exceeded", 1)


@pytest.mark.parametrize("lost", [set(), {1}, {2}, {1, 2}], ids=str)
async def test_a_job_that_was_cancelled_and_whose_worker_is_gone_ends_as_cancelled(
    producer: Producer, redis: Redis, keys: Keys, lost: set[int]
) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=-60)
    await redis.hset(keys.record(job.id), mapping={"status": "running", "attempt": 5, "number": 1})
    assert await producer.cancel(job.id, reason="enough") is Cancellation.REQUESTED
    producer._link._scripts = LosesReplies(producer._link._scripts, lost)  # type: ignore[assignment]
    _, end = await read_all(producer, job.id)
    assert isinstance(end, Cancelled)
    assert (end.reason, end.upstream_closed) == ("enough", False)  # who ran it was not heard of since
    assert (await producer.status(job.id)).status == "cancelled"
    assert await redis.exists(keys.cancel(job.id)) == 0


async def test_what_is_not_due_or_has_ended_or_is_unknown_is_left_alone(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    early = await producer.enqueue("x", provider="echo", deadline=3600)
    never = await producer.enqueue("x", provider="echo")
    ended = await producer.enqueue("x", provider="echo", deadline=-60)
    assert await producer.cancel(ended.id) is Cancellation.CANCELLED
    for job_id in (early.id, never.id, ended.id, "nobody"):
        before = await redis.hgetall(keys.record(job_id))
        assert not await expire_job(producer._link, keys, job_id)
        assert await redis.hgetall(keys.record(job_id)) == before
        assert await redis.xlen(keys.log(job_id)) == {ended.id: 2, "nobody": 0}.get(job_id, 1)


async def test_a_lost_reply_ends_it_once(producer: Producer, redis: Redis, keys: Keys) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=-60)
    producer._link._scripts = LosesReplies(producer._link._scripts, {1})  # type: ignore[assignment]
    assert [event.type for event in await read_all(producer, job.id)] == ["queued", "failed"]
    assert await redis.xlen(keys.log(job.id)) == 2


async def test_an_attempt_that_a_worker_made_meanwhile_is_counted(
    producer: Producer, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await producer.enqueue("x", provider="echo", deadline=-60)
    looks = 0

    async def look_and_be_overtaken(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        looked = await read_record(*arguments)
        if looks == 1:
            attempt = {"status": "waiting", "attempt": 5, "number": 1}
            await redis.hset(keys.record(job.id), mapping=attempt)
        return looked

    monkeypatch.setattr(expiry, "read_record", look_and_be_overtaken)
    events = await read_all(producer, job.id)
    assert isinstance(events[-1], Failed)
    assert (events[-1].attempts, looks) == (1, 2)


async def test_its_entry_is_settled_without_asking_a_provider(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="gated", deadline=-60)
    events = await read_all(producer, job.id)
    assert await redis.pttl(keys.record(job.id)) > UNFINISHED_MS - 60_000
    gate = Gate()
    gate.open.set()
    worker = await start_worker(gated_registry(gate), retention=60)
    await producer.result((await producer.enqueue("after", provider="gated")).id)
    await worker.idle()
    assert gate.calls == 1
    assert await redis.xlen(keys.jobs("default")) == 0
    assert await redis.pttl(keys.record(job.id)) <= 60_000
    assert await read_all(producer, job.id) == events


async def test_a_cancel_and_a_deadline_at_once_make_one_end(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    for _ in range(20):
        job = await producer.enqueue("x", provider="echo", deadline=-60)
        cancelled, expired = await asyncio.gather(
            producer.cancel(job.id), expire_job(producer._link, keys, job.id)
        )
        assert (cancelled is Cancellation.CANCELLED) is not expired
        assert await redis.xlen(keys.log(job.id)) == 2


async def test_events_before_the_deadline_come_as_they_are_written(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    """The deadline makes a reader look, it does not make it look again and again."""
    job = await producer.enqueue("x", provider="echo", deadline=3600)
    reader = producer.subscribe(job.id)
    assert (await anext(reader)).type == "queued"
    await Scribe(redis, keys, job.id).write(Started("5-0", 1, "echo", "w1"))
    assert (await anext(reader)).type == "started"


async def test_a_reader_that_may_not_write_waits_on(
    producer: Producer, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = asyncio.Event()

    async def refused(*_: object) -> bool:
        asked.set()
        raise Unavailable("NOPERM")

    monkeypatch.setattr(subscription, "expire_job", refused)
    job = await producer.enqueue("x", provider="echo", deadline=SOON)
    reading = asyncio.create_task(read_all(producer, job.id))
    await asked.wait()
    assert await expire_job(producer._link, keys, job.id)  # by another reader
    assert [event.type for event in await reading] == ["queued", "failed"]
