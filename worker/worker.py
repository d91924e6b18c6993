"""A worker's life, from top to bottom: run, consume, drain."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from redis.exceptions import AuthenticationError, RedisError

from producer.connection import Line, Url, connect
from producer.connection.tasks import end
from producer.wire.keys import Keys
from worker.asking import Asker
from worker.build import is_compiled
from worker.cancellations import Cancellations
from worker.control import Control
from worker.entry_reader import EntryReader
from worker.event_log import EventLog
from worker.executor import Executor
from worker.holdings import Entry, Holdings
from worker.limits import Limits
from worker.parking import Parking
from worker.providers.http import open_session
from worker.providers.registry import Registry
from worker.queue import Queue
from worker.settings import Settings
from worker.standing import StandingReader
from worker.upkeep import Upkeep
from worker.watchdog import watch_the_loop
from worker.writer import Writer

logger = structlog.get_logger("chatrelay.worker")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 2.0  # seconds
_STEPS_TO_A_CLAIM = 2
"""Steps of the loop after which the claims of new entries are on their way. The next entries are asked for only then:
their read would be sent first, and keep an idle worker's claims waiting for the time that a send takes."""

_HAND_BACK_TIMEOUT = 5.0  # seconds for all that is handed back


@dataclass(frozen=True, slots=True)
class _Parts:
    """What a running worker is made of."""

    reader: EntryReader
    queue: Queue
    writer: Writer
    cancellations: Cancellations
    control: Control
    upkeep: Upkeep
    slots: "_Slots"


@dataclass(frozen=True, slots=True)
class _Slots:
    """Where entries go that were handed to this worker.

    A read that was under way, and what was reclaimed meanwhile, may together be more than there is room for.
    """

    free: Callable[[], int]
    begin: Callable[[Entry], None]
    hand_back: Callable[[Entry], None]

    def take(self, entry: Entry) -> None:
        if self.free() > 0:
            self.begin(entry)
        else:
            self.hand_back(entry)


class Worker:
    """Takes jobs from its queues and answers them, until it is stopped.

    `run` returns once the worker has stopped. `stop` may be called from a signal handler: the first call lets
    running jobs end within the grace time, a second one hands them back at once.
    """

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings = settings
        self._registry = registry
        self._holdings = Holdings(f"{settings.name}:{settings.consumer_suffix}")
        self._jobs: set[asyncio.Task[object]] = set()
        self._releases: set[asyncio.Task[None]] = set()
        self._slot_freed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._stopped = asyncio.Event()
        self._give_up_at = 0.0
        self._loop: asyncio.AbstractEventLoop

    async def run(self) -> None:
        """Work until stopped."""
        self._loop = asyncio.get_running_loop()
        try:
            async with self._parts() as parts, watch_the_loop(self._settings.lease / 3):
                if await self._redis_comes(parts.reader):
                    await self._work(parts)
        finally:
            self._stopped.set()

    def stop(self) -> None:
        """Stop; called again: at once."""
        if self._stopping.is_set():
            self._hurried.set()
        self._stopping.set()

    @property
    def running(self) -> int:
        """The number of jobs that run at this moment."""
        return len(self._jobs)

    async def stopped(self) -> None:
        """Wait until the worker has stopped."""
        await self._stopped.wait()

    async def idle(self) -> None:
        """Wait until no job runs, and the entries of those that did are settled."""
        await self._all_ended()
        await self._holdings.emptied()

    # -- run -----------------------------------------------------------------------------------------------

    async def _work(self, parts: _Parts) -> None:
        # What is hit by a stop first stands innermost: nothing new is looked for, while what runs keeps its leases.
        duties = (parts.writer.run(), parts.control.run(), parts.cancellations.run(), parts.upkeep.renew())
        async with self._in_background(*duties):
            async with self._in_background(parts.upkeep.reclaim(), parts.upkeep.promote()):
                await self._consume(parts)
            await self._drain(parts)

    @contextlib.asynccontextmanager
    async def _parts(self) -> AsyncIterator[_Parts]:
        settings, keys = self._settings, Keys(self._settings.prefix)
        url = Url(settings.redis_url)
        timeout = settings.timeout
        # Three ways to Redis, because none may wait for another: blocking reads, writes, pub/sub and a look aside.
        blocking, writing = Line(url, timeout), Line(url, timeout)
        aside = connect(url, connect_timeout=timeout, connections=4)
        async with aside, open_session() as http:
            writer = Writer(writing, timeout)
            reader = EntryReader(blocking, keys, self._holdings, settings)
            queue = Queue(writer, keys, self._holdings, settings)
            log = EventLog(writer, keys)
            cancellations = Cancellations(aside, keys, settings)
            limits, parking = Limits(writer, keys, settings.lease), Parking(writer, keys)
            asker = Asker(log, cancellations, limits, http, settings.name)
            standing = StandingReader(writer, keys)
            executor = Executor(queue, log, asker, parking, standing, self._registry, settings)
            slots = _Slots(self._free, partial(self._begin, executor), partial(self._hand_back, queue))
            upkeep = Upkeep(queue, cancellations, limits, settings, slots)
            control = Control(aside, keys, settings, cancellations, upkeep.hear)
            writer.when_moved = control.move
            with contextlib.closing(blocking), contextlib.closing(writing):
                yield _Parts(reader, queue, writer, cancellations, control, upkeep, slots)

    async def _redis_comes(self, reader: EntryReader) -> bool:
        """Wait for Redis, and make the groups. False: the worker was stopped before it came."""
        url, pause = Url(self._settings.redis_url), _FIRST_PAUSE
        while not self._stopping.is_set():
            try:
                await reader.open()
            except (RedisError, OSError) as error:
                refused = isinstance(error, AuthenticationError)
                event = (
                    "redis refuses the credentials" if refused else "redis cannot be reached, waiting for it"
                )
                logger.warning(event, url=str(url), error=str(error))
                await self._rest(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                settings = self._settings
                about = {"queues": settings.queues, "compiled": is_compiled()}
                logger.info("worker ready", name=settings.name, url=str(url), **about)
                return True
        return False

    @contextlib.asynccontextmanager
    async def _in_background(self, *duties: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(duty) for duty in duties]
            yield
            await end(*tasks)

    # -- consume -------------------------------------------------------------------------------------------

    async def _consume(self, parts: _Parts) -> None:
        pause = _FIRST_PAUSE
        while not self._stopping.is_set():
            free = self._free()
            if free <= 0:
                await self._wait_for_a_slot()
                continue
            if parts.upkeep.is_behind:
                await _first_of(parts.upkeep.catch_up(), self._stopping.wait())  # Redis may be away
                continue
            try:
                entries = await parts.reader.take(free)
                pause = _FIRST_PAUSE
            except (RedisError, OSError) as error:
                logger.warning("cannot take jobs, trying again", error=str(error))
                await self._rest(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            for entry in entries:
                parts.slots.take(entry)
            for _ in range(_STEPS_TO_A_CLAIM):
                await asyncio.sleep(0)

    def _begin(self, executor: Executor, entry: Entry) -> None:
        job = self._loop.create_task(executor.execute(entry), name=f"chatrelay-job-{entry.id}")
        self._jobs.add(job)
        job.add_done_callback(self._end)

    def _hand_back(self, queue: Queue, entry: Entry) -> None:
        release = asyncio.create_task(queue.release(entry), name=f"chatrelay-release-{entry.id}")
        self._releases.add(release)
        release.add_done_callback(self._releases.discard)

    def _end(self, job: asyncio.Task[object]) -> None:
        self._jobs.discard(job)
        self._slot_freed.set()
        if not job.cancelled() and (error := job.exception()):
            logger.error("a job's task broke: this is a bug", exc_info=error)

    def _free(self) -> int:
        return 0 if self._stopping.is_set() else self._settings.concurrency - len(self._jobs)

    async def _wait_for_a_slot(self) -> None:
        self._slot_freed.clear()
        await _first_of(self._slot_freed.wait(), self._stopping.wait())

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # -- drain ---------------------------------------------------------------------------------------------

    async def _drain(self, parts: _Parts) -> None:
        """Nothing new is taken any more. In this order:

        1. What was handed over and had no slot yet is handed back: others can run it now.
        2. Running jobs get the grace time: an answer that can be finished is not started twice.
        3. What still runs is stopped, its provider call closed, its entry handed back for others to take at once.
        4. The consumer is removed, if it holds nothing. Renewal stops only then, or others would take over what
           is just being finished; and the writer stops last, because all of this writes.
        """
        await self._bounded(self._release_rest(parts))
        if self._jobs:
            logger.info("stopping: finishing what runs", running=len(self._jobs), grace=self._settings.grace)
            await self._finish_within_grace()
        self._give_up_at = 0.0
        if self._jobs:
            logger.info("handing back what is left", running=len(self._jobs))
            parts.cancellations.release_all()
            await self._bounded(self._all_ended())
        await self._bounded(parts.queue.leave())
        await self._abandon()
        logger.info("worker stopped", name=self._settings.name)

    async def _release_rest(self, parts: _Parts) -> None:
        await parts.queue.renew()  # whatever was being reclaimed a moment ago is through after this
        for entry in await parts.reader.rest():
            self._hand_back(parts.queue, entry)
        while self._releases:
            await asyncio.wait(self._releases)

    async def _finish_within_grace(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace):
                await _first_of(self._all_ended(), self._hurried.wait())

    async def _all_ended(self) -> None:
        while self._jobs:
            await asyncio.wait(self._jobs)

    async def _bounded(self, step: Coroutine[Any, Any, None]) -> None:
        """Take a step that needs Redis; all such steps in a row share one limit, in case that Redis is away."""
        loop = asyncio.get_running_loop()
        self._give_up_at = self._give_up_at or loop.time() + _HAND_BACK_TIMEOUT
        try:
            async with asyncio.timeout_at(self._give_up_at):
                await step
        except (TimeoutError, RedisError, OSError) as error:
            logger.warning("redis is away, going on without it", error=str(error) or "no reply in time")

    async def _abandon(self) -> None:
        if self._jobs:
            logger.error("some jobs could not be handed back in time", jobs=len(self._jobs))
        await end(*self._jobs, *self._releases)


async def _first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them is through; the others are cancelled. What one raises is raised."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end(*tasks)
    for task in tasks:
        if not task.cancelled():
            task.result()
