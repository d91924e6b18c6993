"""How the blocking twin is left: half-read readers, closed and forgotten Producers."""

import asyncio
import gc

import pytest
from redis.asyncio import Redis

from producer import (
    Unavailable,
)
from producer.blocking import Producer
from producer.wire.keys import Keys
from tests.support.processes import PATIENCE
from tests.support.scribe import Scribe
from tests.support.servers import Server
from tests.support.twin import JOB, LISTENER, QUEUED, WHOLE, inside, tasks, until


async def left_behind(blocking: Producer, redis: Redis, keys: Keys) -> tuple[set[str], set[str]]:
    """The tasks and the seats that are there besides those of one further reader, whose seat comes last."""
    gc.collect()
    await Scribe(redis, keys, "other").write(QUEUED)
    other = blocking.subscribe("other")
    await asyncio.to_thread(next, other)
    seats = blocking._session.client._listener.channels - {keys.events("other")}
    return await asyncio.to_thread(inside, blocking, tasks) - LISTENER, seats


async def test_a_reader_left_half_read_leaves_nothing_behind(
    blocking: Producer, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    await scribe.write(QUEUED)
    await scribe.write(*WHOLE[1:3])

    def use() -> None:
        for _ in blocking.subscribe(JOB):
            break
        for _ in blocking.text(JOB):
            break
        with blocking.subscribe(JOB) as subscription:
            next(subscription)
        kept.append(subscription)
        stream = blocking.text(JOB)
        next(stream)
        stream.close()
        assert list(stream) == []
        kept.append(stream)

    kept: list[object] = []
    await asyncio.to_thread(use)
    assert await left_behind(blocking, redis, keys) == (set(), set())


async def test_closing_a_subscription_ends_the_wait_of_another_thread(
    blocking: Producer, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    await scribe.write(QUEUED)
    subscription = blocking.subscribe(JOB)
    reading = asyncio.create_task(asyncio.to_thread(list, subscription))
    await until(lambda: subscription.cursor and subscription._fetching)
    await asyncio.to_thread(subscription.close)
    assert await reading == [QUEUED]
    assert await left_behind(blocking, redis, keys) == (set(), set())


async def test_closing_the_producer_is_told_to_who_waits(blocking: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    subscription = blocking.subscribe(JOB)
    reading = asyncio.create_task(asyncio.to_thread(list, subscription))
    asking = asyncio.create_task(asyncio.to_thread(blocking.result, JOB))
    await until(lambda: subscription.cursor and subscription._fetching)
    await asyncio.to_thread(blocking.close)
    for waiting in (reading, asking):
        with pytest.raises(Unavailable, match="closed"):
            await waiting


def test_a_closed_producer_refuses_each_verb_with_the_typed_error(server: Server, prefix: str) -> None:
    client = Producer(server.url, prefix=prefix)
    job = client.enqueue("x", queue="nobody")
    half_read = client.subscribe(job.id)
    next(half_read)
    thread = client._session.thread._thread
    assert thread is not None
    client.close()
    client.close()
    assert not thread.is_alive()
    for verb in (
        lambda: client.enqueue("x"),
        lambda: client.cancel(job.id),
        lambda: next(client.subscribe(job.id)),
        lambda: next(client.stream("x")),
        lambda: next(client.text(job.id)),
        lambda: client.result(job.id),
        lambda: client.status(job.id),
        lambda: client.queues(),
        lambda: next(half_read),
    ):
        with pytest.raises(Unavailable, match="closed"):
            verb()
    half_read.close()
    assert list(half_read) == []


def test_one_that_was_never_used_closes_without_a_word(server: Server) -> None:
    with Producer(server.url) as client:
        assert client._session.thread._thread is None
    with pytest.raises(Unavailable, match="closed"):
        client.queues()


def test_one_that_nobody_holds_any_more_ends_its_thread_and_connections(server: Server, prefix: str) -> None:
    client = Producer(server.url, prefix=prefix)
    subscription = client.subscribe(client.enqueue("x", queue="nobody").id)
    thread = client._session.thread._thread
    assert thread is not None
    del client
    gc.collect()
    assert next(subscription).type == "queued"  # whoever reads holds it
    del subscription
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()
