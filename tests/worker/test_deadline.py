"""A deadline ends a job wherever it stands: before it is asked, while it is answered, before it is tried again."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from redis.asyncio import Redis

from producer import Failed, Producer, Started
from producer.status import server_ms
from producer.wire.events import EventId
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.rival import Rival
from tests.support.scripted import Scripted, registry
from tests.support.transcripts import PATIENCE, events_of, in_words, transcript
from worker.providers.base import Reasoning
from worker.providers.errors import Broken, ProviderError, RateLimited

SOON = 1.5  # seconds: longer than a worker takes to begin a job


async def passed(redis: Redis, instant_ms: int | None) -> None:
    """Wait until the server's clock has passed an instant."""
    assert instant_ms is not None
    async with asyncio.timeout(PATIENCE):
        while await server_ms(redis) <= instant_ms:
            await redis.ping()


async def test_an_answer_that_is_not_whole_at_the_deadline_is_stopped_and_its_call_closed(
    producer: Producer, start_worker: StartWorker, redis: Redis
) -> None:
    provider = Scripted("a", ["half ", asyncio.Event()])
    worker = await start_worker(registry(provider))
    job = await producer.enqueue("x", provider="a", deadline=SOON)
    words = ["queued", "started 1 a", "+half ", "failed deadline_exceeded 1"]
    assert await transcript(producer, job.id) == words
    assert await server_ms(redis) >= (job.deadline or 0)
    assert [call.closed for call in provider.calls] == [True]
    await worker.idle()
    assert (await producer.status(job.id)).status == "failed"
    assert await producer.dead() == []  # no operator can mend it


@pytest.mark.parametrize("on_retry", ["restart", "fail", "continue"])
async def test_the_deadline_is_the_end_whatever_a_retry_would_do(
    producer: Producer, start_worker: StartWorker, on_retry: str
) -> None:
    provider = Scripted("a", [Reasoning("hm"), asyncio.Event()])
    await start_worker(registry(provider))
    job = await producer.enqueue("x", provider="a", deadline=SOON, on_retry=on_retry)
    words = ["queued", "started 1 a", "~hm", "failed deadline_exceeded 1"]
    assert await transcript(producer, job.id) == words


async def test_a_job_whose_deadline_passes_while_it_waits_for_a_place_is_never_asked(
    producer: Producer, start_worker: StartWorker
) -> None:
    busy = asyncio.Event()
    provider = Scripted("a", ["one", busy], ["never said"], concurrency=1)
    await start_worker(registry(provider))
    first = await producer.enqueue("x", provider="a")
    async with asyncio.timeout(PATIENCE):
        await provider.waits.wait()
    second = await producer.enqueue("y", provider="a", deadline=SOON)
    assert await transcript(producer, second.id) == ["queued", "failed deadline_exceeded 1"]
    busy.set()
    assert (await producer.result(first.id)).text == "one"
    assert len(provider.calls) == 1


@pytest.mark.parametrize(
    "error", [Broken("the 500 of today"), RateLimited("the 429 of today", retry_after=90.0)]
)
@pytest.mark.usefixtures("longest_pauses")
async def test_a_retry_that_would_come_after_the_deadline_is_not_waited_for(
    producer: Producer, start_worker: StartWorker, error: ProviderError
) -> None:
    """Its readers hear at once, and hear what had failed."""
    provider = Scripted("a", [error])
    worker = await start_worker(registry(provider), backoff=60.0)
    job = await producer.enqueue("x", provider="a", deadline=30.0)
    events = await events_of(producer, job.id)
    words = ["queued", "started 1 a", "failed deadline_exceeded 1"]
    assert [in_words(event) for event in events] == words
    assert isinstance(events[-1], Failed)
    assert error.message in events[-1].message
    assert len(provider.calls) == 1
    await worker.idle()
    assert await producer.dead() == []


async def test_the_deadline_is_told_though_another_provider_of_the_list_could_be_asked_again(
    producer: Producer, start_worker: StartWorker
) -> None:
    first, second = Scripted("a", [RateLimited("429", retry_after=0.05)]), Scripted("b", [asyncio.Event()])
    await start_worker(registry(first, second))
    job = await producer.enqueue("x", provider=["a", "b"], deadline=SOON)
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 a",
        "waiting retry",
        "started 1 b",
        "failed deadline_exceeded 1",
    ]


async def test_a_job_that_its_reader_ended_while_it_waited_is_settled_when_it_is_due(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """No worker is there when the deadline passes: the reader ends it; the next worker only tidies up."""
    until = datetime.now(UTC) + timedelta(seconds=SOON)
    job = await producer.enqueue("x", provider="a", at=until + timedelta(seconds=0.1), deadline=until)
    words = await transcript(producer, job.id)
    assert words == ["queued", "failed deadline_exceeded 0"]
    provider = Scripted("a", ["never said"], ["later"])
    worker = await start_worker(registry(provider), retention=60.0)
    # One that is due after it: when that is done, it was met.
    last = await producer.enqueue("x", provider="a", at=until + timedelta(seconds=0.15))
    await producer.result(last.id)
    await worker.idle()
    assert len(provider.calls) == 1
    assert await transcript(producer, job.id) == words
    assert await redis.exists(keys.later("default")) == 0
    assert await redis.xlen(keys.jobs("default")) == 0
    assert 0 < await redis.pttl(keys.record(job.id)) <= 60_000


async def test_a_killed_workers_job_is_not_asked_again_after_its_deadline(
    producer: Producer, start_worker: StartWorker, rival: Rival, redis: Redis
) -> None:
    job = await producer.enqueue("x", provider="a", deadline=SOON)
    entry = await rival.take()
    await rival.answer(await rival.own(entry), "half ")
    rival.die(entry)
    await passed(redis, job.deadline)
    provider = Scripted("a", ["never said"])
    await start_worker(registry(provider), lease=0.05, sweep=0.02)
    words = await transcript(producer, job.id)
    assert words[:3] == ["queued", "started 1 rival", "+half "]
    assert [word[: len("failed deadline_exceeded")] for word in words[3:]] == ["failed deadline_exceeded"]
    assert provider.calls == []


async def test_an_answer_in_time_is_not_touched_by_its_deadline(
    producer: Producer, start_worker: StartWorker, redis: Redis
) -> None:
    provider = Scripted("a", ["whole"])
    worker = await start_worker(registry(provider))
    job = await producer.enqueue("x", provider="a", deadline=SOON)
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "+whole", "done 5"]
    await worker.idle()
    await passed(redis, job.deadline)
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "+whole", "done 5"]
    assert (await producer.status(job.id)).status == "done"


# -- delay -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["delay", "at"])
async def test_a_delayed_job_is_answered_when_it_is_due_and_not_before(
    producer: Producer, start_worker: StartWorker, how: str
) -> None:
    await start_worker(registry(Scripted("a", ["whole"])), sweep=60.0)
    when = SOON if how == "delay" else datetime.now(UTC) + timedelta(seconds=SOON)
    job = await producer.enqueue("x", provider="a", **{how: when})
    due = (await producer.status(job.id)).due
    assert due is not None
    events = await events_of(producer, job.id)
    assert [in_words(event) for event in events] == ["queued", "started 1 a", "+whole", "done 5"]
    assert isinstance(events[1], Started)
    assert EventId.parse(events[1].id).attempt >= round(due.timestamp() * 1000)
    assert (await producer.status(job.id)).due is None


async def test_a_delayed_job_that_fails_is_retried_like_any_other(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker(registry(Scripted("a", [Broken("500")], ["whole"])), backoff=0.01)
    job = await producer.enqueue("x", provider="a", delay=0.05)
    words = ["queued", "started 1 a", "waiting retry", "started 2 a", "+whole", "done 5"]
    assert await transcript(producer, job.id) == words


async def test_what_is_due_before_all_others_is_answered_before_them(
    producer: Producer, start_worker: StartWorker
) -> None:
    """A worker that sleeps until a later instant is woken for the earlier one."""
    provider = Scripted("a", ["whole"])
    await start_worker(registry(provider), sweep=60.0)
    late = await producer.enqueue("late", provider="a", delay=3600.0)
    early = await producer.enqueue("early", provider="a", delay=0.05)
    assert (await transcript(producer, early.id))[-1] == "done 5"
    assert (await producer.status(late.id)).status == "queued"
    assert [call.messages[0]["content"] for call in provider.calls] == ["early"]
