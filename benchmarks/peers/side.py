"""The shape that all sides share. Each is a program of three commands, run in an environment of its own:

    python -m benchmarks.peers.NAME work    --redis URL --jobs N       # does nothing, as jobs, until SIGTERM
    python -m benchmarks.peers.NAME enqueue --redis URL --jobs N       # N jobs by 50 tasks at once
    python -m benchmarks.peers.NAME ask     --redis URL --jobs N       # one at a time, each to its result

`work` prints a line when it has begun the first job and one when it has begun the last; the others print what they
took. Instants are CLOCK_MONOTONIC, which all processes of a machine share. Only the standard library is imported
here: this runs beside each peer's own dependencies.
"""

import argparse
import asyncio
import itertools
import json
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

T = TypeVar("T")

TEXT = "hello"
TASKS = 50
WARM_UP = 50


class Client(ABC):
    """A producer of one side: one per process."""

    @abstractmethod
    async def enqueue(self, text: str) -> None:
        """Return when the job is in Redis."""

    @abstractmethod
    async def ask(self, text: str) -> None:
        """Enqueue a job and return when its end is seen."""


class Side(ABC):
    """A queue: how a worker of it runs, and how a producer of it is opened."""

    concurrency: int
    """Jobs at the same time in a worker, or threads: what was fastest for jobs that do nothing."""

    @abstractmethod
    def work(self, url: str, body: "Counter", *, results: bool) -> None:
        """Run one worker in this process until SIGTERM. ``body`` is all that a job does.

        ``results``: whether somebody wants them; they are switched off where that is possible and nobody does.
        """

    @abstractmethod
    def client(self, url: str) -> AbstractAsyncContextManager[Client]:
        """Open a producer."""


class Counter:
    """The body of every job. Says when the first and when the last one ran; bears threads."""

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self._numbers = itertools.count(1)

    def __call__(self) -> None:
        number = next(self._numbers)
        if number in (1, self.jobs):
            tell({"number": number, "at": time.monotonic(), "cpu_s": time.process_time()})


def tell(fact: dict[str, Any]) -> None:
    print(json.dumps(fact), flush=True)


def main(side: Side) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("work", "enqueue", "ask"))
    parser.add_argument("--redis", required=True)
    parser.add_argument("--jobs", type=int, required=True)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--concurrency", type=int, help="work: instead of the side's own")
    parser.add_argument("--results", action="store_true", help="work: somebody waits for the results")
    given = parser.parse_args()
    side.concurrency = given.concurrency or side.concurrency
    if given.command == "work":
        side.work(given.redis, Counter(given.jobs), results=given.results)
    elif given.command == "enqueue":
        run(enqueue(side, given.redis, given.jobs, given.tasks))
    else:
        run(ask(side, given.redis, given.jobs))


async def enqueue(side: Side, url: str, jobs: int, tasks: int) -> None:
    async with side.client(url) as client:
        await asyncio.gather(*(client.enqueue(TEXT) for _ in range(tasks)))  # opens the connections
        began, cpu = time.monotonic(), time.process_time()
        numbers = iter(range(jobs - tasks))

        async def one_after_the_other() -> None:
            for _ in numbers:
                await client.enqueue(TEXT)

        await asyncio.gather(*(one_after_the_other() for _ in range(tasks)))
        seconds, cpu_s = time.monotonic() - began, time.process_time() - cpu
        tell({"jobs": jobs - tasks, "seconds": seconds, "cpu_s": cpu_s})


async def ask(side: Side, url: str, jobs: int) -> None:
    async with side.client(url) as client:
        for _ in range(WARM_UP):
            await client.ask(TEXT)
        cpu = time.process_time()
        seconds = [taken async for taken in each_taken(client, jobs)]
        tell({"seconds": seconds, "cpu_s": time.process_time() - cpu})


async def each_taken(client: Client, jobs: int) -> AsyncIterator[float]:
    for _ in range(jobs):
        began = time.perf_counter()
        await client.ask(TEXT)
        yield time.perf_counter() - began


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end, on uvloop where this environment has it."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(main)


def loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
