"""Providers that asked to be left alone, by all workers."""

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from functools import partial

import structlog
from redis.exceptions import RedisError

from producer.wire.keys import Keys
from worker import scripts
from worker.pending import Sender

logger = structlog.get_logger("chatrelay.parking")

_FIRST_REST, _LONGEST_REST = 1.0, 60.0  # seconds, where the service does not say for how long


Asked = Sequence[tuple[str, "asyncio.Future[int]"]]
"""A question about each of some providers."""


class Parking:
    """Parks providers, and tells until when they are. Instants are ms by Redis' clock."""

    def __init__(self, writer: Sender, keys: Keys) -> None:
        self._writer = writer
        self._keys = keys
        self._rests: dict[str, _Rest] = {}
        self._asked: dict[str, asyncio.Future[int]] = {}

    def ask(self, names: Iterable[str]) -> Asked:
        """Ask about the providers with the next pipeline; `answers` waits for what comes back."""
        return [(name, self._ask(name)) for name in names]

    async def answers(self, asked: Asked) -> dict[str, int]:
        """Return until when each of the providers is parked; those that are not are left out."""
        found: dict[str, int] = {}
        for name, future in asked:
            try:
                until = future.result() if future.done() else await asyncio.shield(future)
            except RedisError as error:  # something else stands there: no reason not to ask the provider
                logger.warning("cannot tell whether a provider is parked", provider=name, error=str(error))
            else:
                if until:
                    found[name] = until
        return found

    def _ask(self, name: str) -> "asyncio.Future[int]":
        asked = self._asked.get(name)
        if asked is None:  # otherwise somebody else is about to hear it
            call = scripts.PARKED.on([self._keys.parked(name)])
            asked = self._asked[name] = self._writer.submit(call, remember=False)
            asked.add_done_callback(partial(self._answered, name))
        return asked

    def _answered(self, name: str, asked: "asyncio.Future[int]") -> None:
        del self._asked[name]
        if not asked.cancelled():
            asked.exception()  # whoever asked may have gone before the answer came

    async def park(self, name: str, seconds: float | None) -> int:
        """Leave the provider alone for so long; if it did not say, for longer each time. Return until when."""
        if seconds is None:
            seconds = self._rests.setdefault(name, _Rest()).next()
        logger.warning("a provider asked to be left alone", provider=name, seconds=round(seconds, 3))
        call = scripts.PARK.on([self._keys.parked(name)], max(1, round(seconds * 1000)))
        # A server that forgot it is not told again: that would count from then, and the next refusal says it anew.
        until: int = await self._writer.submit(call, remember=False)
        return until

    def works(self, name: str) -> None:
        """Note that the provider answered."""
        self._rests.pop(name, None)


class _Rest:
    """How long to leave a provider alone that does not say: longer each time, up to a minute."""

    def __init__(self) -> None:
        self._length: float = _FIRST_REST / 2
        self._over_at: float = 0.0

    def next(self) -> float:
        """Return the rest in seconds. Calls that were under way when it began make it no longer."""
        now = time.monotonic()
        if now >= self._over_at:
            self._length = min(2 * self._length, _LONGEST_REST)
            self._over_at = now + self._length * random.uniform(0.5, 1.0)
        return self._over_at - now
