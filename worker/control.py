"""Listens to the control channels: hints of cancels, of jobs put off, of jobs released."""

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from producer.connection import bounded
from producer.wire.codec import WireError, unpack_map
from producer.wire.keys import Keys
from worker.cancellations import Cancellations
from worker.settings import Settings

logger = structlog.get_logger("chatrelay.control")

_MAX_MESSAGE_BYTES = 64 * 1024
_PING_INTERVAL = 5.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds


class Control:
    """Hears what concerns this worker's queues. Each message is a hint: what counts stands in Redis, and is looked
    at anyway, only later. So it is after the connection was lost, too.

    ``on_hint`` is called for each type of hint that names no job: ``later``, ``released``.
    """

    def __init__(
        self,
        redis: Redis,
        keys: Keys,
        settings: Settings,
        cancellations: Cancellations,
        on_hint: Callable[[str], None],
    ) -> None:
        self._redis = redis
        self._timeout = settings.timeout
        self._channels = [keys.control(queue) for queue in settings.queues]
        self._cancellations = cancellations
        self._on_hint = on_hint
        self._pause = _FIRST_PAUSE
        self._is_to_move = False

    def move(self) -> None:
        """Leave the server, within the interval of two pings, for the one to which a new connection leads."""
        self._is_to_move = True

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
            if self._is_to_move:
                self._is_to_move = False
                # The others that are looked at over this client stand there as well.
                with suppress(RedisError, OSError):  # a peer that says no goodbye
                    await self._redis.connection_pool.disconnect(inuse_connections=False)
            await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
            self._pause = min(2 * self._pause, _LONGEST_PAUSE)

    async def _listen(self, channel: PubSub) -> None:
        unanswered = 0
        while True:
            message = await channel.get_message(timeout=_PING_INTERVAL)
            if self._is_to_move:
                raise RedisConnectionError("another server has taken its place")
            if message is None:
                if unanswered > 1:
                    raise RedisConnectionError(f"no answer to {unanswered} pings")
                async with bounded(self._timeout):
                    await channel.ping()
                unanswered += 1
                continue
            unanswered = 0
            if message["type"] == "subscribe":
                # From here on hints are heard, and until here some were not.
                self._pause = _FIRST_PAUSE
                self._cancellations.suspect()
                self._on_hint("later")
                self._on_hint("released")
            self._hear(message)

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
                self._cancellations.cancel(job_id, attempt, reason)
            case {"type": str(kind)}:
                self._on_hint(kind)
