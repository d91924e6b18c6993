"""Providers that asked to be left alone, by all workers."""

import random
from collections.abc import Iterable

import structlog

from producer.wire.keys import Keys
from worker import scripts
from worker.writer import Writer

logger = structlog.get_logger("chatrelay.parking")

_FIRST_REST, _LONGEST_REST = 1.0, 60.0  # seconds, where the service does not say for how long


class Parking:
    """Parks providers, and tells until when they are. Instants are ms by Redis' clock."""

    def __init__(self, writer: Writer, keys: Keys) -> None:
        self._writer = writer
        self._keys = keys
        self._strikes: dict[str, int] = {}

    async def look(self, names: Iterable[str]) -> dict[str, int]:
        """Return until when each of the providers is parked; those that are not are left out."""
        calls = {
            name: self._writer.submit(scripts.PARKED.on([self._keys.parked(name)]), remember=False)
            for name in names
        }
        found = {name: int(await until) for name, until in calls.items()}
        return {name: until for name, until in found.items() if until}

    async def park(self, name: str, seconds: float | None) -> int:
        """Leave the provider alone for so long; if it did not say, for longer each time. Return until when."""
        if seconds is None:
            self._strikes[name] = strikes = self._strikes.get(name, 0) + 1
            seconds = min(_LONGEST_REST, _FIRST_REST * 2 ** (strikes - 1)) * random.uniform(0.5, 1.0)
        call = scripts.PARK.on([self._keys.parked(name)], max(1, round(seconds * 1000)))
        until: int = await self._writer.submit(call)
        logger.warning("a provider asked to be left alone", provider=name, seconds=round(seconds, 3))
        return until

    def works(self, name: str) -> None:
        """Note that the provider answered."""
        self._strikes.pop(name, None)
