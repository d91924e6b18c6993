"""dramatiq: no middleware but for results that somebody waits for, 16 threads, 1,000 messages fetched ahead.

An idle worker looks for messages at growing intervals, up to a bound: here of a millisecond, by default of a second.
Its client blocks the thread that calls it, so 50 tasks of one event loop enqueue one after the other; threads of
their own for them are slower.
"""

import os
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

os.environ.setdefault("dramatiq_queue_prefetch", "1000")

import dramatiq
from dramatiq import Actor, Worker
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.side import Client, Counter, Side, main

LONGEST_PAUSE_MS = 1


def nothing_of(url: str, body: Counter | None, *, results: bool) -> "Actor[[str], None]":
    middleware = [Results(backend=RedisBackend(url=url), store_results=True)] if results else []
    dramatiq.set_broker(RedisBroker(url=url, middleware=middleware))

    @dramatiq.actor(actor_name="nothing")
    def nothing(text: str) -> None:
        assert body is not None
        body()

    return nothing


class DramatiqClient(Client):
    def __init__(self, actor: "Actor[[str], None]") -> None:
        self._actor = actor

    async def enqueue(self, text: str) -> None:
        self._actor.send(text)

    async def ask(self, text: str) -> None:
        self._actor.send(text).get_result(block=True)


class Dramatiq(Side):
    concurrency = 16

    def work(self, url: str, body: Counter, *, results: bool) -> None:
        stop = threading.Event()
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        broker = nothing_of(url, body, results=results).broker
        worker = Worker(broker, worker_threads=self.concurrency, worker_timeout=LONGEST_PAUSE_MS)
        worker.start()
        stop.wait()
        worker.stop()

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[Client]:
        yield DramatiqClient(nothing_of(url, None, results=True))


if __name__ == "__main__":
    main(Dramatiq())
