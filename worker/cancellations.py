"""Hear a cancel, stop the task."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from producer.connection import bounded
from producer.wire.codec import WireError, unpack_map
from producer.wire.keys import Keys
from worker.outcome import CancelAsked, Released
from worker.settings import Settings

logger = structlog.get_logger("chatrelay.cancellations")

_MAX_MESSAGE_BYTES = 64 * 1024
_MAX_EARLY = 1000
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds
_CANCEL_AGAIN = 0.3  # seconds that a provider has to close its call
_CLOSE_TIMEOUT = 0.8  # seconds: a cancelled job is to be terminal within one

_Which = tuple[str, int]
"""A job's id and attempt."""


class Stop:
    """A running task's way to be stopped, and the reason it was."""

    def __init__(self, task: "asyncio.Task[Any]") -> None:
        self.reason: CancelAsked | Released | None = None
        self._task = task
        self._asked = asyncio.Event()

    def now(self, reason: CancelAsked | Released) -> None:
        """Stop the task; the first reason counts."""
        if self.reason is None and not self._task.done():
            self.reason = reason
            self._asked.set()

    async def wait(self) -> bool:
        """Wait for the task's end, stopping it when that is asked; False if it would not be stopped."""
        asked = asyncio.ensure_future(self._asked.wait())
        try:
            await asyncio.wait([self._task, asked], return_when=asyncio.FIRST_COMPLETED)
        finally:
            asked.cancel()
        return self._task.done() or await self._end_task()

    async def _end_task(self) -> bool:
        # Again and again: a provider, or a library below it, may swallow a cancel.
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _CLOSE_TIMEOUT
        while not self._task.done() and loop.time() < give_up_at:
            self._task.cancel()
            await asyncio.wait([self._task], timeout=_CANCEL_AGAIN)
        return self._task.done()


class Cancellations:
    """The running jobs, and the control channels on which their cancels are heard.

    The message is a hint that may be lost; the mark in Redis is what counts. It is looked at when a job is
    claimed and when it ends, and for all running jobs whenever the connection was made anew and every few seconds.
    A message names the attempt that it is meant for: one that comes before its job runs here is kept for it, and
    none hits a later life.
    """

    def __init__(self, redis: Redis, keys: Keys, settings: Settings) -> None:
        self._redis = redis
        self._keys = keys
        self._timeout = settings.timeout
        self._check_interval = settings.check
        self._channels = [keys.control(queue) for queue in settings.queues]
        self._running: dict[_Which, Stop] = {}
        self._early: dict[_Which, str] = {}
        self._releasing = False
        self._pause = _FIRST_PAUSE

    @contextlib.contextmanager
    def watch(self, job_id: str, attempt: int, task: "asyncio.Task[Any]") -> Iterator[Stop]:
        """While inside, a cancel of the job stops ``task``, and so does `release_all`."""
        which = (job_id, attempt)
        stop = self._running[which] = Stop(task)
        if which in self._early:
            stop.now(CancelAsked(self._early.pop(which)))
        if self._releasing:
            stop.now(Released())
        try:
            yield stop
        finally:
            del self._running[which]

    def release_all(self) -> None:
        """Stop every task that runs or comes from now on, for another worker to take over."""
        self._releasing = True
        for stop in list(self._running.values()):
            stop.now(Released())

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

    async def run(self) -> None:
        """Listen until cancelled, through every outage."""
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    async with bounded(self._timeout):
                        await channel.subscribe(*self._channels)
                    await self._listen(channel)
            except (RedisError, OSError) as error:
                logger.warning("control channel lost, connecting again", error=str(error))
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _listen(self, channel: PubSub) -> None:
        loop = asyncio.get_running_loop()
        unanswered, next_check = 0, loop.time() + self._check_interval
        while True:
            message = await channel.get_message(timeout=max(0.0, next_check - loop.time()))
            if message is not None:
                unanswered = 0
                if message["type"] == "subscribe":
                    # From here on hints are heard, and until here some were not.
                    next_check, self._pause = loop.time(), _FIRST_PAUSE
                self._hear(message)
            if loop.time() >= next_check:
                if unanswered > 1:
                    raise RedisConnectionError(f"no answer to {unanswered} pings")
                async with bounded(self._timeout):
                    await channel.ping()
                unanswered += 1
                await self._check_in_time()
                next_check = loop.time() + self._check_interval

    async def _check_in_time(self) -> None:
        async with bounded(self._timeout):
            await self.check()

    def _hear(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        try:
            hint = unpack_map(message["data"], max_bytes=_MAX_MESSAGE_BYTES)
        except WireError as error:
            logger.warning("the control channel carried something unreadable", error=str(error))
            return
        match hint:
            case {"type": "cancel", "id": str(job_id), "attempt": int(attempt), "reason": str(reason)}:
                self._cancel((job_id, attempt), reason)

    def _cancel(self, which: _Which, reason: str) -> None:
        if stop := self._running.get(which):
            stop.now(CancelAsked(reason))
            return
        self._early[which] = reason
        if len(self._early) > _MAX_EARLY:  # most are meant for other workers
            del self._early[next(iter(self._early))]
