"""A job that failed for good leaves one dead letter, however many entries it had and whoever died on the way."""

from redis.asyncio import Redis

from producer import Failed, Producer
from producer.wire.dead import DeadLetter
from producer.wire.keys import Keys
from worker.attempt import Attempt
from worker.entry_reader import EntryReader
from worker.event_log import End, EventLog
from worker.outcome import NothingToDo, Unburied
from worker.queue import Claim, Claimed, Queue

CLAIM = Claim("j", created_at=0)


async def fail(log: EventLog, attempt: Attempt) -> None:
    letter = DeadLetter(b"", "j", "unauthorized", "no")
    event = Failed(attempt.next_id(), "unauthorized", "no", 1)
    await log.finish(attempt, End(event, "failed", ttl_ms=60_000, dead=letter.summary()))


async def test_an_entry_that_was_added_twice_does_not_bury_the_job_twice(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="echo", id="j")
    await redis.xadd(keys.jobs(job.queue), {"job": job.encode()})
    first, double = await reader.take(2)
    claimed = await queue.claim(first, CLAIM)
    assert isinstance(claimed, Claimed)
    await fail(log, claimed.attempt)
    assert await queue.claim(double, CLAIM) == NothingToDo()


async def test_whoever_takes_over_the_entry_of_one_that_died_before_burying_it_is_told_the_letter(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer
) -> None:
    await producer.enqueue("x", provider="echo", id="j")
    (entry,) = await reader.take(1)
    claimed = await queue.claim(entry, CLAIM)
    assert isinstance(claimed, Claimed)
    await fail(log, claimed.attempt)
    assert isinstance(await queue.claim(entry, CLAIM), Unburied)
