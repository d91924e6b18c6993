"""Group commit: the scripts of all jobs that are ready go to Redis as one pipeline.

While one round trip is on its way, whatever else becomes ready waits for the next one. There is no timer and no
delay: an idle worker writes at once, a busy one writes more at a time. When the connection breaks, all that has
no reply is sent again, in the same order; so everything sent here must bear being said twice.
"""

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    TryAgainError,
)

from producer.connection import Call, ScriptRunner, bounded

logger = structlog.get_logger("chatrelay.writer")

MAX_CALLS = 1000
"""Scripts in one pipeline."""

MAX_BYTES = 1024 * 1024
"""Bytes in one pipeline, unless a single call has more."""

_PASSING = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
_PASSING_CODES = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "UNKILLABLE",
    }
)
"""What a server says that cannot serve at present; redis-py has classes for some, and leaves the code in the text
of the others. What is left is about the call itself, and would be refused again."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds

_Pending = tuple[Call, asyncio.Future[Any]]


class Writer:
    """The one way by which a worker changes anything in Redis.

    ``timeout``: seconds after which a pipeline without a reply counts as lost, and is sent again.
    """

    def __init__(self, redis: Redis, timeout: float) -> None:
        self._timeout = timeout
        self._scripts = ScriptRunner(redis)
        self._waiting: list[_Pending] = []
        self._work = asyncio.Event()
        self._pause = _FIRST_PAUSE

    def submit(self, call: Call) -> "asyncio.Future[Any]":
        """Send ``call`` with the next pipeline; the future becomes its result.

        Future raises:
            redis.exceptions.ResponseError: the server refused it, for a reason that will not pass by itself.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, future))
        self._work.set()
        return future

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._work.wait()
            batch = self._take()
            refused = await self._write(batch)
            self._waiting[:0] = refused
            if not self._waiting:
                self._work.clear()
            if refused:
                await self._rest()

    def _take(self) -> list[_Pending]:
        """Take what one pipeline may hold: at least one call, and no more than a slow link carries in time."""
        count = size = 0
        for call, _ in self._waiting[:MAX_CALLS]:
            size += sum(len(arg) for arg in call.args if isinstance(arg, bytes))
            if count and size > MAX_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _write(self, batch: Sequence[_Pending]) -> list[_Pending]:
        """Write the batch, however long that takes; return what the server cannot take at present."""
        while True:
            try:
                async with bounded(self._timeout):
                    results = await self._scripts.run([call for call, _ in batch])
            except (
                RedisError,
                OSError,
                TimeoutError,
            ) as error:  # of the connection: a refused call is a result
                logger.warning("redis cannot be written to, trying again", error=str(error), calls=len(batch))
                await self._rest()
                continue
            return self._answer(batch, results)

    def _answer(self, batch: Sequence[_Pending], results: Sequence[Any]) -> list[_Pending]:
        refused: list[_Pending] = []
        for (call, future), result in zip(batch, results, strict=True):
            if _is_passing(result):
                logger.warning("redis cannot serve, writing again", error=str(result))
                refused.append((call, future))
            elif future.done():
                pass  # whoever asked has gone
            elif isinstance(result, RedisError):
                future.set_exception(result)
            else:
                future.set_result(result)
        if not refused:
            self._pause = _FIRST_PAUSE
        return refused

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _is_passing(result: Any) -> bool:
    if not isinstance(result, RedisError):
        return False
    return isinstance(result, _PASSING) or str(result).partition(" ")[0] in _PASSING_CODES
