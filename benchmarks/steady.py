"""Turns that count: those in which the machine had the speed that it has at other times of the same run.

A virtual machine shares its processors with others that nobody here sees, and may lose half of its speed for minutes.
What one way took then says nothing beside what another one took before. How long the interpreter needs for always the
same (`benchmarks.yardstick`) tells the two states apart, before and after each turn.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from benchmarks.yardstick import nanoseconds_on_the_slowest

T = TypeVar("T")

ALLOWED = 1.2
"""By how much a turn's yardstick may be above the best of the run."""

PATIENCE = 1500.0
"""Seconds that a run may spend on waiting, and on turns that do not count: a machine that stays slow is measured."""

_LOOK_AGAIN_AFTER = 2.0  # seconds


class Steady:
    """Measures turns, and those anew that the machine was too slow for. ``look`` returns the yardstick, in ns."""

    def __init__(
        self,
        look: Callable[[], float] = nanoseconds_on_the_slowest,
        patience: float = PATIENCE,
        pause: float = _LOOK_AGAIN_AFTER,
    ) -> None:
        self._look = look
        self._patience = patience
        self._pause = pause
        self._best = look()
        self._turns = self._again = self._slow = 0

    @property
    def told(self) -> str:
        """What is to be said of it beside the figures."""
        return (
            f"Of {self._turns} turns {self._again} were measured again, because the machine had lost more than "
            f"{ALLOWED - 1:.0%} of its speed before or after; {self._slow} count although it had."
        )

    async def turn(self, measure: Callable[[], Awaitable[T]]) -> T:
        """Return what ``measure`` returns, of a turn in which the machine was itself if one comes in time."""
        self._turns += 1
        while True:
            await self._until_itself()
            began = time.monotonic()
            taken = await measure()
            if self._is_itself():
                return taken
            self._patience -= time.monotonic() - began
            if self._patience <= 0:
                self._slow += 1
                return taken
            self._again += 1

    async def _until_itself(self) -> None:
        while self._patience > 0 and not self._is_itself():
            self._patience -= self._pause
            await asyncio.sleep(self._pause)

    def _is_itself(self) -> bool:
        seen = self._look()
        self._best = min(self._best, seen)
        return seen <= ALLOWED * self._best
