"""chatrelay: started and done are logged, fenced, published on the job's channel; ends are kept for retention.

The worker is the one that users start; its provider ends the answer without a word. 400 jobs at the same time:
with fewer of them the worker waits for the server at times, and more of them take no less time.
"""

import os
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from benchmarks.peers.side import Client, Counter, Side, main
from producer import Producer
from worker.providers.base import AsyncGeneratorProvider, Finish, Messages, Part

CONFIG = Path(__file__).with_name("nothing.toml")
JOBS = "BENCH_JOBS"  # the variable that tells the provider how many to expect
PROFILE = "BENCH_PROFILE"  # the variable that names a file for a profile of the worker

_body = Counter(int(os.environ.get(JOBS, "0")))


class Nothing(AsyncGeneratorProvider):
    """Answers with nothing, at once."""

    working = True
    models = ("nothing",)

    @classmethod
    async def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: float = 120,
        temperature: float = 0.5,
        **options: Any,
    ) -> AsyncGenerator[Part]:
        _body()
        yield Finish("stop")


class ChatrelayClient(Client):
    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    async def enqueue(self, text: str) -> None:
        await self._producer.enqueue(text, provider="nothing")

    async def ask(self, text: str) -> None:
        job = await self._producer.enqueue(text, provider="nothing")
        async for _ in self._producer.subscribe(job.id):
            pass


class Chatrelay(Side):
    concurrency = 400

    def work(self, url: str, body: Counter, *, results: bool) -> None:
        options = ["--redis", url, "--config", str(CONFIG), "--log-level", "warning"]
        options += ["--concurrency", str(self.concurrency)]
        os.environ[JOBS] = str(body.jobs)
        out = os.environ.get(PROFILE)
        program = ["-m", "benchmarks.profiled", out, "worker"] if out else ["-m", "worker"]
        os.execv(sys.executable, [sys.executable, *program, "run", *options])  # noqa: S606 - no shell is wanted

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[Client]:
        async with Producer(url) as producer:
            yield ChatrelayClient(producer)


if __name__ == "__main__":
    main(Chatrelay())
