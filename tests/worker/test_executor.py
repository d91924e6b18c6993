import sys
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import Producer
from producer.wire.keys import Keys
from tests.support.collector import no_collector
from worker.asking import Asker
from worker.cancellations import Cancellations
from worker.entry_reader import EntryReader
from worker.event_log import EventLog
from worker.executor import Executor
from worker.limits import Limits
from worker.outcome import Lost
from worker.parking import Parking
from worker.providers.registry import Registry
from worker.queue import Queue
from worker.settings import Settings
from worker.standing import StandingReader
from worker.writer import Writer


@pytest.fixture
def executor(
    queue: Queue, log: EventLog, writer: Writer, redis: Redis, keys: Keys, settings: Settings
) -> Executor:
    """One that knows no provider."""
    http: Any = None
    limits = Limits(writer, keys, settings.lease)
    asker = Asker(log, Cancellations(redis, keys, settings), limits, http, settings.name)
    standing = StandingReader(writer, keys)
    return Executor(queue, log, asker, Parking(writer, keys), standing, Registry([]), settings)


async def test_a_job_that_redis_refused_is_kept_by_nobody_once_it_is_buried(
    executor: Executor, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="echo")
    await redis.delete(keys.record(job.id))
    await redis.lpush(keys.record(job.id), "no hash")
    (entry,) = await reader.take(1)
    held = sys.getrefcount(entry)
    with no_collector():
        assert await executor.execute(entry) == Lost()
        assert sys.getrefcount(entry) == held
    assert await redis.xlen(keys.dead("default")) == 1
