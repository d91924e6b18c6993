"""Group commit: the scripts of all jobs that are ready go to Redis as one pipeline.

While one round trip is on its way, whatever else becomes ready waits for the next one. There is no timer and no
delay: an idle worker writes at once, a busy one writes more at a time. When the connection breaks, all that has
no reply is sent again, in the same order; so everything sent here must bear being said twice.

A server that syncs its file once a second, or a replica that takes over, may come back without what it acknowledged
last. So what was acknowledged lately is remembered, and said again to a server that is not the one from before.
"""

import asyncio
import random
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
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
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Call, ScriptRunner, bounded

logger = structlog.get_logger("chatrelay.writer")

MAX_CALLS = 1000
"""Scripts in one pipeline."""

MAX_BYTES = 1024 * 1024
"""Bytes in one pipeline, unless a single call has more."""

REMEMBERED_SECONDS = 3.0
"""How long an acknowledged call is remembered. Redis syncs every second, and waits for a slow disk for two."""

REMEMBERED_BYTES = 16 * 1024 * 1024
"""Bytes remembered at most; of a faster flow than this, only the last part can be said again."""

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
_REFUSED_PAUSE = 0.5  # seconds


@dataclass(slots=True)
class _Pending:
    """A call on its way. ``remembered``: whether a server that forgot it is told again.

    ``repeated``: whether it is said again when its reply did not come. ``is_suspect``: the connection broke when it
    went alone, to a server that was there.
    """

    call: Call
    future: "asyncio.Future[Any]"
    remembered: bool
    repeated: bool
    is_suspect: bool = False

    @property
    def size(self) -> int:
        return _size(self.call)


class Writer:
    """The one way by which a worker changes anything in Redis.

    ``timeout``: seconds after which a pipeline without a reply counts as lost, and is sent again.
    ``reconnected``: set by the client whenever it has connected anew, maybe to another server than before.
    """

    def __init__(self, redis: Redis, timeout: float, reconnected: asyncio.Event | None = None) -> None:
        self._redis = redis
        self._timeout = timeout
        self._reconnected = reconnected or asyncio.Event()
        self._scripts = ScriptRunner(redis)
        self._waiting: list[_Pending] = []
        self._work = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._recent = _RecentCalls()
        self._server: str | None = None
        self._is_careful = False

    def submit(self, call: Call, *, remember: bool = True, repeat: bool = True) -> "asyncio.Future[Any]":
        """Send ``call`` with the next pipeline; the future becomes its result.

        ``remember``: say it again to a server that forgot it. ``repeat``: say it again when its reply does not come.

        Future raises:
            redis.exceptions.ResponseError: the server refused it, for a reason that will not pass by itself.
            redis.exceptions.RedisError: with ``repeat=False``, its reply did not come.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Pending(call, future, remember, repeat))
        self._work.set()
        return future

    def remember(self, call: Call) -> None:
        """Say ``call`` to a server that forgot what it acknowledged just now."""
        self._recent.add(call)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._work.wait()
            batch = self._take()
            broken_off = await self._write(batch)
            # What seems to have broken the connection comes last, and stays alone; all else keeps its place.
            at = len(self._waiting) if broken_off and broken_off[0].is_suspect else 0
            self._waiting[at:at] = broken_off
            if not self._waiting:
                self._work.clear()
            if broken_off:
                await self._rest()

    def _take(self) -> list[_Pending]:
        """Take what one pipeline may hold: at least one call, and no more than a slow link carries in time."""
        count = size = 0
        # After a failure one call goes alone: should it be what breaks the connection, it breaks nothing else.
        alone = self._is_careful or self._waiting[0].is_suspect
        for pending in self._waiting[: 1 if alone else MAX_CALLS]:
            size += pending.size
            if count and (size > MAX_BYTES or pending.is_suspect):
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        return batch

    async def _write(self, batch: Sequence[_Pending]) -> Sequence[_Pending]:
        """Write the batch; return what has to be written again, because the connection broke."""
        met = False
        try:
            async with bounded(self._timeout):
                await self._meet_server()
                met = True
                results = await self._scripts.run([pending.call for pending in batch])
        except (RedisError, OSError, TimeoutError) as error:  # of the connection: a refused call is a result
            logger.warning("redis cannot be written to, trying again", error=str(error), calls=len(batch))
            self._reconnected.set()
            batch[0].is_suspect = batch[0].is_suspect or (met and self._is_careful)
            self._is_careful = True
            return _to_be_repeated(batch, error)
        self._is_careful = False
        self._pause = _FIRST_PAUSE
        self._answer(batch, results)
        return []

    async def _meet_server(self) -> None:
        """If the connection is a new one, see that the server at its other end knows all that it should."""
        pool = self._redis.connection_pool
        await pool.release(await pool.get_connection())  # an idle connection that broke is made anew by this
        if not self._reconnected.is_set():
            return
        self._reconnected.clear()
        try:
            server = await self._name_of_server()
            # One that does not say who it is may always be another one.
            if self._server is not None and (server != self._server or not server):
                await self._say_again()
        except BaseException:
            self._reconnected.set()
            raise
        self._server = server

    async def _name_of_server(self) -> str:
        """Return what tells this server's process from any other; nothing, where it does not say."""
        if self._server == "":
            return ""
        try:
            info: dict[str, Any] = await self._redis.info("server")
        except ResponseError:  # an access list may forbid it
            return ""
        return str(info.get("run_id", ""))

    async def _say_again(self) -> None:
        calls = self._recent.calls()
        logger.warning("redis is not the server it was, telling it the last again", calls=len(calls))
        self._scripts.forget()
        for start in range(0, len(calls), MAX_CALLS):
            results = await self._scripts.run(calls[start : start + MAX_CALLS])
            for refused in filter(_is_passing, results):
                raise refused  # it cannot take them yet: nothing else may come before them

    def _answer(self, batch: Sequence[_Pending], results: Sequence[Any]) -> None:
        refused: list[_Pending] = []
        for pending, result in zip(batch, results, strict=True):
            if _is_passing(result):
                logger.warning("redis cannot serve, writing again", error=str(result))
                refused.append(pending)
                continue
            if pending.remembered and not isinstance(result, RedisError):
                self._recent.add(pending.call)
            if pending.future.done():
                pass  # whoever asked has gone
            elif isinstance(result, RedisError):
                pending.future.set_exception(result)
            else:
                pending.future.set_result(result)
        self._recent.forget_the_old()
        if refused:
            self._write_later(refused)

    def _write_later(self, refused: Sequence[_Pending]) -> None:
        """Let what the server cannot take at present rest, and nothing else wait for it.

        Without memory, say, it still takes what settles, renews and releases; that is how it gets memory again.
        """

        def write() -> None:
            self._waiting.extend(refused)
            self._work.set()

        asyncio.get_running_loop().call_later(_REFUSED_PAUSE * random.uniform(0.5, 1.0), write)

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


class _RecentCalls:
    """What was acknowledged shortly before the server was last heard of, in order."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, Call]] = deque()
        self._bytes = 0

    def add(self, call: Call) -> None:
        self._calls.append((time.monotonic(), call))
        self._bytes += _size(call)

    def forget_the_old(self) -> None:
        """Forget what is older than the last moments; called whenever the server was heard of."""
        begin = time.monotonic() - REMEMBERED_SECONDS
        while self._calls and (self._calls[0][0] < begin or self._bytes > REMEMBERED_BYTES):
            self._bytes -= _size(self._calls.popleft()[1])

    def calls(self) -> list[Call]:
        return [call for _, call in self._calls]


def _to_be_repeated(batch: Sequence[_Pending], error: Exception) -> Sequence[_Pending]:
    """Tell those who want no repetition that their reply is lost; return the others."""
    for pending in batch:
        if not pending.repeated and not pending.future.done():
            pending.future.set_exception(RedisConnectionError(f"the reply was lost: {error}"))
    return [pending for pending in batch if pending.repeated]


def _size(call: Call) -> int:
    return sum(len(arg) for arg in call.args if isinstance(arg, bytes))


def is_refusal(error: BaseException) -> bool:
    """Whether the server refused, and would refuse again; otherwise it, or the way to it, may come back."""
    return isinstance(error, ResponseError) and not _is_passing(error)


def _is_passing(result: Any) -> bool:
    if not isinstance(result, RedisError):
        return False
    return isinstance(result, _PASSING) or str(result).partition(" ")[0] in _PASSING_CODES
