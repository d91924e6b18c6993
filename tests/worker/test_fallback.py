"""A job that names several providers falls back along them, as long as no text is out."""

import asyncio

import pytest
from redis.asyncio import Redis

from producer import Producer, Waiting
from producer.status import server_ms
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.rival import Rival
from tests.support.scripted import Scripted, registry
from tests.support.transcripts import PATIENCE, in_words, transcript
from worker.holdings import Entry
from worker.providers.errors import (
    BadRequest,
    Broken,
    Cut,
    ProviderError,
    RateLimited,
    Refused,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from worker.queue import Claim, Claimed, NotClaimed, Queue

QUICK = {"backoff": 0.01}
SOON = 0.15  # seconds


@pytest.fixture(autouse=True)
def _all_come_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments by which jobs are spread would blur what is compared here."""
    monkeypatch.setattr("worker.retry._SPREAD", 0.0)


async def park(redis: Redis, keys: Keys, name: str, seconds: float) -> int:
    """Leave a provider alone, as another worker may have done; return until when."""
    until = await server_ms(redis) + int(1000 * seconds)
    await redis.set(keys.parked(name), until, pxat=until)
    return until


async def until_it_waits(producer: Producer, job_id: str) -> tuple[list[str], int]:
    """What its readers are told before the job is put off, and until when that is."""
    told: list[str] = []
    async with asyncio.timeout(PATIENCE):
        async for event in producer.subscribe(job_id):
            if isinstance(event, Waiting):
                return told, event.until
            told.append(in_words(event))
    raise AssertionError(f"it never waited: {told}")


FAILURES = [
    Broken("500"),
    Unreachable("refused"),
    TimedOut("slow"),
    Cut("gone"),
    RateLimited("429", retry_after=60.0),
    Refused("404"),
    BadRequest("no such option"),
    Unauthorized("no key"),
    RuntimeError("a bug"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
async def test_what_fails_before_its_text_is_followed_by_the_next_provider_in_the_same_attempt(
    producer: Producer, start_worker: StartWorker, failure: Exception
) -> None:
    worker = await start_worker(registry(Scripted("a", [failure]), Scripted("b", ["whole"])), backoff=3600.0)
    job = await producer.enqueue("x", provider=["a", "b"], max_attempts=1)
    words = ["queued", "started 1 a", "waiting retry", "started 1 b", "+whole", "done 5"]
    assert await transcript(producer, job.id) == words
    await worker.idle()
    status, result = await producer.status(job.id), await producer.result(job.id)
    assert (status.provider, status.attempts, result.attempts) == ("b", 1, 1)
    assert await producer.dead() == []


async def test_a_provider_that_rests_is_passed_over_and_the_record_names_the_one_that_is_asked(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await park(redis, keys, "a", 60.0)
    resting, asked = Scripted("a", ["never said"]), Scripted("b", ["wh", asyncio.Event()])
    await start_worker(registry(resting, asked))
    job = await producer.enqueue("x", provider=["a", "b"])
    async with asyncio.timeout(PATIENCE):
        await asked.waits.wait()
    status = await producer.status(job.id)
    assert (status.status, status.provider, status.model) == ("running", "b", "b-model")
    assert resting.calls == []


async def test_one_that_rests_in_the_middle_of_the_list_is_passed_over_as_well(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await park(redis, keys, "b", 60.0)
    resting = Scripted("b", ["never said"])
    await start_worker(registry(Scripted("a", [Broken("500")]), resting, Scripted("c", ["whole"])))
    job = await producer.enqueue("x", provider=["a", "b", "c"])
    words = ["queued", "started 1 a", "waiting retry", "started 1 c", "+whole", "done 5"]
    assert await transcript(producer, job.id) == words
    assert resting.calls == []


@pytest.mark.parametrize("on_retry", ["restart", "continue"])
async def test_once_text_is_out_the_next_provider_is_not_asked_in_its_place(
    producer: Producer, start_worker: StartWorker, on_retry: str
) -> None:
    """What was begun by one is not gone on with by another: the retry begins at the head of the list."""
    first, second = Scripted("a", ["half ", Cut("gone")], ["whole"]), Scripted("b", ["never said"])
    await start_worker(registry(first, second), **QUICK)
    job = await producer.enqueue("x", provider=["a", "b"], on_retry=on_retry)
    words = await transcript(producer, job.id)
    assert words[:5] == ["queued", "started 1 a", "+half ", "waiting retry", words[4]]
    assert words[4].startswith("started 2 a")
    assert second.calls == []


async def test_with_one_attempt_left_every_provider_is_asked_once(
    producer: Producer, start_worker: StartWorker
) -> None:
    providers = [Scripted(name, [Broken(f"{name} is broken")]) for name in "abc"]
    worker = await start_worker(registry(*providers), **QUICK)
    job = await producer.enqueue("x", provider=["a", "b", "c"], max_attempts=1)
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 a",
        "waiting retry",
        "started 1 b",
        "waiting retry",
        "started 1 c",
        "failed upstream_error 1",
    ]
    assert [len(provider.calls) for provider in providers] == [1, 1, 1]
    await worker.idle()
    (dead,) = await producer.dead()
    assert (dead.letter.attempts, dead.letter.provider, dead.letter.reason) == (1, "c", "c is broken")
    told = [(error.number, error.provider, error.message) for error in dead.letter.errors]
    assert told == [(1, name, f"{name} is broken") for name in "abc"]


async def test_a_retry_begins_at_the_head_of_the_list(producer: Producer, start_worker: StartWorker) -> None:
    first, second = Scripted("a", [Broken("500")], ["whole"]), Scripted("b", [Broken("500")])
    await start_worker(registry(first, second), **QUICK)
    job = await producer.enqueue("x", provider=["a", "b"])
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 a",
        "waiting retry",
        "started 1 b",
        "waiting retry",
        "started 2 a",
        "+whole",
        "done 5",
    ]


# -- all of them fail ------------------------------------------------------------------------------------------

DECIDING = {
    "an operator may mend one of them": ([Unauthorized("no key"), BadRequest("no such option")], "unauthorized"),
    "in whatever order": ([BadRequest("no such option"), Unauthorized("no key")], "unauthorized"),
    "none of them ever will": ([Refused("404"), BadRequest("no such option")], "bad_request"),
    "a later attempt may succeed": ([Broken("500"), Unauthorized("no key"), Refused("404")], "upstream_error"),
}  # fmt: skip


@pytest.mark.parametrize(("failures", "code"), DECIDING.values(), ids=DECIDING)
async def test_when_all_fail_the_one_that_gives_the_most_hope_decides(
    producer: Producer, start_worker: StartWorker, failures: list[ProviderError], code: str
) -> None:
    names = "abc"[: len(failures)]
    providers = [Scripted(name, [failure]) for name, failure in zip(names, failures, strict=True)]
    worker = await start_worker(registry(*providers), **QUICK)
    job = await producer.enqueue("x", provider=list(names), max_attempts=1)
    assert (await transcript(producer, job.id))[-1] == f"failed {code} 1"
    await worker.idle()
    assert [dead.letter.code for dead in await producer.dead()] == [code] * (code != "bad_request")


async def test_where_one_is_busy_and_one_is_broken_the_broken_one_is_tried_again(
    producer: Producer, start_worker: StartWorker
) -> None:
    busy, broken = (
        Scripted("a", [RateLimited("429", retry_after=60.0)]),
        Scripted("b", [Broken("500")], ["whole"]),
    )
    await start_worker(registry(busy, broken), **QUICK)
    job = await producer.enqueue("x", provider=["a", "b"])
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 a",
        "waiting retry",
        "started 1 b",
        "waiting retry",
        "started 2 b",
        "+whole",
        "done 5",
    ]
    assert len(busy.calls) == 1


async def test_when_all_rest_the_job_waits_for_the_first_that_does_not(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await park(redis, keys, "a", 90.0)
    until = await park(redis, keys, "b", 60.0)
    providers = [Scripted(name, ["never said"]) for name in "ab"]
    await start_worker(registry(*providers))
    job = await producer.enqueue("x", provider=["a", "b"])
    assert await until_it_waits(producer, job.id) == (["queued"], until)
    assert [provider.calls for provider in providers] == [[], []]


@pytest.mark.parametrize("failure", [BadRequest("no such option"), Unauthorized("no key")])
async def test_where_one_rests_and_no_other_can_do_it_the_job_waits_for_the_one_that_rests(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, failure: ProviderError
) -> None:
    """One that was not even asked gives more hope than one that said no for good."""
    until = await park(redis, keys, "a", 60.0)
    await start_worker(registry(Scripted("a", ["never said"]), Scripted("b", [failure])))
    job = await producer.enqueue("x", provider=["a", "b"])
    assert await until_it_waits(producer, job.id) == (["queued", "started 1 b"], until)


async def test_one_that_said_no_for_good_after_its_text_was_out_is_heard_though_another_rests(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await park(redis, keys, "a", 60.0)
    await start_worker(registry(Scripted("a", ["never said"]), Scripted("b", ["half ", Unauthorized("no")])))
    job = await producer.enqueue("x", provider=["a", "b"])
    words = ["queued", "started 1 b", "+half ", "failed unauthorized 1"]
    assert await transcript(producer, job.id) == words


# -- between two providers -------------------------------------------------------------------------------------


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> "Between":
    return Between(monkeypatch)


class Between:
    """Stops a worker after it has ended its call of one provider, and before it turns to the next."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go = asyncio.Event(), asyncio.Event()
        claim = Queue.claim
        halt = self

        async def halting(self: Queue, entry: Entry, what: Claim) -> Claimed | NotClaimed:
            if what.after is not None:
                halt.reached.set()
                await halt.go.wait()
            return await claim(self, entry, what)

        monkeypatch.setattr(Queue, "claim", halting)


@pytest.mark.interpreted
async def test_a_cancel_between_two_providers_ends_the_job_and_the_second_is_never_asked(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, between: Between
) -> None:
    second = Scripted("b", ["never said"])
    worker = await start_worker(registry(Scripted("a", [Broken("500")]), second))
    job = await producer.enqueue("x", provider=["a", "b"])
    async with asyncio.timeout(PATIENCE):
        await between.reached.wait()
    await producer.cancel(job.id, reason="enough")
    between.go.set()
    words = ["queued", "started 1 a", "waiting retry", "cancelled enough"]
    assert await transcript(producer, job.id) == words
    await worker.idle()
    assert second.calls == []
    assert await redis.xlen(keys.jobs("default")) == 0


async def test_a_cancel_whose_hint_was_lost_counts_when_the_first_provider_has_failed(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    fails = asyncio.Event()
    first, second = Scripted("a", [fails, Broken("500")]), Scripted("b", ["never said"])
    worker = await start_worker(registry(first, second))
    job = await producer.enqueue("x", provider=["a", "b"])
    async with asyncio.timeout(PATIENCE):
        await first.waits.wait()
    await redis.set(keys.cancel(job.id), "enough", px=60_000)
    fails.set()
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "cancelled enough"]
    await worker.idle()
    assert second.calls == []
    assert await redis.xlen(keys.jobs("default")) == 0


@pytest.mark.interpreted
async def test_a_worker_that_lost_the_job_between_two_providers_asks_no_more(
    producer: Producer, start_worker: StartWorker, between: Between, rival: Rival
) -> None:
    """G3: the other one has claimed the job, and what it writes is all that comes."""
    second = Scripted("b", ["never said"])
    worker = await start_worker(registry(Scripted("a", [Broken("500")]), second), sweep=60.0)
    job = await producer.enqueue("x", provider=["a", "b"])
    async with asyncio.timeout(PATIENCE):
        await between.reached.wait()
    entry = await rival.reclaim()
    attempt = await rival.own_when_due(entry)
    between.go.set()
    await worker.idle()
    await rival.finish(attempt, "whole")
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 a",
        "waiting retry",
        "started 1 rival",
        "+whole",
        "done 5",
    ]
    assert second.calls == []
    await rival.queue.settle(entry)


@pytest.mark.interpreted
async def test_after_its_deadline_the_next_provider_is_not_asked(
    producer: Producer, start_worker: StartWorker, between: Between, redis: Redis
) -> None:
    second = Scripted("b", ["never said"])
    await start_worker(registry(Scripted("a", [Broken("500")]), second))
    job = await producer.enqueue("x", provider=["a", "b"], deadline=2.0)
    async with asyncio.timeout(PATIENCE):
        await between.reached.wait()
        while await server_ms(redis) <= (job.deadline or 0):
            await redis.ping()
    between.go.set()
    words = await transcript(producer, job.id)
    assert words[:3] == ["queued", "started 1 a", "waiting retry"]
    assert words[-1].startswith("failed deadline_exceeded")
    assert second.calls == []
