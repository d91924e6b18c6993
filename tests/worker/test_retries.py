"""A failed attempt is followed by another one, by a pause, or by the job's end - and readers are told which."""

import asyncio

import pytest
from redis.asyncio import Redis

from producer import AnswerRestarted, Event, JobFailed, Producer, Started, Waiting
from producer.status import server_ms
from producer.wire.events import EventId
from producer.wire.job import Job
from producer.wire.keys import JOB_FIELD, Keys
from tests.conftest import StartWorker
from tests.support.rival import Rival
from tests.support.scripted import Scripted, Step, registry
from tests.support.transcripts import PATIENCE, events_of, in_words, transcript
from worker.holdings import Entry
from worker.providers.errors import (
    BadRequest,
    Broken,
    Cut,
    NotAStream,
    Overloaded,
    ProviderError,
    RateLimited,
    Refused,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from worker.queue import Queue

QUICK = {"backoff": 0.01}
SOON = 0.15  # seconds


def starts_and_waits(events: list[Event]) -> list[tuple[Waiting, Started]]:
    """Each wait, with the start that ended it."""
    waits = [event for event in events if isinstance(event, Waiting)]
    starts = [event for event in events if isinstance(event, Started)]
    return list(zip(waits, starts[-len(waits) :], strict=True))


class Theirs(ProviderError):
    """Of a class that is not ours."""

    code = "theirs"


class Panic(BaseException):
    """What a provider that is written in Rust raises on a bug: no Exception (https://github.com/PyO3/pyo3/issues/3918)."""


PASSING = {
    "broken": Broken("500"),
    "cut": Cut("no end mark"),
    "unreachable": Unreachable("refused"),
    "timeout": TimedOut("no first chunk"),
    "web-page": NotAStream("a web page"),
    "theirs": Theirs("hm"),
    "crash": RuntimeError("a bug"),
    "panic": Panic("a bug"),
    "itself": asyncio.CancelledError(),
}


@pytest.mark.parametrize("first", [(), ("half an ",)], ids=["before its text", "in its text"])
async def test_what_may_pass_is_tried_again(
    producer: Producer, start_worker: StartWorker, first: tuple[str, ...]
) -> None:
    providers = [Scripted(name, [*first, error], ["an ", "answer"]) for name, error in PASSING.items()]
    await start_worker(registry(*providers), **QUICK)
    jobs = [await producer.enqueue("x", provider=name) for name in PASSING]
    for job in jobs:
        events = await events_of(producer, job.id)
        assert [in_words(event) for event in events] == [
            "queued",
            f"started 1 {job.provider}",
            *(f"+{text}" for text in first),
            "waiting retry",
            f"started 2 {job.provider}",
            "+an ",
            "+answer",
            "done 9",
        ]
        ((waiting, started),) = starts_and_waits(events)
        assert EventId.parse(started.id).attempt >= waiting.until
        result = await producer.result(job.id)
        assert (result.text, result.attempts) == ("an answer", 2)
    assert [len(provider.calls) for provider in providers] == [2] * len(providers)
    assert await producer.dead() == []


@pytest.mark.parametrize(
    ("error", "number"), [(Broken("500"), 1), (RateLimited("429", retry_after=600.0), 0)]
)
@pytest.mark.usefixtures("longest_pauses")
async def test_the_record_and_the_queue_know_until_when_it_waits_as_its_readers_do(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, error: ProviderError, number: int
) -> None:
    provider = Scripted("a", [error])
    worker = await start_worker(registry(provider), backoff=3600.0)
    job = await producer.enqueue("x", provider="a")
    async for event in producer.subscribe(job.id):
        if isinstance(event, Waiting):
            break
    status = await producer.status(job.id)
    assert (status.status, status.attempts, status.worker) == ("waiting", number, "w1")
    assert status.due is not None
    assert round(status.due.timestamp() * 1000) == event.until
    await worker.idle()
    ((_, due),) = await redis.zrange(keys.later("default"), 0, -1, withscores=True)
    assert due == event.until
    assert await redis.xlen(keys.jobs("default")) == 0
    (queue,) = await producer.queues()
    assert (queue.length, queue.in_flight, queue.delayed) == (0, 0, 1)


async def test_when_all_attempts_are_used_up_the_job_fails_with_its_last_error(
    producer: Producer, start_worker: StartWorker
) -> None:
    provider = Scripted("a", [Broken("one")], [Cut("two")], [TimedOut("three")])
    await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("x", provider="a")
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 a",
        "waiting retry",
        "started 2 a",
        "waiting retry",
        "started 3 a",
        "failed timeout 3",
    ]
    with pytest.raises(JobFailed) as failed:
        await producer.result(job.id)
    assert (failed.value.message, failed.value.attempts) == ("three", 3)
    assert len(provider.calls) == 3


@pytest.mark.parametrize("max_attempts", [1, 2, 5])
async def test_a_job_has_as_many_attempts_as_it_asks_for(
    producer: Producer, start_worker: StartWorker, max_attempts: int
) -> None:
    provider = Scripted("a", [Broken("500")])
    await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("x", provider="a", max_attempts=max_attempts)
    assert (await transcript(producer, job.id))[-1] == f"failed upstream_error {max_attempts}"
    assert len(provider.calls) == max_attempts


async def test_what_is_the_jobs_own_fault_fails_at_once_and_is_no_dead_letter(
    producer: Producer, start_worker: StartWorker
) -> None:
    refused, bad = Scripted("refused", [Refused("404")]), Scripted("bad", [BadRequest("no such option")])
    worker = await start_worker(registry(refused, bad), **QUICK)
    asked = {"refused": "refused", "bad": "bad_request", "nobody": "unknown_provider"}
    for name, code in asked.items():
        job = await producer.enqueue("x", provider=name)
        assert (await transcript(producer, job.id))[-1] == f"failed {code} 1"
    job = await producer.enqueue("x")
    assert await transcript(producer, job.id) == ["queued", "failed no_provider 1"]
    await worker.idle()
    assert (len(refused.calls), len(bad.calls)) == (1, 1)
    assert await producer.dead() == []
    assert [queue.length + queue.in_flight for queue in await producer.queues()] == [0]


async def test_what_only_an_operator_can_mend_is_dead_at_once(
    producer: Producer, start_worker: StartWorker
) -> None:
    provider = Scripted("a", [Unauthorized("no such key")])
    worker = await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("x", provider="a")
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "failed unauthorized 1"]
    await worker.idle()
    (dead,) = await producer.dead()
    assert (dead.job_id, dead.letter.code, dead.letter.attempts) == (job.id, "unauthorized", 1)
    assert len(provider.calls) == 1


# -- attempts that end with their worker -----------------------------------------------------------------------


async def test_a_job_that_kills_its_workers_is_buried_when_its_attempts_are_used_up(
    producer: Producer, start_worker: StartWorker, rival: Rival
) -> None:
    """The loop of crashes ends, because claims count."""
    job = await producer.enqueue("x", provider="a")
    entry = await rival.take()
    for number in (1, 2, 3):
        attempt = await rival.own(entry)
        assert attempt.number == number
        rival.die(entry)
        entry = await rival.reclaim()
    rival.die(entry)
    provider = Scripted("a", ["never said"])
    worker = await start_worker(registry(provider), lease=0.05, sweep=0.02)
    assert await transcript(producer, job.id) == ["queued", "failed attempts_exhausted 3"]
    await worker.idle()
    (dead,) = await producer.dead()
    assert (dead.job_id, dead.letter.code, dead.letter.attempts) == (job.id, "attempts_exhausted", 3)
    assert provider.calls == []


async def test_an_attempt_that_died_with_its_worker_counts_and_the_next_one_starts_afresh(
    producer: Producer, start_worker: StartWorker, rival: Rival
) -> None:
    job = await producer.enqueue("x", provider="a")
    entry = await rival.take()
    await rival.answer(await rival.own(entry), "half an ")
    rival.die(entry)
    await start_worker(registry(Scripted("a", ["whole"])), lease=0.05, sweep=0.02)
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 rival",
        "+half an ",
        "started 2 a",
        "+whole",
        "done 5",
    ]
    assert (await producer.result(job.id)).text == "whole"


@pytest.mark.interpreted
async def test_a_worker_that_dies_between_the_wait_and_the_queue_loses_no_job(
    producer: Producer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers were told `waiting`, and nobody put the job off: its entry is reclaimed and keeps to the time."""
    defer = Queue.defer
    died: list[str] = []

    async def die_first(self: Queue, entry: Entry, due_ms: int) -> None:
        if died:
            await defer(self, entry, due_ms)
        else:
            died.append("here")
            self.forget(entry)

    monkeypatch.setattr(Queue, "defer", die_first)
    provider = Scripted("a", [RateLimited("429", retry_after=4 * SOON)], ["whole"])
    await start_worker(registry(provider), lease=0.05, sweep=0.02)
    job = await producer.enqueue("x", provider="a")
    events = await events_of(producer, job.id)
    assert [in_words(event) for event in events] == [
        "queued",
        "started 1 a",
        "waiting rate_limited",
        "started 1 a",
        "+whole",
        "done 5",
    ]
    ((waiting, started),) = starts_and_waits(events)
    assert EventId.parse(started.id).attempt >= waiting.until
    assert died == ["here"]


class Wordless(Broken):
    """One whose message cannot even be looked at."""

    def __init__(self) -> None:
        self.message = self  # type: ignore[assignment]

    def __str__(self) -> str:
        raise KeyError("no words")


async def test_a_bug_in_the_worker_costs_an_attempt_and_never_the_jobs_end(
    producer: Producer, start_worker: StartWorker
) -> None:
    """G1: whatever breaks, nobody is left waiting."""
    worker = await start_worker(registry(Scripted("a", [Wordless()])), lease=0.05, sweep=0.02)
    job = await producer.enqueue("x", provider="a", max_attempts=1)
    words = ["queued", "started 1 a", "failed attempts_exhausted 1"]
    assert await transcript(producer, job.id) == words
    await worker.idle()
    assert [dead.letter.code for dead in await producer.dead()] == ["attempts_exhausted"]


@pytest.mark.parametrize("last", ["the end", Cut("gone")], ids=["it answers", "it fails"])
async def test_a_job_whose_keys_vanish_while_it_runs_is_run_anew(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, last: Step
) -> None:
    """Nobody can be told anything of that attempt any more, so its worker settles nothing."""
    gone = asyncio.Event()
    provider = Scripted("a", ["half ", gone, last], ["whole"])
    await start_worker(registry(provider), lease=0.05, sweep=0.02)
    job = await producer.enqueue("x", provider="a")
    async with asyncio.timeout(PATIENCE):
        await provider.waits.wait()
        await redis.delete(keys.log(job.id), keys.record(job.id))
        gone.set()
        while len(provider.calls) < 2:
            await producer.queues()
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "+whole", "done 5"]


@pytest.mark.parametrize("how", ["it dies", "it hands it back"])
async def test_a_job_that_outlived_its_keys_and_its_first_worker_is_run(
    producer: Producer, start_worker: StartWorker, rival: Rival, redis: Redis, keys: Keys, how: str
) -> None:
    """That it was handed over before does not say that it was begun, let alone that it ended."""
    job = await producer.enqueue("x", provider="a")
    await redis.delete(keys.log(job.id), keys.record(job.id))
    entry = await rival.take()
    if how == "it dies":
        rival.die(entry)
    else:
        await rival.queue.release(entry)
    await start_worker(registry(Scripted("a", ["whole"])), lease=0.05, sweep=0.02)
    async with asyncio.timeout(PATIENCE):
        await redis.xread({keys.log(job.id): "0"}, block=5000)
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "+whole", "done 5"]


# -- waiting ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("busy", [RateLimited, Overloaded])
async def test_a_busy_provider_is_left_alone_for_as_long_as_it_asks_and_that_burns_no_attempt(
    producer: Producer, start_worker: StartWorker, busy: type[ProviderError]
) -> None:
    lines = [[busy("busy", retry_after=SOON)], [busy("still busy", retry_after=SOON)], ["whole"]]
    provider = Scripted("a", *lines)
    await start_worker(registry(provider))
    job = await producer.enqueue("x", provider="a", max_attempts=1)
    events = await events_of(producer, job.id)
    assert [in_words(event) for event in events] == [
        "queued",
        "started 1 a",
        "waiting rate_limited",
        "started 1 a",
        "waiting rate_limited",
        "started 1 a",
        "+whole",
        "done 5",
    ]
    for waiting, started in starts_and_waits(events):
        before = EventId.parse(waiting.id).attempt
        assert waiting.until >= before + 1000 * SOON
        assert EventId.parse(started.id).attempt >= waiting.until
    assert (await producer.result(job.id)).attempts == 1


async def test_a_job_whose_provider_rests_already_waits_without_asking_it(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    other, provider = Scripted("b", ["ready"]), Scripted("a", ["whole"])
    await start_worker(registry(other, provider))
    await producer.result((await producer.enqueue("x", provider="b")).id)
    until = await server_ms(redis) + 2000
    await redis.set(keys.parked("a"), until, pxat=until)
    job = await producer.enqueue("x", provider="a")
    events = await events_of(producer, job.id)
    words = ["queued", "waiting rate_limited", "started 1 a", "+whole", "done 5"]
    assert [in_words(event) for event in events] == words
    ((waiting, started),) = starts_and_waits(events)
    assert EventId.parse(waiting.id).seq == 0
    assert until <= waiting.until <= EventId.parse(started.id).attempt
    assert len(provider.calls) == 1


async def test_a_job_that_is_older_than_all_patience_has_it_still_when_it_is_claimed_first(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """It was delayed for days, or stood in a long queue."""
    old = Job(
        id="old", queue="default", created_at=1, messages=[{"role": "user", "content": "x"}], provider="a"
    )
    await redis.xadd(keys.jobs("default"), {JOB_FIELD: old.encode()})
    await start_worker(
        registry(Scripted("a", [RateLimited("429", retry_after=0.01)], ["whole"])), max_wait=60.0
    )
    await redis.xread({keys.log("old"): "0"}, block=5000)
    words = ["queued", "started 1 a", "waiting rate_limited", "started 1 a", "+whole", "done 5"]
    assert await transcript(producer, "old") == words


async def test_patience_with_busy_providers_ends(producer: Producer, start_worker: StartWorker) -> None:
    provider = Scripted("a", [RateLimited("come back tomorrow", retry_after=86_400)])
    worker = await start_worker(registry(provider), max_wait=60.0)
    job = await producer.enqueue("x", provider="a")
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "failed rate_limited 1"]
    await worker.idle()
    (dead,) = await producer.dead()
    assert (dead.letter.code, dead.letter.reason) == ("rate_limited", "come back tomorrow")


async def test_patience_counts_from_the_first_claim_and_not_from_each_wait(
    producer: Producer, start_worker: StartWorker
) -> None:
    provider = Scripted("a", [RateLimited("again and again", retry_after=1.0)])
    await start_worker(registry(provider), max_wait=2.5)
    job = await producer.enqueue("x", provider="a")
    words = await transcript(producer, job.id)
    assert words[-1] == "failed rate_limited 1"
    assert words.count("waiting rate_limited") in (1, 2)


# -- once text is out ------------------------------------------------------------------------------------------


async def test_a_plain_reader_of_the_text_is_told_that_the_answer_starts_afresh(
    producer: Producer, start_worker: StartWorker
) -> None:
    """G4: it never just goes on."""
    read = asyncio.Event()
    provider = Scripted("a", ["half an ", read, Cut("gone")], ["whole"])
    await start_worker(registry(provider), **QUICK)
    stream = producer.stream("x", provider="a")
    assert await anext(stream) == "half an "
    read.set()
    with pytest.raises(AnswerRestarted) as restarted:
        await anext(stream)
    assert restarted.value.keeps == 0


async def test_a_reader_that_asked_to_be_told_reads_on(producer: Producer, start_worker: StartWorker) -> None:
    read = asyncio.Event()
    provider = Scripted("a", ["half an ", read, Cut("gone")], ["whole"])
    await start_worker(registry(provider), **QUICK)
    told: list[str | int] = []
    async for text in producer.stream("x", provider="a", on_restart=told.append):
        told.append(text)
        read.set()
    assert told == ["half an ", 0, "whole"]


@pytest.mark.parametrize("error", [Cut("gone"), RateLimited("429", retry_after=0.01)])
async def test_a_job_that_shall_not_be_retried_once_text_is_out_fails(
    producer: Producer, start_worker: StartWorker, error: ProviderError
) -> None:
    provider = Scripted("a", ["half an ", error], ["whole"])
    worker = await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("x", provider="a", on_retry="fail")
    words = ["queued", "started 1 a", "+half an ", f"failed {error.code} 1"]
    assert await transcript(producer, job.id) == words
    await worker.idle()
    (dead,) = await producer.dead()
    assert (dead.job_id, dead.letter.code) == (job.id, error.code)
    assert len(provider.calls) == 1


async def test_a_job_that_shall_not_be_retried_once_text_is_out_is_retried_before(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker(registry(Scripted("a", [Cut("gone")], ["whole"])), **QUICK)
    job = await producer.enqueue("x", provider="a", on_retry="fail")
    words = ["queued", "started 1 a", "waiting retry", "started 2 a", "+whole", "done 5"]
    assert await transcript(producer, job.id) == words
