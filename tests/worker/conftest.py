"""The worker's parts, one by one, over a real client."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from producer.connection import Line, Url
from producer.connection.tasks import end
from producer.wire.keys import Keys
from tests.support.rival import Rival
from tests.support.servers import Server
from worker.cancellations import Cancellations
from worker.entry_reader import EntryReader
from worker.event_log import EventLog
from worker.holdings import Holdings
from worker.limits import Limits
from worker.queue import Queue
from worker.settings import Settings
from worker.upkeep import Upkeep
from worker.writer import Writer


@pytest.fixture
async def writer(server: Server) -> AsyncIterator[Writer]:
    """A running writer."""
    line = Line(Url(server.url), 5)
    writer = Writer(line, 5)
    running = asyncio.create_task(writer.run())
    yield writer
    assert not running.done(), "the writer broke"
    await end(running)
    line.close()


@pytest.fixture
def log(writer: Writer, keys: Keys) -> EventLog:
    return EventLog(writer, keys)


@pytest.fixture
def settings(server: Server) -> Settings:
    return Settings(redis_url=server.url, name="w1", consumer_suffix="x", poll=0.02)


@pytest.fixture
def holdings(settings: Settings) -> Holdings:
    return Holdings(f"{settings.name}:{settings.consumer_suffix}")


@pytest.fixture
async def reader(redis: Redis, keys: Keys, holdings: Holdings, settings: Settings) -> EntryReader:
    """One that takes entries, with its groups made."""
    reader = EntryReader(redis, keys, holdings, settings)
    await reader.open()
    return reader


@pytest.fixture
def queue(writer: Writer, keys: Keys, reader: EntryReader, holdings: Holdings, settings: Settings) -> Queue:
    return Queue(writer, keys, holdings, settings)


@pytest.fixture
def rival(redis: Redis, writer: Writer, keys: Keys, settings: Settings) -> Rival:
    """Another worker, step by step."""
    return Rival(redis, writer, keys, settings.model_copy(update={"name": "rival", "lease": 0.001}))


MakeUpkeep = Callable[..., Upkeep]


@pytest.fixture
def upkeep_of(queue: Queue, redis: Redis, keys: Keys, writer: Writer, settings: Settings) -> MakeUpkeep:
    """Make an upkeep for a worker with these slots, and with ``changes`` of its settings."""

    def make(slots: Any, queue: Queue = queue, **changes: object) -> Upkeep:
        changed = settings.model_copy(update=changes)
        limits = Limits(writer, keys, changed.lease)
        return Upkeep(queue, Cancellations(redis, keys, changed), limits, changed, slots)

    return make
