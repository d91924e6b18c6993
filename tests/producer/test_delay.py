"""What `enqueue` writes for a job that is not due yet; workers take it up when it is."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import Cancellation, Producer, QueueFull
from producer.status import server_ms
from producer.wire.codec import unpack_map
from producer.wire.job import Job
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNFINISHED_MS
from tests.support.servers import Server
from tests.wire.vectors import one


async def later(redis: Redis, keys: Keys, queue: str = "default") -> list[tuple[Job, float]]:
    """What is not due yet, with its instant, the earliest first."""
    found = await redis.zrange(keys.later(queue), 0, -1, withscores=True)
    return [(Job.decode(body), score) for body, score in found]


@pytest.mark.parametrize("own_id", [None, "mine"])
@pytest.mark.parametrize(("delay", "ms"), [(90, 90_000), (0.25, 250), (timedelta(days=30), 2_592_000_000)])
async def test_a_delay_counts_from_now_by_the_clock_of_the_server(
    producer: Producer, redis: Redis, keys: Keys, delay: Any, ms: int, own_id: str | None
) -> None:
    before = await server_ms(redis)
    job = await producer.enqueue("x", provider="echo", delay=delay, id=own_id)
    after = await server_ms(redis)
    ((queued, due),) = await later(redis, keys)
    assert queued == job
    assert before + ms <= due <= after + ms
    assert await redis.xlen(keys.jobs("default")) == 0


async def test_an_instant_is_kept_to_the_millisecond(producer: Producer, redis: Redis, keys: Keys) -> None:
    at = datetime(2099, 3, 4, 5, 6, 7, 891_000, tzinfo=timezone(timedelta(hours=2)))
    job = await producer.enqueue("x", provider="echo", at=at)
    assert await later(redis, keys) == [(job, at.timestamp() * 1000)]
    assert (await producer.status(job.id)).due == at


@pytest.mark.parametrize("when", [{"at": datetime(1999, 1, 1, tzinfo=UTC)}, {"delay": 0}, {"delay": None}])
async def test_what_is_due_already_is_queued_at_once(
    producer: Producer, redis: Redis, keys: Keys, when: Any
) -> None:
    job = await producer.enqueue("x", provider="echo", **when)
    assert await redis.xlen(keys.jobs("default")) == 1
    assert await redis.exists(keys.later("default")) == 0
    assert (await producer.status(job.id)).due is None
    assert not await redis.hexists(keys.record(job.id), "due")


async def test_a_delayed_job_is_queued_and_says_until_when(producer: Producer, redis: Redis) -> None:
    before = datetime.fromtimestamp(await server_ms(redis) / 1000, UTC)
    job = await producer.enqueue("x", provider="echo", delay=3600)
    status = await producer.status(job.id)
    assert status.status == "queued"
    assert status.due is not None
    assert timedelta(hours=1) <= status.due - before < timedelta(hours=1, minutes=1)
    assert (await anext(producer.subscribe(job.id))).type == "queued"


async def test_an_ended_job_is_no_longer_due(producer: Producer) -> None:
    job = await producer.enqueue("x", provider="echo", delay=3600)
    assert await producer.cancel(job.id) is Cancellation.CANCELLED
    assert (await producer.status(job.id)).due is None


@pytest.mark.parametrize("own_id", [None, "mine"])
async def test_log_and_record_outlive_the_delay(
    producer: Producer, redis: Redis, keys: Keys, own_id: str | None
) -> None:
    month_ms = 30 * 24 * 3_600_000
    job = await producer.enqueue("x", provider="echo", delay=timedelta(days=30), id=own_id)
    for key in (keys.log(job.id), keys.record(job.id)):
        assert month_ms + UNFINISHED_MS - 60_000 < await redis.pttl(key) <= month_ms + UNFINISHED_MS


async def test_a_delayed_job_under_an_own_id_is_one_job(producer: Producer, redis: Redis, keys: Keys) -> None:
    for _ in range(3):
        await producer.enqueue("x", provider="echo", id="mine", delay=60)
    assert len(await later(redis, keys)) == 1


async def test_workers_are_told_of_a_job_that_is_due_before_all_others(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    async with redis.pubsub() as ears:
        await ears.subscribe(keys.control("default"))
        assert (await ears.get_message(timeout=5))["type"] == "subscribe"
        for delay in (60, 90, 30, 45):
            await producer.enqueue("x", provider="echo", delay=delay)
        await redis.publish(keys.control("default"), "the end")
        heard = []
        while not heard or heard[-1] != b"the end":
            message = await ears.get_message(timeout=5)
            heard.append(message["data"])
    first, then, _ = heard  # the one of 60 s, and the one of 30 s
    assert first == then == one("control", "later")["data"]
    assert unpack_map(first, max_bytes=100) == {"type": "later"}


async def test_the_bound_counts_what_is_not_due_yet(
    server: Server, prefix: str, redis: Redis, keys: Keys
) -> None:
    async with Producer(server.url, prefix=prefix, max_queue_length=2) as producer:
        await producer.enqueue("1", provider="echo", delay=60)
        await producer.enqueue("2", provider="echo")
        for when in ({"delay": 5}, {}):
            with pytest.raises(QueueFull) as caught:
                await producer.enqueue("3", provider="echo", **when)  # type: ignore[arg-type]
            assert caught.value.length == 2
        assert len(await later(redis, keys)) == await redis.xlen(keys.jobs("default")) == 1


async def test_a_queue_full_of_delayed_jobs_says_when_the_first_is_due(server: Server, prefix: str) -> None:
    async with Producer(server.url, prefix=prefix, max_queue_length=2) as producer:
        await producer.enqueue("1", provider="echo", delay=600)
        await producer.enqueue("2", provider="echo", delay=20)
        with pytest.raises(QueueFull) as caught:
            await producer.enqueue("3", provider="echo")
        assert 10 < caught.value.retry_after <= 20
