"""Several callers, one step at a time: what each says to Redis, in every kind of order."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from redis.asyncio import Redis

from producer.connection import Call
from producer.link import Link

T = TypeVar("T")


class Stepped(Link):
    """A link over another one, whose every step waits until the test lets it go."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.waits = asyncio.Event()
        self.go = asyncio.Event()

    async def run_telling(self, calls: Callable[[bool], Sequence[Call]]) -> list[Any]:
        await self._turn()
        return await self._link.run_telling(calls)

    async def ask(self, command: Callable[[Redis], Awaitable[T]]) -> T:
        await self._turn()
        return await self._link.ask(command)

    async def _turn(self) -> None:
        self.waits.set()
        await self.go.wait()
        self.go.clear()


async def interleaved(
    links: Sequence[Stepped], work: Callable[[Stepped], Awaitable[Any]], seed: int
) -> list[Any]:
    """Do the work over every link, one step at a time, in an order drawn by lot; return what came of each."""
    lot = random.Random(seed)
    tasks = {asyncio.ensure_future(work(link)): link for link in links}
    while running := [task for task in tasks if not task.done()]:
        task = lot.choice(running)
        link = tasks[task]
        await _first(task, link.waits)
        link.waits.clear()
        link.go.set()
        await _first(task, link.waits)
    return await asyncio.gather(*tasks, return_exceptions=True)


async def _first(task: "asyncio.Future[Any]", waits: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(waits.wait())
    await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
