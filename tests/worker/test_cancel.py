"""A cancel finds its job between two attempts as well: waiting, due, or about to be put off."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from producer import Cancellation, Producer
from producer.connection.tasks import end
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.facts import until
from tests.support.rival import Rival
from tests.support.scripted import Scripted, registry
from tests.support.transcripts import PATIENCE, transcript, until_it_waits
from worker import cancellations as cancellations_module
from worker.cancellations import Cancellations
from worker.providers.errors import Broken, Cut, ProviderError, RateLimited, Unauthorized
from worker.settings import Settings


async def test_marks_that_could_not_be_looked_at_are_looked_at_again_soon(
    redis: Redis, keys: Keys, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    seldom = settings.model_copy(update={"check": 3600.0})
    cancellations, looks = Cancellations(redis, keys, seldom), asyncio.Queue[int]()

    async def check() -> None:
        looks.put_nowait(looks.qsize())
        if looks.qsize() == 1:
            raise RedisConnectionError("gone")

    monkeypatch.setattr(cancellations, "check", check)
    monkeypatch.setattr(cancellations_module, "_REST", 0.0)
    running = asyncio.create_task(cancellations.run())
    cancellations.suspect()
    await until(lambda: looks.qsize() == 2)
    await end(running)


async def test_a_job_that_waits_for_its_retry_ends_at_once_and_its_entry_is_settled_when_it_is_due(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.retry._SPREAD", 0.0)
    monkeypatch.setattr("worker.retry._SPREAD", 0.0)
    provider = Scripted("a", [RateLimited("429", retry_after=1.5)], ["never said"])
    other = Scripted("b", ["whole"])
    worker = await start_worker(registry(provider, other), retention=60.0)
    job = await producer.enqueue("x", provider="a")
    waiting = await until_it_waits(producer, job.id)
    assert await producer.cancel(job.id, reason="enough") is Cancellation.CANCELLED
    words = ["queued", "started 1 a", "waiting rate_limited", "cancelled enough"]
    assert await transcript(producer, job.id) == words
    # When one that is due after it is done, it was met.
    after = datetime.fromtimestamp(waiting.until / 1000, UTC) + timedelta(milliseconds=50)
    last = await producer.enqueue("x", provider="b", at=after)
    await producer.result(last.id)
    await worker.idle()
    assert len(provider.calls) == 1
    assert await redis.exists(keys.later("default")) == 0
    assert await redis.xlen(keys.jobs("default")) == 0
    assert await transcript(producer, job.id) == words
    assert 0 < await redis.pttl(keys.record(job.id)) <= 60_000


@pytest.mark.parametrize(
    "ends",
    [Broken("500"), Cut("gone"), RateLimited("429", retry_after=60.0), Unauthorized("no key")],
    ids=lambda error: type(error).__name__,
)
async def test_a_cancel_that_was_promised_wins_over_whatever_follows_from_a_failure(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, ends: ProviderError
) -> None:
    """The hint got lost; the mark is found when the attempt's end is written."""
    fails = asyncio.Event()
    provider = Scripted("a", ["half ", fails, ends], ["never said"])
    worker = await start_worker(registry(provider), check=3600.0)
    job = await producer.enqueue("x", provider="a")
    async with asyncio.timeout(PATIENCE):
        await provider.waits.wait()
    await redis.set(keys.cancel(job.id), "promised", px=60_000)
    fails.set()
    words = ["queued", "started 1 a", "+half ", "cancelled promised"]
    assert await transcript(producer, job.id) == words
    await worker.idle()
    assert len(provider.calls) == 1
    assert await producer.dead() == []
    assert await redis.exists(keys.later("default"), keys.cancel(job.id)) == 0
    assert await redis.xlen(keys.jobs("default")) == 0


async def test_a_cancel_that_a_killed_worker_never_saw_is_seen_by_the_one_that_reclaims(
    producer: Producer, start_worker: StartWorker, rival: Rival
) -> None:
    job = await producer.enqueue("x", provider="a")
    entry = await rival.take()
    await rival.answer(await rival.own(entry), "half ")
    rival.die(entry)
    assert await producer.cancel(job.id, reason="enough") is Cancellation.REQUESTED
    provider = Scripted("a", ["never said"])
    await start_worker(registry(provider), lease=0.05, sweep=0.02)
    assert await transcript(producer, job.id) == ["queued", "started 1 rival", "+half ", "cancelled enough"]
    assert provider.calls == []


async def test_a_cancel_while_the_job_waits_for_a_place_ends_it_and_it_is_never_asked(
    producer: Producer, start_worker: StartWorker
) -> None:
    busy = asyncio.Event()
    provider = Scripted("a", ["one", busy], ["never said"], concurrency=1)
    await start_worker(registry(provider))
    first = await producer.enqueue("x", provider="a")
    async with asyncio.timeout(PATIENCE):
        await provider.waits.wait()
        second = await producer.enqueue("y", provider="a")
        while (await producer.status(second.id)).status == "queued":
            await producer.queues()  # until it is claimed; then it can only wait for the place
    assert await producer.cancel(second.id, reason="enough") is Cancellation.REQUESTED
    assert await transcript(producer, second.id) == ["queued", "cancelled enough"]
    busy.set()
    assert (await producer.result(first.id)).text == "one"
    assert len(provider.calls) == 1
