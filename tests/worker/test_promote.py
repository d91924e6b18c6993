"""Delayed jobs: each starts when it is due, by the clock of Redis; nobody polls for it, and nobody doubles it."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from producer import Producer, Started
from producer.status import server_ms
from producer.wire.job import Job
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.facts import until
from tests.support.gated import Gate, gated_registry
from tests.worker.conftest import MakeUpkeep
from worker import queue as queue_module
from worker.entry_reader import EntryReader
from worker.queue import Queue
from worker.settings import Settings
from worker.writer import Writer

LONG = 600.0  # seconds: who sweeps so seldom finds nothing by chance


async def due_of(redis: Redis, keys: Keys, job: Job) -> float:
    due = await redis.zscore(keys.later(job.queue), job.encode())
    assert due is not None
    return float(due)


async def start_of(producer: Producer, job_id: str) -> int:
    """The server's time at the claim of the only attempt, in ms."""
    (started,) = [event async for event in producer.subscribe(job_id) if isinstance(event, Started)]
    return int(started.id.partition("-")[0])


async def test_a_delayed_job_starts_when_it_is_due_and_not_before(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """To within a few milliseconds, wherever the machine lets it: so the best of some is looked at."""
    await start_worker(sweep=LONG)
    late = []
    for _ in range(6):
        job = await producer.enqueue("x", provider="echo", delay=0.6)
        due = await due_of(redis, keys, job)
        late.append(await start_of(producer, job.id) - due)
    assert min(late) >= 0
    assert min(late) < 100


async def test_a_job_that_was_delayed_before_any_worker_came_starts_when_it_is_due(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    past, soon = [await producer.enqueue("x", provider="echo", delay=delay) for delay in (0.001, 0.4)]
    due = await due_of(redis, keys, soon)
    await until(lambda: _is_past(redis, past.created_at + 10))
    await start_worker(sweep=LONG)
    assert (await producer.result(past.id)).text == "x"
    assert await start_of(producer, soon.id) >= due


async def _is_past(redis: Redis, instant_ms: float) -> bool:
    return await server_ms(redis) > instant_ms


async def test_a_job_that_is_due_sooner_than_the_next_shortens_the_sleep(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await start_worker(sweep=LONG)
    first = await producer.enqueue("x", provider="echo", delay=0.1)
    await producer.result(first.id)  # the worker has looked, and sleeps
    far = await producer.enqueue("x", provider="echo", delay=3600)
    near = await producer.enqueue("x", provider="echo", delay=0.3)
    due = await due_of(redis, keys, near)
    assert due <= await start_of(producer, near.id) < due + 2000
    assert (await producer.status(far.id)).status == "queued"


async def test_several_jobs_that_are_due_at_once_all_start(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than one script moves at a time."""
    monkeypatch.setattr(queue_module, "_PROMOTED_AT_ONCE", (5, 1024))
    await start_worker(sweep=LONG)
    at = datetime.fromtimestamp(await server_ms(redis) / 1000, UTC) + timedelta(seconds=0.5)
    jobs = [await producer.enqueue(str(i), provider="echo", at=at) for i in range(12)]
    assert [(await producer.result(job.id)).text for job in jobs] == [str(i) for i in range(12)]
    assert await redis.zcard(keys.later("default")) == 0


async def test_several_workers_promote_no_job_twice(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    gate.open.set()
    for name in ("w1", "w2", "w3"):
        await start_worker(gated_registry(gate), sweep=0.05, name=name)
    jobs = [await producer.enqueue("x", provider="gated", delay=0.2 + i % 5 / 100) for i in range(15)]
    for job in jobs:
        assert (await producer.result(job.id)).text == "one two"
        await start_of(producer, job.id)  # asserts that there is only one
    assert gate.calls == 15


async def test_each_queue_of_a_worker_has_its_delayed_jobs(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker(queues=("a", "b", "c"), sweep=LONG)
    await producer.enqueue("far", provider="echo", queue="c", delay=3600)
    jobs = [await producer.enqueue(queue, provider="echo", queue=queue, delay=0.1) for queue in "abab"]
    assert [(await producer.result(job.id)).text for job in jobs] == list("abab")


@pytest.mark.interpreted
async def test_nobody_polls_while_a_delayed_job_waits(
    upkeep_of: MakeUpkeep,
    reader: EntryReader,
    producer: Producer,
    redis: Redis,
    keys: Keys,
    writer: Writer,
    settings: Settings,
) -> None:
    """A look at the start, one when it is due, and maybe one that was a hair too early."""
    looks = 0

    class Counting(Queue):
        async def promote(self, queue: str) -> float | None:
            nonlocal looks
            looks += 1
            return await super().promote(queue)

    await producer.enqueue("x", provider="echo", delay=0.5)
    upkeep = upkeep_of(None, queue=Counting(writer, keys, reader._holdings, settings), sweep=LONG)
    promoting = asyncio.create_task(upkeep.promote())
    await until(lambda: redis.xlen(keys.jobs("default")))
    assert looks <= 4
    promoting.cancel()
    await asyncio.wait([promoting])
