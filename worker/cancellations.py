"""Stop running tasks: because of a cancel, a lost lease, a deadline, or because this worker stops."""

import asyncio
import contextlib

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from producer.connection import bounded
from producer.wire.keys import Keys
from worker.attempt import Attempt
from worker.holdings import Entry
from worker.outcome import CancelAsked, Lost, Released
from worker.settings import Settings
from worker.stop import Stop

logger = structlog.get_logger("chatrelay.cancellations")

_MAX_EARLY = 1000
_REST = 0.5  # seconds after which marks that could not be looked at are looked at again

_Which = tuple[str, int]
"""A job's id and attempt."""

_Place = tuple[str, str]
"""An entry's queue and id."""


class Cancellations:
    """The running tasks, and all that can stop them.

    A cancel's message is a hint that may be lost; the mark in Redis is what counts. It is looked at when a job is
    claimed and when it ends, as often as leases are renewed, and whenever the control channel was lost. A message
    names the attempt that it is meant for: one that comes before its job runs here is kept for it, and none hits a
    later life.
    """

    def __init__(self, redis: Redis, keys: Keys, settings: Settings) -> None:
        self._redis = redis
        self._keys = keys
        self._timeout = settings.timeout
        self._interval = settings.check or settings.lease / 3
        self._hints_were_lost = asyncio.Event()
        self._running: dict[_Which, Stop] = {}
        self._places: dict[_Place, Stop] = {}
        self._early: dict[_Which, str] = {}
        self._releasing = False

    def watch(self, entry: Entry, attempt: Attempt, loop: asyncio.AbstractEventLoop) -> Stop:
        """Return what stops the answer on a cancel of the job, `lose` and `release_all`, until `forget`."""
        which = (attempt.job_id, attempt.id)
        stop = self._running[which] = self._places[entry.queue, entry.id] = Stop(loop)
        if which in self._early:
            stop.now(CancelAsked(self._early.pop(which)))
        if self._releasing:
            stop.now(Released())
        return stop

    def forget(self, entry: Entry, attempt: Attempt) -> None:
        """Take notice of the answer's end."""
        del self._running[attempt.job_id, attempt.id]
        del self._places[entry.queue, entry.id]

    def cancel(self, job_id: str, attempt: int, reason: str) -> None:
        """Stop the attempt, which may be about to run here, or be meant for another worker."""
        if stop := self._running.get((job_id, attempt)):
            stop.now(CancelAsked(reason))
            return
        self._early[job_id, attempt] = reason
        if len(self._early) > _MAX_EARLY:
            del self._early[next(iter(self._early))]

    def lose(self, entry: Entry) -> None:
        """Stop the task of an entry that another worker has reclaimed."""
        if stop := self._places.get((entry.queue, entry.id)):
            stop.now(Lost())

    def release_all(self) -> None:
        """Stop every task that runs or comes from now on, for another worker to take over."""
        self._releasing = True
        for stop in list(self._running.values()):
            stop.now(Released())

    def suspect(self) -> None:
        """Look at the marks soon: hints may have been lost."""
        self._hints_were_lost.set()

    async def run(self) -> None:
        """Look at the marks again and again, through every outage."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval):
                    await self._hints_were_lost.wait()
            self._hints_were_lost.clear()
            try:
                async with bounded(self._timeout):
                    await self.check()
            except (RedisError, OSError) as error:
                logger.warning("cancel marks cannot be looked at", error=str(error))
                await asyncio.sleep(_REST)
                self.suspect()  # and look again at once: whoever cancelled meanwhile could reach nobody either

    async def check(self) -> None:
        """Stop the jobs that run here and carry the mark."""
        running = dict(self._running)
        if not running:
            return
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id, _ in running:
                pipe.get(self._keys.cancel(job_id))
            marks = await pipe.execute(raise_on_error=False)
        for stop, mark in zip(running.values(), marks, strict=True):
            if isinstance(mark, bytes):
                stop.now(CancelAsked(mark.decode(errors="replace")))
