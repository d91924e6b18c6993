"""What `queues` counts: an entry waits or is in flight, and never both; one that was released waits."""

import asyncio

import pytest
from redis.asyncio import Redis

from producer import Producer
from producer.wire.keys import GROUP, NOBODY, Keys
from tests.conftest import StartWorker
from tests.support.gated import Gate, gated_registry
from tests.support.processes import PATIENCE


@pytest.fixture
async def claimed(producer: Producer, redis: Redis, keys: Keys) -> list[bytes]:
    """Five jobs, of which w1 has claimed two and w2 one: their entries."""
    for text in "abcde":
        await producer.enqueue(text, provider="echo")
    jobs = keys.jobs("default")
    await redis.xgroup_create(jobs, GROUP, id="0")
    for worker, count in (("w1", 2), ("w2", 1)):
        await redis.xreadgroup(GROUP, worker, {jobs: ">"}, count=count)
    return [entry for entry, _ in await redis.xrange(jobs)]


async def counts(producer: Producer) -> tuple[int, int]:
    (queue,) = await producer.queues()
    return queue.length, queue.in_flight


async def test_what_workers_hold_is_in_flight_and_the_rest_waits(
    producer: Producer, claimed: list[bytes]
) -> None:
    assert await counts(producer) == (2, 3)


async def test_what_was_released_waits_until_it_is_reclaimed(
    producer: Producer, claimed: list[bytes], redis: Redis, keys: Keys
) -> None:
    jobs = keys.jobs("default")
    for released, told in ((1, (3, 2)), (2, (4, 1)), (3, (5, 0))):
        await redis.xclaim(jobs, GROUP, NOBODY, 0, [claimed[released - 1]], justid=True)
        assert await counts(producer) == told
    await redis.xclaim(jobs, GROUP, "w3", 0, [claimed[0]], justid=True)
    assert await counts(producer) == (4, 1)


async def test_what_was_settled_is_in_neither_count(
    producer: Producer, claimed: list[bytes], redis: Redis, keys: Keys
) -> None:
    jobs = keys.jobs("default")
    await redis.xack(jobs, GROUP, claimed[0])
    await redis.xdel(jobs, claimed[0])
    assert await counts(producer) == (2, 2)


async def test_other_groups_and_deleted_bodies_make_no_count_wrong(
    producer: Producer, claimed: list[bytes], redis: Redis, keys: Keys
) -> None:
    jobs = keys.jobs("default")
    await redis.xgroup_create(jobs, "onlookers", id="0")
    await redis.xreadgroup("onlookers", "o1", {jobs: ">"})
    assert await counts(producer) == (2, 3)
    await redis.xdel(jobs, *claimed)
    (queue,) = await producer.queues()
    assert (queue.length, queue.in_flight, queue.oldest_age) == (0, 3, None)


async def test_a_queue_that_no_worker_has_seen_has_nothing_in_flight(producer: Producer) -> None:
    await producer.enqueue("x", provider="echo")
    assert await counts(producer) == (1, 0)


async def test_the_oldest_age_is_the_oldest_entry_s_by_the_server_s_clock(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    seconds, _ = await redis.time()
    for age in (90, 60):
        await redis.xadd(keys.jobs("old"), {"job": b"x"}, id=f"{(seconds - age) * 1000}-0")
    (queue,) = await producer.queues()
    assert queue.oldest_age is not None
    assert 90 <= queue.oldest_age < 95


async def test_a_worker_that_is_stopped_at_once_leaves_its_job_waiting(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    worker = await start_worker(gated_registry(gate), grace=0)
    job = await producer.enqueue("x", model="gated-model")
    await gate.first_chunk_out.wait()
    assert await counts(producer) == (0, 1)
    worker.stop()
    async for event in producer.subscribe(job.id):
        if event.type == "waiting":
            break
    async with asyncio.timeout(PATIENCE):
        while (told := await counts(producer)) == (0, 1):  # the event is written before the entry is released
            pass
    assert told == (1, 0)
