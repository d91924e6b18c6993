"""Hear a cancel, stop the task."""

import asyncio
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
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
_POLL = 5.0  # seconds without a message after which the connection is checked

_Which = tuple[str, int]
"""A job's id and attempt."""


@dataclass(slots=True)
class Stop:
    """A running task's way to be stopped, and the reason it was."""

    task: asyncio.Task[Any]
    reason: CancelAsked | Released | None = field(default=None)

    def now(self, reason: CancelAsked | Released) -> None:
        """Stop the task; the first reason counts."""
        if self.reason is None and not self.task.done():
            self.reason = reason
            self.task.cancel()


class Cancellations:
    """The running jobs, and the control channels on which their cancels are heard.

    The message is a hint that may be lost; the mark in Redis is what counts. It is looked at when a job is
    claimed, and for all running jobs whenever the connection had to be made anew. A message names the attempt
    that it is meant for: one that comes before its job runs here is kept for it, and none hits a later life.
    """

    def __init__(self, redis: Redis, keys: Keys, settings: Settings) -> None:
        self._redis = redis
        self._keys = keys
        self._timeout = settings.timeout
        self._channels = [keys.control(queue) for queue in settings.queues]
        self._running: dict[_Which, Stop] = {}
        self._early: dict[_Which, str] = {}

    @contextlib.contextmanager
    def watch(self, job_id: str, attempt: int, task: asyncio.Task[Any]) -> Iterator[Stop]:
        """While inside, a cancel of the job stops ``task``."""
        which = (job_id, attempt)
        stop = self._running[which] = Stop(task)
        if which in self._early:
            stop.now(CancelAsked(self._early.pop(which)))
        try:
            yield stop
        finally:
            del self._running[which]

    def release_all(self) -> None:
        """Stop every running task, for another worker to take over."""
        for stop in list(self._running.values()):
            stop.now(Released())

    async def check(self) -> None:
        """Stop the jobs that run here and carry the mark."""
        running = dict(self._running)
        async with self._redis.pipeline(transaction=False) as pipe:
            for job_id, _ in running:
                pipe.get(self._keys.cancel(job_id))
            marks = await pipe.execute()
        for stop, mark in zip(running.values(), marks, strict=True):
            if mark is not None:
                stop.now(CancelAsked())

    async def run(self) -> None:
        """Listen until cancelled, through every outage."""
        pause = _FIRST_PAUSE
        while True:
            try:
                async with self._redis.pubsub() as channel:
                    async with bounded(self._timeout):
                        await channel.subscribe(*self._channels)
                        await self.check()
                    pause = _FIRST_PAUSE
                    await self._listen(channel)
            except (RedisError, OSError) as error:
                logger.warning("control channel lost, connecting again", error=str(error))
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _listen(self, channel: PubSub) -> None:
        while True:
            message = await channel.get_message(timeout=_POLL)
            if message is None:
                async with bounded(self._timeout):
                    await channel.ping()
            elif message["type"] == "message":
                self._hear(message["data"])

    def _hear(self, data: bytes) -> None:
        try:
            message = unpack_map(data, max_bytes=_MAX_MESSAGE_BYTES)
        except WireError as error:
            logger.warning("the control channel carried something unreadable", error=str(error))
            return
        match message:
            case {"type": "cancel", "id": str(job_id), "attempt": int(attempt), "reason": str(reason)}:
                self._cancel((job_id, attempt), reason)

    def _cancel(self, which: _Which, reason: str) -> None:
        if stop := self._running.get(which):
            stop.now(CancelAsked(reason))
            return
        self._early[which] = reason
        if len(self._early) > _MAX_EARLY:  # most are meant for other workers
            del self._early[next(iter(self._early))]
