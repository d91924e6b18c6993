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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
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

from producer.connection import Call, Line, ScriptRunner, bounded
from worker.recent_calls import RecentCalls

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
_REFUSED_PAUSE = 0.5  # seconds


@dataclass(slots=True)
class _Pending:
    """A call on its way; ``tell`` is called with its result, or the `RedisError` that it ended with.

    ``make``: where there is no call yet, returns it once it is about to be sent, or None if there is none any more.
    ``remembered``: whether a server that forgot it is told again. ``repeated``: whether it is said again when its
    reply did not come. ``is_suspect``: the connection broke when it went alone, to a server that was there.
    """

    tell: Callable[[Any], None]
    made: Call | None = None
    make: Callable[[], Call | None] | None = None
    remembered: bool = True
    repeated: bool = True
    is_suspect: bool = False
    size: int = 0

    @property
    def call(self) -> Call:
        assert self.made is not None, "only what was put together is sent"
        return self.made

    def put_together(self) -> bool:
        """Make the call, if that was not done yet; return whether there is one."""
        if self.made is None and self.make is not None:
            self.made = self.make()
        if self.made is not None and not self.size:
            self.size = len(self.made.packed())
        return self.made is not None


class Writer:
    """The one way by which a worker changes anything in Redis.

    ``line`` is its own. ``timeout``: seconds after which a pipeline without a reply counts as lost, and is sent again.
    """

    def __init__(self, line: Line, timeout: float) -> None:
        self._line = line
        self._timeout = timeout
        self._scripts = ScriptRunner(line)
        self._waiting: list[_Pending] = []
        self._work = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._recent = RecentCalls()
        self._server: str | None = None
        self._has_met_server = False
        self._is_careful = False

    def submit(self, call: Call, *, remember: bool = True, repeat: bool = True) -> "asyncio.Future[Any]":
        """Send ``call`` with the next pipeline; the future becomes its result.

        ``remember``: say it again to a server that forgot it. ``repeat``: say it again when its reply does not come.

        Future raises:
            redis.exceptions.ResponseError: the server refused it, for a reason that will not pass by itself.
            redis.exceptions.RedisError: with ``repeat=False``, its reply did not come.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        tell = partial(_resolve, future)
        self._add(_Pending(tell, call, remembered=remember, repeated=repeat))
        return future

    def submit_late(self, make: Callable[[], Call | None], tell: Callable[[Any], None]) -> None:
        """Send what ``make`` returns when the next pipeline is put together, if it returns anything then.

        ``tell`` is called with the result, or with the `RedisError` with which the server refused it.
        """
        self._add(_Pending(tell, make=make))

    def _add(self, pending: _Pending) -> None:
        self._waiting.append(pending)
        self._work.set()

    def remember(self, call: Call) -> None:
        """Say ``call`` to a server that forgot what it acknowledged just now."""
        self._recent.add(call, len(call.packed()), time.monotonic())

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._work.wait()
            batch = self._take()
            broken_off = await self._write(batch) if batch else batch
            # What seems to have broken the connection comes last, and stays alone; all else keeps its place.
            at = len(self._waiting) if broken_off and broken_off[0].is_suspect else 0
            self._waiting[at:at] = broken_off
            if not self._waiting:
                self._work.clear()
            if broken_off:
                await self._rest()

    def _take(self) -> list[_Pending]:
        """Put a pipeline together: at least one call, and no more than a slow link carries in time."""
        batch: list[_Pending] = []
        looked_at = size = 0
        # After a failure one call goes alone: should it be what breaks the connection, it breaks nothing else.
        most = 1 if self._is_careful or self._waiting[0].is_suspect else MAX_CALLS
        for pending in self._waiting:
            if len(batch) == most:
                break
            if pending.put_together():
                size += pending.size
                if batch and (size > MAX_BYTES or pending.is_suspect):
                    break
                batch.append(pending)
            looked_at += 1
        del self._waiting[:looked_at]
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
            self._line.close()
            batch[0].is_suspect = batch[0].is_suspect or (met and self._is_careful)
            self._is_careful = True
            return _to_be_repeated(batch, error)
        self._is_careful = False
        self._pause = _FIRST_PAUSE
        self._answer(batch, results)
        return []

    async def _meet_server(self) -> None:
        """If the connection is a new one, see that the server at its other end knows all that it should."""
        if self._has_met_server and self._line.is_open:
            return
        self._has_met_server = False
        await self._line.open()
        server = await self._name_of_server()
        # One that does not say who it is may always be another one.
        if self._server is not None and (server != self._server or not server):
            await self._say_again()
        self._server, self._has_met_server = server, True

    async def _name_of_server(self) -> str:
        """Return what tells this server's process from any other; nothing, where it does not say."""
        if self._server == "":
            return ""
        try:
            info: bytes = await self._line.ask("INFO", "server")
        except ResponseError:  # an access list may forbid it
            self._line.close()  # fakeredis hangs up after an error
            await self._line.open()
            return ""
        lines = info.decode(errors="replace").splitlines()
        return next((line.partition(":")[2] for line in lines if line.startswith("run_id:")), "")

    async def _say_again(self) -> None:
        calls = self._recent.calls()
        logger.warning("redis is not the server it was, telling it the last again", calls=len(calls))
        self._scripts.forget()
        for start in range(0, len(calls), MAX_CALLS):
            results = await self._scripts.run(calls[start : start + MAX_CALLS])
            for refused in filter(_is_passing, results):
                raise refused  # it cannot take them yet: nothing else may come before them

    def _answer(self, batch: Sequence[_Pending], results: Sequence[Any]) -> None:
        now = time.monotonic()
        refused: list[_Pending] = []
        for pending, result in zip(batch, results, strict=True):
            if _is_passing(result):
                logger.warning("redis cannot serve, writing again", error=str(result))
                refused.append(pending)
                continue
            if pending.remembered and not isinstance(result, RedisError):
                self._recent.add(pending.call, pending.size, now)
            pending.tell(result)
        self._recent.forget_the_old(now)
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


def _resolve(future: "asyncio.Future[Any]", result: Any) -> None:
    if future.done():
        return  # whoever asked has gone
    if isinstance(result, RedisError):
        future.set_exception(result)
    else:
        future.set_result(result)


def _to_be_repeated(batch: Sequence[_Pending], error: Exception) -> Sequence[_Pending]:
    """Tell those who want no repetition that their reply is lost; return the others."""
    for pending in batch:
        if not pending.repeated:
            pending.tell(RedisConnectionError(f"the reply was lost: {error}"))
    return [pending for pending in batch if pending.repeated]


def is_refusal(error: BaseException) -> bool:
    """Whether the server refused, and would refuse again; otherwise it, or the way to it, may come back."""
    return isinstance(error, ResponseError) and not _is_passing(error)


def _is_passing(result: Any) -> bool:
    if not isinstance(result, RedisError):
        return False
    return isinstance(result, _PASSING) or str(result).partition(" ")[0] in _PASSING_CODES
