"""A worker that froze between taking an entry and claiming its job, and wakes when the entry is long gone."""

import pytest
from redis.asyncio import Redis

from producer import Failed, Producer, Waiting
from producer.wire.dead import DeadLetter
from producer.wire.keys import GROUP, Keys
from tests.support.servers import Server
from worker.attempt import LeaseLost
from worker.entry_reader import EntryReader
from worker.event_log import End, EventLog
from worker.holdings import Entry, Holdings
from worker.queue import Claim, Claimed, Queue
from worker.settings import Settings
from worker.writer import Writer

CLAIM = Claim("j", created_at=0)
TTL_MS = 60_000


async def reclaimed(redis: Redis, keys: Keys, other: Queue, entry: Entry) -> Entry:
    """Handed to another worker, because the lease of the first one was over."""
    await redis.xclaim(keys.jobs(entry.queue), GROUP, "w1:x", 0, [entry.id], idle=3_600_000, justid=True)
    _, (again,) = await other.reclaim(entry.queue, "0-0", 1)
    return again


@pytest.fixture
def other(writer: Writer, keys: Keys, server: Server, reader: EntryReader) -> Queue:
    """A second worker's."""
    settings = Settings(redis_url=server.url, name="w2", consumer_suffix="x", lease=60)
    return Queue(writer, keys, Holdings("w2:x"), settings)


async def test_a_frozen_worker_does_not_take_the_new_life_of_a_job_from_its_entry(
    queue: Queue,
    other: Queue,
    reader: EntryReader,
    log: EventLog,
    producer: Producer,
    redis: Redis,
    keys: Keys,
) -> None:
    await producer.enqueue("x", provider="echo", id="j")
    (entry,) = await reader.take(1)  # w1 freezes here
    entry_of_w2 = await reclaimed(redis, keys, other, entry)
    claimed = await other.claim(entry_of_w2, CLAIM)
    assert isinstance(claimed, Claimed)
    failed = End(Failed(claimed.attempt.next_id(), "unauthorized", "no", 1), "failed", TTL_MS)
    await log.finish(claimed.attempt, failed)
    await other.bury(entry_of_w2, DeadLetter(entry.body, "j", "unauthorized", "no"))
    (dead,) = await producer.dead()
    await producer.retry_dead(dead)

    frozen = await queue.claim(entry, CLAIM)  # w1 wakes, and becomes the owner of the new life
    assert isinstance(frozen, Claimed)
    (new_entry,) = await reader.take(1)
    owner = await other.claim(new_entry, CLAIM)  # but it claimed by an entry that is in no queue any more
    assert isinstance(owner, Claimed)
    put_off = End(Waiting(frozen.attempt.next_id(), 0, "retry"), "waiting", TTL_MS, due_ms=0)
    with pytest.raises(LeaseLost):
        await log.finish(frozen.attempt, put_off)
    await queue.defer(entry, 0)
    assert await redis.exists(keys.later(entry.queue)) == 0
    end = End(Failed(owner.attempt.next_id(), "x", "x", 1), "failed", TTL_MS)
    await log.finish(owner.attempt, end)
    assert [event.type async for event in producer.subscribe("j")] == ["queued", "failed"]
