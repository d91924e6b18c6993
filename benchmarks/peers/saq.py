"""saq: 64 coroutines that each take a job with a blocking move, orjson, no logging.

Finished jobs are deleted at once where nobody waits for them. Who waits uses `apply`, and looks every millisecond
instead of twice a second.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
from saq import Queue, Worker
from saq.queue.redis import RedisQueue

from benchmarks.peers.side import Client, Counter, Side, main, run

POLL = 0.001  # seconds
DELETE_AT_ONCE, A_MINUTE = -1, 60  # a job's ttl


def open_queue(url: str) -> RedisQueue:
    queue = Queue.from_url(url, dump=orjson.dumps, load=orjson.loads)
    assert isinstance(queue, RedisQueue)
    return queue


class SaqClient(Client):
    def __init__(self, queue: RedisQueue) -> None:
        self._queue = queue

    async def enqueue(self, text: str) -> None:
        await self._queue.enqueue("nothing", text=text, ttl=DELETE_AT_ONCE)

    async def ask(self, text: str) -> None:
        await self._queue.apply("nothing", text=text, ttl=A_MINUTE, poll_interval=POLL)


class Saq(Side):
    concurrency = 64

    def work(self, url: str, body: Counter, *, results: bool) -> None:
        async def nothing(context: dict[str, Any], *, text: str) -> None:
            body()

        async def work() -> None:
            queue = open_queue(url)
            # A worker that starts sweeps, and takes jobs for stuck that it is about to run: not while this is there.
            await queue.redis.set(queue.namespace("sweep"), 1, ex=A_MINUTE)
            worker = Worker(queue, [("nothing", nothing)], concurrency=self.concurrency)
            await worker.start()

        run(work())

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[Client]:
        queue = open_queue(url)
        await queue.connect()
        try:
            yield SaqClient(queue)
        finally:
            await queue.disconnect()


if __name__ == "__main__":
    main(Saq())
