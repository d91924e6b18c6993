"""G3: a worker that lost its job can neither log, publish nor finish. And a repeated write is recognised."""

import asyncio
import contextlib
import itertools
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from producer import Cancellation, Chunk, Done, Event, Failed, Producer, Queued, Started, Waiting
from producer.connection import Line, Url
from producer.wire.codec import WireError
from producer.wire.frames import encode
from producer.wire.keys import Keys
from tests.conftest import on_real_servers
from tests.support.scribe import Scribe
from tests.support.servers import Server
from worker import scripts
from worker.attempt import Attempt, LeaseLost
from worker.entry_reader import EntryReader
from worker.event_log import End, EventLog
from worker.holdings import Entry, Holdings
from worker.outcome import NothingToDo
from worker.queue import Claim, Claimed, Queue
from worker.settings import Settings
from worker.writer import Writer

TTL_MS = 60_000


async def claimed(
    queue: Queue, reader: EntryReader, producer: Producer, job_id: str = "j"
) -> tuple[Entry, Attempt]:
    await producer.enqueue("x", provider="echo", id=job_id)
    (entry,) = await reader.take(1)
    claim = await queue.claim(entry, Claim(job_id, created_at=0, provider="echo", model="m"))
    assert isinstance(claim, Claimed)
    return entry, claim.attempt


_deliveries = itertools.count(2)


async def claimed_again(queue: Queue, entry: Entry, job_id: str = "j") -> Attempt:
    """Claimed by somebody who reclaimed the entry: it was handed over once more."""
    again = entry._replace(deliveries=next(_deliveries))
    claim = await queue.claim(again, Claim(job_id, created_at=0))
    assert isinstance(claim, Claimed)
    return claim.attempt


def done(attempt: Attempt) -> End:
    return End(Done(attempt.next_id(), "stop", 0), "done", TTL_MS)


async def logged(producer: Producer, count: int, job_id: str = "j") -> list[Event]:
    subscription = producer.subscribe(job_id)
    return [await anext(subscription) for _ in range(count)]


def started(attempt: Attempt) -> Started:
    return Started(attempt.next_id(), attempt.number, "echo", "w1")


@on_real_servers  # the imitation hangs up on errors
@pytest.mark.parametrize("field", ["attempt", "number", "started_at"])
@pytest.mark.parametrize("wrong", ["", "x"])
async def test_a_record_with_no_number_where_one_is_due_is_refused_before_anything_is_written(
    field: str,
    wrong: str,
    queue: Queue,
    reader: EntryReader,
    producer: Producer,
    redis: Redis,
    keys: Keys,
) -> None:
    """A claim that wrote, and whose reply ended at that number, would pass for nothing to do: no end would come."""
    entry, _ = await claimed(queue, reader, producer)
    await redis.hset(keys.record("j"), mapping={field: wrong, "status": "waiting"})
    await redis.delete(keys.log("j"))
    before = await redis.hgetall(keys.record("j"))
    with pytest.raises(ResponseError):
        await claimed_again(queue, entry)
    assert await redis.hgetall(keys.record("j")) == before
    assert await redis.exists(keys.log("j")) == 0


async def test_a_claim_raises_the_fence_before_anything_is_written(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer
) -> None:
    entry, old = await claimed(queue, reader, producer)
    log.append(old, started(old))
    await log.flush(old)
    new = await claimed_again(queue, entry)
    log.append(old, Chunk(old.next_id(), "too late"))
    with pytest.raises(LeaseLost):
        await log.flush(old)
    log.append(new, started(new))
    await log.finish(new, done(new))
    events = [event async for event in producer.subscribe("j")]
    assert [event.id for event in events] == ["0-1", f"{old.id}-0", f"{new.id}-0", f"{new.id}-1"]


async def test_who_lost_the_job_cannot_publish_either(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entry, old = await claimed(queue, reader, producer)
    await claimed_again(queue, entry)
    async with redis.pubsub() as channel:
        await channel.subscribe(keys.events("j"))
        assert (await channel.get_message(timeout=5))["type"] == "subscribe"
        log.append(old, started(old))
        with pytest.raises(LeaseLost):
            await log.flush(old)
        await Scribe(redis, keys, "j").say(b"the next message")
        assert (await channel.get_message(timeout=5))["data"] == b"the next message"


async def test_who_lost_the_job_cannot_finish_it(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entry, old = await claimed(queue, reader, producer)
    new = await claimed_again(queue, entry)
    with pytest.raises(LeaseLost):
        await log.finish(old, End(Failed(old.next_id(), "x", "x", 1), "failed", TTL_MS))
    assert await redis.hget(keys.record("j"), "status") == b"running"
    await log.finish(new, done(new))
    assert (await producer.result("j")).finish_reason == "stop"


async def test_who_lost_the_job_knows_it_at_the_next_append(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer
) -> None:
    entry, old = await claimed(queue, reader, producer)
    await claimed_again(queue, entry)
    log.append(old, started(old))
    with pytest.raises(LeaseLost):
        await log.flush(old)
    with pytest.raises(LeaseLost):
        log.append(old, Chunk(old.next_id(), "x"))


async def test_attempts_rise_even_within_a_millisecond(
    queue: Queue, reader: EntryReader, producer: Producer
) -> None:
    entry, attempt = await claimed(queue, reader, producer)
    ids = [attempt.id] + [(await claimed_again(queue, entry)).id for _ in range(50)]
    assert ids == sorted(set(ids))


async def test_attempts_rise_above_what_stands_in_the_log(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entry, _ = await claimed(queue, reader, producer)
    far = 9_000_000_000_000  # a server whose clock was set back
    await Scribe(redis, keys, "j").log(Started(f"{far}-0", 1, "echo", "w"))
    assert (await claimed_again(queue, entry)).id == far + 1


async def test_the_first_attempt_rises_above_what_stands_in_the_log_as_well(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    await producer.enqueue("x", provider="echo", id="j")
    far = 9_000_000_000_000  # what a server forgot, and a worker said to it once more
    await Scribe(redis, keys, "j").log(Started(f"{far}-0", 1, "echo", "w"))
    (entry,) = await reader.take(1)
    claim = await queue.claim(entry, Claim("j", created_at=0))
    assert isinstance(claim, Claimed)
    assert claim.attempt.id == far + 1


async def test_the_first_claim_raises_the_fence_and_leaves_no_entry(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    _, attempt = await claimed(queue, reader, producer)
    assert [entry for entry, _ in await redis.xrange(keys.log("j"))] == [b"0-1"]
    with pytest.raises(ResponseError, match="equal or smaller"):
        await redis.xadd(keys.log("j"), {"f": b"too late"}, id=f"{attempt.id - 1}-18446744073709551615")


async def test_a_log_that_is_gone_begins_anew_with_the_first_claim(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    await producer.enqueue("x", provider="echo", id="j")
    await redis.delete(keys.log("j"))
    (entry,) = await reader.take(1)
    assert isinstance(await queue.claim(entry, Claim("j", created_at=0)), Claimed)
    assert isinstance((await logged(producer, 1))[0], Queued)
    assert await redis.pttl(keys.log("j")) > TTL_MS


async def test_claims_are_counted(queue: Queue, reader: EntryReader, producer: Producer) -> None:
    entry, attempt = await claimed(queue, reader, producer)
    assert attempt.number == 1
    assert (await claimed_again(queue, entry)).number == 2


async def test_an_ended_job_is_not_claimed(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer
) -> None:
    entry, attempt = await claimed(queue, reader, producer)
    await log.finish(attempt, done(attempt))
    assert await queue.claim(entry, Claim("j", created_at=0)) == NothingToDo()


async def test_another_entry_of_a_running_job_is_not_claimed(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entry, _ = await claimed(queue, reader, producer)
    await redis.xadd(keys.jobs("default"), {"job": entry.body})
    (second,) = await reader.take(1)
    assert await queue.claim(second, Claim("j", created_at=0)) == NothingToDo()


async def test_nor_is_one_of_another_queue(
    server: Server, queue: Queue, reader: EntryReader, writer: Writer, producer: Producer, keys: Keys
) -> None:
    """One id can be enqueued to two queues: by whoever tries again, or calls at the same time as another."""
    entry, attempt = await claimed(queue, reader, producer)
    settings = Settings(redis_url=server.url, name="w2", consumer_suffix="y", poll=0.02, queues=("urgent",))
    await producer.enqueue("x", provider="echo", id="other", queue="urgent")
    holdings = Holdings("w2:y")
    with contextlib.closing(Line(Url(server.url), 5)) as line:
        (second,) = await EntryReader(line, keys, holdings, settings).take(1)
        theirs = Queue(writer, keys, holdings, settings)
        assert await theirs.claim(second, Claim("j", created_at=0)) == NothingToDo()
    again = await queue.claim(entry._replace(deliveries=2), Claim("j", created_at=0))
    assert isinstance(again, Claimed)
    assert again.attempt.number == attempt.number + 1  # and by no other


async def test_an_owner_of_an_earlier_life_cannot_write_into_a_job_that_is_enqueued_again(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer, redis: Redis, keys: Keys
) -> None:
    """Its keys were flushed, or expired while it was frozen; the new life waits, and nobody has claimed it."""
    _, old = await claimed(queue, reader, producer)
    log.append(old, started(old))
    await log.flush(old)
    await redis.delete(keys.log("j"), keys.record("j"))
    await producer.enqueue("x", provider="echo", id="j", delay=3600)
    log.append(old, Chunk(old.next_id(), "of the old life"))
    with pytest.raises(LeaseLost):
        await log.flush(old)
    assert await redis.xlen(keys.log("j")) == 1


async def accepted_ahead_of_the_clock(
    producer: Producer, redis: Redis, keys: Keys, job_id: str, **fields: Any
) -> int:
    """As on a server whose clock has gone back since; return the attempt that all others are to be above."""
    ahead = 4_000_000_000_000
    await producer.enqueue("x", provider="echo", id=job_id, **fields)
    fence = f"{ahead}-1"
    await redis.xadd(keys.log(job_id), {"f": b""}, id=fence)
    await redis.xdel(keys.log(job_id), fence)
    assert int(await redis.hget(keys.record(job_id), "attempt") or 0) > 0
    await redis.hset(keys.record(job_id), "attempt", ahead)
    return ahead


async def test_a_claim_rises_above_the_fence_of_the_acceptance_though_the_clock_went_back(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer, redis: Redis, keys: Keys
) -> None:
    ahead = await accepted_ahead_of_the_clock(producer, redis, keys, "j")
    (entry,) = await reader.take(1)
    claim = await queue.claim(entry, Claim("j", created_at=0))
    assert isinstance(claim, Claimed)
    log.append(claim.attempt, started(claim.attempt))
    await log.flush(claim.attempt)
    assert (claim.attempt.id, claim.attempt.number) == (ahead + 1, 1)


async def test_a_cancel_and_a_deadline_rise_above_the_fence_of_the_acceptance(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    ahead = await accepted_ahead_of_the_clock(producer, redis, keys, "c")
    await accepted_ahead_of_the_clock(producer, redis, keys, "d", deadline=-60)
    assert await producer.cancel("c") is Cancellation.CANCELLED
    ends = [(await logged(producer, 2, job_id))[-1] for job_id in "cd"]
    assert [(end.type, end.id) for end in ends] == [
        ("cancelled", f"{ahead + 1}-0"),
        ("failed", f"{ahead + 1}-0"),
    ]


async def test_a_job_whose_keys_expired_while_it_waited_begins_anew(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer, redis: Redis, keys: Keys
) -> None:
    await producer.enqueue("x", provider="echo", id="j")
    await redis.delete(keys.log("j"), keys.record("j"))
    (entry,) = await reader.take(1)
    claim = await queue.claim(entry, Claim("j", created_at=7))
    assert isinstance(claim, Claimed)
    log.append(claim.attempt, started(claim.attempt))
    assert [type(event) for event in await logged(producer, 2)] == [Queued, Started]
    assert await redis.pttl(keys.log("j")) > 0
    assert await redis.pttl(keys.record("j")) > 0


async def test_a_released_job_is_claimed_anew_and_not_counted(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer
) -> None:
    entry, attempt = await claimed(queue, reader, producer)
    log.append(attempt, started(attempt))
    await log.finish(attempt, End(Waiting(attempt.next_id(), 0, "released"), "waiting", TTL_MS, counts=False))
    await queue.release(entry)
    _, (again,) = await queue.reclaim("default", "0-0", 1)
    assert (again.body, again.id, again.deliveries) == (entry.body, entry.id, 2)
    claim = await queue.claim(again, Claim("j", created_at=0))
    assert isinstance(claim, Claimed)
    assert claim.attempt.number == 1


async def test_an_append_that_is_repeated_is_written_and_published_once(
    queue: Queue, reader: EntryReader, writer: Writer, producer: Producer, redis: Redis, keys: Keys
) -> None:
    _, attempt = await claimed(queue, reader, producer)
    event = started(attempt)
    call = scripts.APPEND.on([keys.log("j"), keys.events("j")], event.id, encode(event))
    async with redis.pubsub() as channel:
        await channel.subscribe(keys.events("j"))
        assert (await channel.get_message(timeout=5))["type"] == "subscribe"
        results = [await writer.submit(call) for _ in range(3)]
        await Scribe(redis, keys, "j").say(b"the next message")
        heard = [(await channel.get_message(timeout=5))["data"] for _ in range(2)]
    assert results == [b"written", b"repeated", b"repeated"]
    assert heard == [encode(event), b"the next message"]


async def test_a_finish_that_is_repeated_is_recognised(
    queue: Queue, reader: EntryReader, writer: Writer, producer: Producer, keys: Keys
) -> None:
    _, attempt = await claimed(queue, reader, producer)
    done = Done(attempt.next_id(), "stop", 0)
    names = [keys.log("j"), keys.record("j"), keys.cancel("j"), keys.events("j")]
    call = scripts.FINISH.on(names, attempt.id, done.id, encode(done), "done", TTL_MS, 0, "", b"", b"")
    assert [await writer.submit(call) for _ in range(2)] == [b"written", b"repeated"]


async def test_settling_and_releasing_twice_changes_nothing(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entry, _ = await claimed(queue, reader, producer)
    await queue.release(entry)
    await queue.release(entry)
    _, (again,) = await queue.reclaim("default", "0-0", 5)
    await queue.settle(again)
    await queue.settle(again)
    await queue.release(again)
    assert await redis.xlen(keys.jobs("default")) == 0


async def test_nothing_is_written_to_a_log_that_is_gone(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer, redis: Redis, keys: Keys
) -> None:
    _, attempt = await claimed(queue, reader, producer)
    await redis.delete(keys.log("j"))
    log.append(attempt, started(attempt))
    with pytest.raises(LeaseLost):
        await log.flush(attempt)
    assert await redis.exists(keys.log("j")) == 0


async def test_two_owners_who_write_at_once_never_mix(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer
) -> None:
    """Whatever the interleaving, the log holds a prefix of the first attempt and then only the second."""
    entry, old = await claimed(queue, reader, producer)
    log.append(old, started(old))
    takeover = asyncio.create_task(claimed_again(queue, entry))
    written = 0
    try:
        while True:
            log.append(old, Chunk(old.next_id(), "old"))
            written += 1
            await asyncio.sleep(0)
            if takeover.done():
                await log.flush(old)
    except LeaseLost:
        pass
    new = await takeover
    log.append(new, started(new))
    await log.finish(new, done(new))
    attempts = [int(event.id.partition("-")[0]) for event in [e async for e in producer.subscribe("j")]]
    assert attempts == sorted(attempts)
    assert attempts[-2:] == [new.id, new.id]
    assert written > 0


async def test_what_was_handed_over_in_a_lost_reply_is_taken_again(
    queue: Queue, reader: EntryReader, holdings: Holdings, producer: Producer, redis: Redis, keys: Keys
) -> None:
    held, _ = await claimed(queue, reader, producer, "held")
    for job_id in ("lost-1", "lost-2", "lost-3"):
        await producer.enqueue("x", provider="echo", id=job_id)
    consumer = holdings.consumer
    reply = await redis.xreadgroup("workers", consumer, {keys.jobs("default"): ">"}, count=2)
    lost = [entry_id.decode() for entry_id, _ in reply[0][1]]  # the worker never hears of these two
    reader._in_doubt = True
    assert [entry.id for entry in await reader.take(1)] == lost[:1]
    assert [entry.id for entry in await reader.take(5)] == lost[1:]
    (new,) = await reader.take(5)
    assert new.id not in {held.id, *lost}


async def test_a_claim_that_is_repeated_is_one_claim(
    queue: Queue, reader: EntryReader, writer: Writer, producer: Producer, keys: Keys
) -> None:
    await producer.enqueue("x", provider="echo", id="j")
    (entry,) = await reader.take(1)
    names = [keys.log("j"), keys.record("j"), keys.cancel("j")]
    who = (entry.id, 1, 0, "w1", TTL_MS, "default", b"", 0)
    call = scripts.CLAIM.on(names, *who, "", "", "token", TTL_MS, "")
    first, second = [await writer.submit(call) for _ in range(2)]
    assert first[:5] == second[:5]
    assert first[2] == 1


async def test_an_event_that_no_reader_could_read_leaves_no_hole(
    queue: Queue, reader: EntryReader, log: EventLog, producer: Producer
) -> None:
    _, attempt = await claimed(queue, reader, producer)
    log.append(attempt, started(attempt))
    with pytest.raises(WireError):
        log.append(attempt, Chunk(attempt.next_id(), "\ud800"))
    log.append(attempt, Chunk(attempt.next_id(), "fine"))
    last = attempt.next_id()
    with pytest.raises(WireError):
        await log.finish(attempt, End(Failed(last, "x", "\ud800", 1), "failed", TTL_MS))
    await log.finish(attempt, End(Failed(last, "x", "fine", 1), "failed", TTL_MS))
    ids = [event.id async for event in producer.subscribe("j")]
    assert ids[1:] == [f"{attempt.id}-{seq}" for seq in range(3)]


async def test_what_was_handed_over_in_a_lost_reply_is_handed_back_by_one_who_stops(
    queue: Queue, reader: EntryReader, holdings: Holdings, producer: Producer, redis: Redis, keys: Keys
) -> None:
    for job_id in ("one", "two", "three"):
        await producer.enqueue("x", provider="echo", id=job_id)
    await redis.xreadgroup("workers", holdings.consumer, {keys.jobs("default"): ">"}, count=3)
    reader._in_doubt = True
    (taken,) = await reader.take(1)
    await queue.release(taken)
    for entry in await reader.rest():
        await queue.release(entry)
    _, entries = await queue.reclaim("default", "0-0", 5)
    assert len(entries) == 3


async def test_a_group_that_was_made_again_does_not_double_what_runs(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    await claimed(queue, reader, producer)
    await redis.xgroup_destroy(keys.jobs("default"), "workers")
    await reader.open()
    assert await reader.take(5) == []
