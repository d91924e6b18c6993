"""What several tests of the client share: its blocking twin, and hands that write what a worker would."""

from collections.abc import Iterator

import pytest
from redis.asyncio import Redis

from producer import Producer
from producer.blocking import Producer as BlockingProducer
from producer.wire.keys import Keys
from tests.support.scribe import Scribe
from tests.support.servers import Server
from tests.support.twin import JOB
from tests.support.undertaker import Undertaker


@pytest.fixture
def blocking(server: Server, prefix: str) -> Iterator[BlockingProducer]:
    """One whose subscriptions do not look at the log by themselves within a test's time."""
    with BlockingProducer(server.url, prefix=prefix, idle_check=60) as client:
        yield client


@pytest.fixture
def scribe(redis: Redis, keys: Keys) -> Scribe:
    return Scribe(redis, keys, JOB)


@pytest.fixture
def undertaker(redis: Redis, keys: Keys, producer: Producer) -> Undertaker:
    return Undertaker(redis, keys, producer)
