"""The worker's parts, one by one, over a real client."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from producer.connection.tasks import end
from producer.wire.keys import Keys
from tests.support.servers import Server
from worker.event_log import EventLog
from worker.queue import Queue
from worker.settings import Settings
from worker.writer import Writer


@pytest.fixture
async def writer(redis: Redis) -> AsyncIterator[Writer]:
    """A running writer."""
    writer = Writer(redis, 5)
    running = asyncio.create_task(writer.run())
    yield writer
    assert not running.done(), "the writer broke"
    await end(running)


@pytest.fixture
def log(writer: Writer, keys: Keys) -> EventLog:
    return EventLog(writer, keys)


@pytest.fixture
async def queue(redis: Redis, writer: Writer, keys: Keys, server: Server) -> Queue:
    settings = Settings(redis_url=server.url, name="w1", consumer_suffix="x", poll=0.02)
    queue = Queue(redis, writer, keys, settings)
    await queue.open()
    return queue
