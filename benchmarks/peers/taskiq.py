"""taskiq: taskiq-redis' list broker, 128 tasks at the same time and as many fetched ahead, orjson.

The list broker acknowledges nothing: a worker that dies loses what it has taken. The stream broker does, and gets
through about as many jobs, but its round trip takes several times as long. Results are stored only where somebody waits
for them, who looks every millisecond: there is no other way.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from taskiq import AsyncBroker
from taskiq.api import run_receiver_task
from taskiq.decor import AsyncTaskiqDecoratedTask
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.peers.side import Client, Counter, Side, main, run

POLL = 0.001  # seconds


def open_broker(url: str, *, results: bool) -> AsyncBroker:
    broker: AsyncBroker = ListQueueBroker(url).with_serializer(ORJSONSerializer())
    if results:
        broker = broker.with_result_backend(
            RedisAsyncResultBackend(url, result_ex_time=60, serializer=ORJSONSerializer())
        )
    return broker


class TaskiqClient(Client):
    def __init__(self, task: AsyncTaskiqDecoratedTask[Any, Any]) -> None:
        self._task = task

    async def enqueue(self, text: str) -> None:
        await self._task.kiq(text)

    async def ask(self, text: str) -> None:
        task = await self._task.kiq(text)
        await task.wait_result(check_interval=POLL, timeout=10)


class Taskiq(Side):
    concurrency = 128

    def work(self, url: str, body: Counter, *, results: bool) -> None:
        async def work() -> None:
            broker = open_broker(url, results=results)

            @broker.task(task_name="nothing")
            async def nothing(text: str) -> None:
                body()

            await run_receiver_task(
                broker,
                run_startup=True,
                validate_params=False,
                max_async_tasks=self.concurrency,
                max_prefetch=self.concurrency,
            )

        run(work())

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[Client]:
        broker = open_broker(url, results=True)
        await broker.startup()

        @broker.task(task_name="nothing")
        async def nothing(text: str) -> None:
            raise AssertionError("this is the worker's")

        try:
            yield TaskiqClient(nothing)
        finally:
            await broker.shutdown()


if __name__ == "__main__":
    main(Taskiq())
