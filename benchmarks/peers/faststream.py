"""FastStream: a stream with a group, 1,000 entries at one read, each acknowledged; no type checks, no logging.

A handler at a time: handlers in parallel (``max_workers``) are slower for jobs that do nothing. A list instead of the
stream is as fast, and loses what a dying worker has taken. Answers come by its own request and reply, over pub/sub.
"""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from faststream import FastStream
from faststream.redis import RedisBroker, StreamSub
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from benchmarks.peers.side import Client, Counter, Side, main, run

NAME, GROUP = "nothing", "workers"
AT_ONE_READ = 1000
BLOCK_MS = 1000


def open_broker(url: str) -> RedisBroker:
    return RedisBroker(url, apply_types=False, logger=None)


async def make_group(url: str) -> None:
    """FastStream's own begins behind what is in the stream already."""
    async with Redis.from_url(url) as redis:
        with suppress(ResponseError):  # it is there
            await redis.xgroup_create(NAME, GROUP, id="0", mkstream=True)


class FastStreamClient(Client):
    def __init__(self, broker: RedisBroker) -> None:
        self._broker = broker

    async def enqueue(self, text: str) -> None:
        await self._broker.publish(text, stream=NAME)

    async def ask(self, text: str) -> None:
        await self._broker.request(text, stream=NAME, timeout=10)


class FastStreamSide(Side):
    """``acknowledged``: with false an entry is forgotten with the read (``NOACK``)."""

    concurrency = 1

    def __init__(self, *, acknowledged: bool = True) -> None:
        self._acknowledged = acknowledged

    def work(self, url: str, body: Counter, *, results: bool) -> None:
        stream = StreamSub(
            NAME,
            group=GROUP,
            consumer="w1",
            last_id=">",
            max_records=AT_ONE_READ,
            polling_interval=BLOCK_MS,
            no_ack=not self._acknowledged,
        )

        async def work() -> None:
            await make_group(url)
            broker = open_broker(url)

            @broker.subscriber(stream=stream)
            async def nothing(text: str) -> None:
                body()

            await FastStream(broker, logger=None).run(log_level=logging.WARNING)

        run(work())

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[Client]:
        await make_group(url)
        async with open_broker(url) as broker:
            yield FastStreamClient(broker)


if __name__ == "__main__":
    main(FastStreamSide())
