"""How many calls of a provider may run: in this worker, and in all workers together."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TypeVar

from producer.connection import Call
from producer.wire.keys import Keys
from worker import scripts
from worker.pending import Sender
from worker.providers.provider import Provider

T = TypeVar("T")

_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.02, 0.5  # seconds


class Limits:
    """Gives out places. A place among all workers' calls is a lease: what a killed worker held comes back by itself."""

    def __init__(self, writer: Sender, keys: Keys, lease: float) -> None:
        self._writer = writer
        self._keys = keys
        self._lease_ms = int(lease * 1000)
        self._local: dict[str, asyncio.Semaphore] = {}
        self._freed: dict[str, asyncio.Event] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._held: dict[str, Call] = {}

    async def within(self, provider: Provider, holder: str, call: Callable[[], Awaitable[T]]) -> T:
        """Wait for a place, and keep it while the call lasts. ``holder`` names this call, and no other."""
        async with self.place(provider, holder):
            return await call()

    @contextlib.asynccontextmanager
    async def place(self, provider: Provider, holder: str) -> AsyncIterator[None]:
        """Wait for a place, and keep it while inside."""
        async with self._local_place(provider):
            if provider.fleet_concurrency is None:
                yield
                return
            try:
                await self._acquire(provider.name, provider.fleet_concurrency, holder)
                yield
            finally:
                self._vacate(provider.name, holder)

    def renew(self) -> None:
        """Renew the leases of all places that are held."""
        for call in self._held.values():
            _not_awaited(self._writer.submit(call, remember=False))

    def _local_place(self, provider: Provider) -> contextlib.AbstractAsyncContextManager[object]:
        if provider.concurrency is None:
            return contextlib.nullcontext()
        return self._local.setdefault(provider.name, asyncio.Semaphore(provider.concurrency))

    async def _acquire(self, name: str, limit: int, holder: str) -> None:
        call = scripts.ACQUIRE.on([self._keys.slots(name)], holder, limit, self._lease_ms)
        self._freed.setdefault(name, asyncio.Event())
        # Behind a refusal one asks for all that wait here: a thousand that ask by themselves would keep Redis busy, and
        # the oldest would not be the first. Where nobody waits, nobody is waited for.
        turn = self._turns.setdefault(name, asyncio.Lock())
        if turn.locked() or not await self._is_given(name, call, holder):
            async with turn:
                await self._ask_until_it_is_given(name, call, holder)

    async def _ask_until_it_is_given(self, name: str, call: Call, holder: str) -> None:
        freed, pause = self._freed[name], _SHORTEST_PAUSE
        while True:
            freed.clear()
            if await self._is_given(name, call, holder):
                return
            # One that is freed in this worker is heard of; for those of the others it has to ask.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * random.uniform(0.5, 1.0)):
                    await freed.wait()
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _is_given(self, name: str, call: Call, holder: str) -> bool:
        asked = self._writer.submit(call, remember=False)
        try:
            given = bool(await asyncio.shield(asked))
        except asyncio.CancelledError:
            # Redis may be asked again later than it is told that the place is free.
            asked.add_done_callback(lambda _: self._vacate(name, holder))
            raise
        if given:
            self._held[holder] = call
        return given

    def _vacate(self, name: str, holder: str) -> None:
        self._held.pop(holder, None)
        vacated = self._writer.submit(scripts.VACATE.on([self._keys.slots(name)], holder))
        vacated.add_done_callback(lambda _: self._freed[name].set())
        _not_awaited(vacated)


def _not_awaited(future: "asyncio.Future[object]") -> None:
    """Nobody waits for it: a place that Redis refuses to give back is free when its lease ends."""
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
