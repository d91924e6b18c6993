"""What is buried: its whole history stands in the letter, none is dropped in silence, and it can live again."""

from typing import Any

import msgpack
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from producer import JobFailed, Producer, Retry
from producer.wire.dead import DeadLetter
from producer.wire.events import EventId
from producer.wire.frames import decode_frame
from producer.wire.job import Job
from producer.wire.keys import FRAME_FIELD, JOB_FIELD, Keys
from tests.conftest import StartWorker
from tests.support.rival import Rival
from tests.support.scripted import Scripted, registry
from tests.support.transcripts import events_of, in_words, transcript
from worker.holdings import Entry
from worker.providers.errors import Broken, Cut, RateLimited, Unauthorized
from worker.queue import Queue

QUICK = {"backoff": 0.01}
NO_KEY = [Unauthorized("no such key")]


async def terminal_events(redis: Redis, keys: Keys, job_id: str) -> list[str]:
    """Every terminal event that stands in the log, whatever follows it."""
    found: list[str] = []
    for _, fields in await redis.xrange(keys.log(job_id)):
        found += [event.type for event in decode_frame(fields[FRAME_FIELD.encode()]).events if event.terminal]
    return found


async def test_a_letter_tells_every_attempt_with_its_provider_and_error(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    first = Scripted("a", [Broken("one")], [RateLimited("two", retry_after=0.05)], [Cut("five")])
    second = Scripted("b", [Unauthorized("one, too")], [Cut("three")], [Broken("four")])
    worker = await start_worker(registry(first, second), **QUICK)
    job = await producer.enqueue("x", provider=["a", "b"], max_attempts=3, metadata={"for": "me"})
    with pytest.raises(JobFailed):
        await producer.result(job.id)
    await worker.idle()
    (dead,) = await producer.dead()
    letter = dead.letter
    assert (dead.queue, letter.job_id, letter.attempts, letter.worker) == ("default", job.id, 3, "w1")
    told = [(error.number, error.provider, error.code, error.message) for error in letter.errors]
    assert told[:3] == [
        (1, "a", "upstream_error", "one"),
        (1, "b", "unauthorized", "one, too"),
        (2, "a", "rate_limited", "two"),
    ]
    assert (letter.provider, letter.code, letter.reason) == told[-1][1:]
    assert [error.at for error in letter.errors] == sorted(error.at for error in letter.errors)
    assert letter.errors[0].at >= job.created_at
    # The job's bytes, as they came; only how often it was put off is counted in them.
    assert Job.decode(letter.job).model_copy(update={"turn": 0}) == job
    assert await redis.xlen(keys.jobs("default")) == 0


async def test_unknown_keys_of_a_job_are_in_its_letter(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """A newer producer's fields survive an older worker, through retries and burial."""
    job = await producer.enqueue("x", provider="a", max_attempts=2)
    ((entry, fields),) = await redis.xrange(keys.jobs("default"))
    body = msgpack.unpackb(fields[JOB_FIELD.encode()]) | {"from_the_future": {"k": [1, 2.5, None]}}
    await redis.xdel(keys.jobs("default"), entry)
    await redis.xadd(keys.jobs("default"), {JOB_FIELD: msgpack.packb(body)})
    worker = await start_worker(registry(Scripted("a", [Broken("500")])), **QUICK)
    assert (await transcript(producer, job.id))[-1] == "failed upstream_error 2"
    await worker.idle()
    (dead,) = await producer.dead()
    assert msgpack.unpackb(dead.letter.job) == body | {"turn": 1}


async def test_over_the_bound_the_oldest_letters_fall_and_that_is_counted_and_logged(
    producer: Producer, start_worker: StartWorker
) -> None:
    with capture_logs() as lines:
        worker = await start_worker(registry(Scripted("a", NO_KEY)), max_dead=3)
        jobs = []
        for _ in range(5):
            jobs.append(job := await producer.enqueue("x", provider="a"))
            await transcript(producer, job.id)
            await worker.idle()
    assert [dead.job_id for dead in await producer.dead()] == [job.id for job in jobs[2:]]
    (queue,) = await producer.queues()
    assert (queue.dead, queue.dropped) == (3, 2)
    told = [line for line in lines if line["event"] == "dead letters fell over the bound"]
    assert [(line["queue"], line["dropped"], line["bound"]) for line in told] == [("default", 1, 3)] * 2


# -- the worker dies between the end and the burial ------------------------------------------------------------


@pytest.fixture
def unburied(monkeypatch: pytest.MonkeyPatch) -> list[DeadLetter]:
    """The first burial never comes: its worker dies before. Here is what it would have buried."""
    bury = Queue.bury
    lost: list[DeadLetter] = []

    async def die_first(self: Queue, entry: Entry, letter: DeadLetter) -> None:
        if lost:
            await bury(self, entry, letter)
        else:
            lost.append(letter)
            self.forget(entry)

    monkeypatch.setattr(Queue, "bury", die_first)
    return lost


@pytest.mark.interpreted
async def test_what_had_failed_and_was_not_buried_is_buried_by_whoever_comes_next(
    producer: Producer, start_worker: StartWorker, unburied: list[DeadLetter], redis: Redis, keys: Keys
) -> None:
    provider = Scripted("a", [Broken("one")], [Cut("two")])
    await start_worker(registry(provider), lease=0.05, sweep=0.02, **QUICK)
    job = await producer.enqueue("x", provider="a", max_attempts=2)
    words = ["queued", "started 1 a", "waiting retry", "started 2 a", "failed cut 2"]
    assert await transcript(producer, job.id) == words
    await redis.xread({keys.dead("default"): "0"}, block=5000)
    (dead,) = await producer.dead()
    (lost,) = unburied
    parts = ("job", "job_id", "code", "reason", "attempts", "provider", "errors")
    assert {part: getattr(dead.letter, part) for part in parts} == {
        part: getattr(lost, part) for part in parts
    }
    assert len(dead.letter.errors) == 2
    assert await redis.xlen(keys.jobs("default")) == 0
    assert await transcript(producer, job.id) == words
    assert len(provider.calls) == 2


async def test_a_job_that_ended_otherwise_and_was_not_settled_is_not_buried(
    producer: Producer, start_worker: StartWorker, rival: Rival, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="a")
    entry = await rival.take()
    await rival.finish(await rival.own(entry), "whole")
    rival.die(entry)
    worker = await start_worker(registry(Scripted("a", ["never said"])), lease=0.05, sweep=0.02)
    last = await producer.enqueue("x", provider="nobody")
    await transcript(producer, last.id)
    while await redis.xlen(keys.jobs("default")):
        await producer.queues()
    await worker.idle()
    assert await producer.dead() == []
    assert (await producer.result(job.id)).text == "whole"


async def test_a_second_entry_of_a_buried_job_is_no_second_letter(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """A producer whose replies got lost may have added its job twice."""
    job = await producer.enqueue("x", provider="a")
    await redis.xadd(keys.jobs("default"), {JOB_FIELD: job.encode()})
    provider = Scripted("a", NO_KEY)
    worker = await start_worker(registry(provider), concurrency=1)
    assert (await transcript(producer, job.id))[-1] == "failed unauthorized 1"
    while await redis.xlen(keys.jobs("default")):
        await producer.queues()
    await worker.idle()
    assert [dead.job_id for dead in await producer.dead()] == [job.id]
    assert len(provider.calls) == 1


# -- a new life ------------------------------------------------------------------------------------------------


async def test_a_retried_job_is_answered_in_a_life_of_its_own(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    provider = Scripted("a", ["half ", Unauthorized("no such key")], ["whole"])
    worker = await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("x", provider="a", max_attempts=1)
    old = await events_of(producer, job.id)
    assert [in_words(event) for event in old][-1] == "failed unauthorized 1"
    await worker.idle()
    (dead,) = await producer.dead()
    assert await producer.retry_dead(dead) is Retry.RETRIED
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "+whole", "done 5"]
    assert await terminal_events(redis, keys, job.id) == ["done"]
    # A cursor of the old life is behind all of the new one.
    new = await events_of(producer, job.id, after=old[-1].id)
    assert [in_words(event) for event in new] == ["started 1 a", "+whole", "done 5"]
    assert EventId.parse(new[0].id) > EventId.parse(old[-1].id)
    await worker.idle()
    assert await producer.dead() == []
    assert (await producer.status(job.id)).status == "done"
    assert await producer.retry_dead(dead) is not Retry.RETRIED


async def test_a_retried_job_has_all_its_attempts_again_and_a_history_of_its_own(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    provider = Scripted("a", [Broken("1")], [Broken("2")], [Broken("3")], [Cut("4")])
    worker = await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("x", provider="a", max_attempts=2)
    await transcript(producer, job.id)
    await worker.idle()
    (dead,) = await producer.dead()
    assert await producer.retry_dead(dead) is Retry.RETRIED
    words = ["queued", "started 1 a", "waiting retry", "started 2 a", "failed cut 2"]
    assert await transcript(producer, job.id) == words
    assert await terminal_events(redis, keys, job.id) == ["failed"]
    await worker.idle()
    (again,) = await producer.dead()
    assert again.id != dead.id
    assert [(error.number, error.message) for error in again.letter.errors] == [(1, "3"), (2, "4")]
    assert (again.letter.code, again.letter.reason, again.letter.attempts) == ("cut", "4", 2)


@pytest.mark.parametrize("on_retry", ["fail", "continue"])
async def test_what_stood_in_the_old_life_does_not_stand_in_the_new_one(
    producer: Producer, start_worker: StartWorker, on_retry: Any
) -> None:
    provider = Scripted("a", ["half ", Unauthorized("no such key")], ["whole"])
    worker = await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("x", provider="a", on_retry=on_retry)
    await transcript(producer, job.id)
    await worker.idle()
    (dead,) = await producer.dead()
    assert await producer.retry_dead(dead) is Retry.RETRIED
    assert await transcript(producer, job.id) == ["queued", "started 1 a", "+whole", "done 5"]
    assert len(provider.calls[1].messages) == 1
