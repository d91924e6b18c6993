"""arq: 128 jobs at the same time, the queue polled every millisecond, msgpack instead of pickle, no logging.

Results are kept only where somebody waits for them, who polls for them every millisecond as well: arq has no other
way, and its default is half a second at both ends.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgpack
from arq import create_pool, func
from arq.connections import ArqRedis, RedisSettings
from arq.worker import Worker

from benchmarks.peers.side import Client, Counter, Side, loop_factory, main

POLL = 0.001  # seconds


class ArqClient(Client):
    def __init__(self, redis: ArqRedis) -> None:
        self._redis = redis

    async def enqueue(self, text: str) -> None:
        await self._redis.enqueue_job("nothing", text)

    async def ask(self, text: str) -> None:
        job = await self._redis.enqueue_job("nothing", text)
        assert job is not None
        await job.result(timeout=10, poll_delay=POLL)


class Arq(Side):
    concurrency = 128

    def work(self, url: str, body: Counter, *, results: bool) -> None:
        async def nothing(context: dict[str, Any], text: str) -> None:
            body()

        asyncio.set_event_loop(loop_factory()())  # arq takes the loop that it finds
        Worker(
            [func(nothing, name="nothing")],
            redis_settings=RedisSettings.from_dsn(url),
            max_jobs=self.concurrency,
            poll_delay=POLL,
            keep_result=60 if results else 0,
            job_serializer=msgpack.packb,
            job_deserializer=msgpack.unpackb,
            log_results=False,
        ).run()

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[Client]:
        redis = await create_pool(
            RedisSettings.from_dsn(url), job_serializer=msgpack.packb, job_deserializer=msgpack.unpackb
        )
        try:
            yield ArqClient(redis)
        finally:
            await redis.aclose()


if __name__ == "__main__":
    main(Arq())
