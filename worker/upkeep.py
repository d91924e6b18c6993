"""Three short loops: renew ours, reclaim the dead's, promote the due."""

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from typing import Any, Protocol, TypeVar

import structlog
from redis.exceptions import RedisError

from worker.cancellations import Cancellations
from worker.holdings import Entry
from worker.limits import Limits
from worker.queue import Queue
from worker.settings import Settings

logger = structlog.get_logger("chatrelay.upkeep")

_TIDIED_AFTER = 600.0  # seconds for which a consumer that holds nothing was silent
_TIME_TO_RENEW = 3.0  # seconds: every writer tries again within two
_RECLAIMED_AT_ONCE = 8  # entries of up to 4 MiB, in one reply
_SOONEST_AGAIN = 0.05  # seconds between two looks that follow upon errors


T = TypeVar("T")


class Slots(Protocol):
    """What the loops need to know of the worker."""

    def free(self) -> int:
        """How many more jobs it can run."""

    def take(self, entry: Entry) -> None:
        """Run the entry, or hand it back where there is no slot after all."""


class Upkeep:
    """Keeps the queues in order. Each loop bears every outage, and ends only when it is cancelled."""

    def __init__(
        self, queue: Queue, cancellations: Cancellations, limits: Limits, settings: Settings, slots: Slots
    ) -> None:
        self._has_left_some = False  # for which there was no slot
        self._not_before = 0.0  # nothing is reclaimed, by the loop's clock
        self._queue = queue
        self._cancellations = cancellations
        self._limits = limits
        self._slots = slots
        self._queues = settings.queues
        self._lease = settings.lease
        self._sweep = settings.sweep
        self._released = asyncio.Event()
        self._released.set()  # what was released before this worker was there to hear of it waits for no sweep
        self._later = asyncio.Event()

    @property
    def is_behind(self) -> bool:
        """Whether there are entries to be reclaimed, and was no slot for them."""
        return self._has_left_some and asyncio.get_running_loop().time() >= self._not_before

    def hear(self, hint: str) -> None:
        """Take a hint off the control channel."""
        if hint == "released":
            self._released.set()
        elif hint == "later":
            self._later.set()

    # -- renew ours ----------------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Renew all leases, three times as often as they end. What was lost is stopped here."""
        while True:
            await asyncio.sleep(self._lease / 3)
            await _bear(self._renew())

    async def _renew(self) -> None:
        loop = asyncio.get_running_loop()
        asked_at = loop.time()
        self._limits.renew()
        lost = await self._queue.renew()
        # A lease has at least two thirds left when an outage begins, and a sweep's time may pass before one asks.
        if loop.time() - asked_at > max(self._lease / 3, self._lease * 2 / 3 - self._sweep):
            # Nobody could renew. The living are given the time to do so, before they are taken for dead.
            pause = min(self._lease, _TIME_TO_RENEW)
            self._not_before = loop.time() + pause
            logger.warning("redis was away, leases are given time to be renewed", seconds=pause)
        for entry in lost:
            logger.warning(
                "the lease was lost: another worker has the job", queue=entry.queue, entry=entry.id
            )
            self._cancellations.lose(entry)

    # -- reclaim the dead's --------------------------------------------------------------------------------

    async def reclaim(self) -> None:
        """Look for entries whose lease is over: all the time, and at once when a worker says that it released some.

        The timer is its own, so that it does not matter whether new jobs come; and it jitters, so that the workers
        do not all look at the same moment.
        """
        loop = asyncio.get_running_loop()
        next_sweep = loop.time() + self._sweep * random.uniform(0.75, 1.0)
        while True:
            hinted = await _wait(self._released, max(0.0, next_sweep - loop.time()))
            if hinted and loop.time() < next_sweep:
                await _bear(self._reclaim_released())
            else:
                await _bear(self._reclaim_all())
                next_sweep = loop.time() + self._sweep * random.uniform(0.75, 1.0)

    async def catch_up(self) -> None:
        """Reclaim, now that there is a free slot again; without this, jobs could wait for ever while all are busy."""
        await _bear(self._renew())  # which takes as long as Redis was away
        if not self.is_behind:
            return
        self._has_left_some = False
        for queue in self._queues:
            await _bear(self._reclaim(queue))

    async def _reclaim_released(self) -> None:
        for queue in self._queues:
            await self._reclaim(queue, released_only=True)

    async def _reclaim_all(self) -> None:
        await self._renew()
        await asyncio.sleep(max(0.0, self._not_before - asyncio.get_running_loop().time()))
        for queue in self._queues:
            await self._reclaim(queue)
            for consumer in await self._queue.tidy(queue, _TIDIED_AFTER):
                logger.info("removed a consumer that is gone", queue=queue, consumer=consumer)

    async def _reclaim(self, queue: str, *, released_only: bool = False) -> None:
        cursor = "0-0"
        while (free := self._slots.free()) > 0:
            count = min(free, _RECLAIMED_AT_ONCE)
            cursor, entries = await self._queue.reclaim(queue, cursor, count, released_only=released_only)
            for entry in entries:
                logger.warning("reclaimed", queue=queue, entry=entry.id, deliveries=entry.deliveries)
                self._slots.take(entry)
            if cursor == "0-0":
                return
        self._has_left_some = self._has_left_some or await self._queue.has_overdue(queue)

    # -- promote the due -----------------------------------------------------------------------------------

    async def promote(self) -> None:
        """Move jobs to their queue when they are due: to the millisecond, without polling in between."""
        while True:
            self._later.clear()
            wait = self._sweep
            for queue in self._queues:
                due_in = await _bear(self._queue.promote(queue))
                wait = min(wait, self._sweep if due_in is None else due_in)
            if wait > 0:
                await _wait(self._later, wait)


async def _bear(step: Coroutine[Any, Any, T]) -> T | None:
    """Take a step that Redis may refuse; then the next one may work again."""
    try:
        return await step
    except RedisError as error:
        logger.warning("redis refused, trying again later", error=str(error))
        await asyncio.sleep(_SOONEST_AGAIN)
        return None


async def _wait(event: asyncio.Event, seconds: float) -> bool:
    """Wait for the event, but not for longer than this; return whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    came = event.is_set()
    event.clear()
    return came
