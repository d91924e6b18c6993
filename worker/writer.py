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
from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from producer.connection import Call, Line, Said, ScriptRunner
from worker.pending import Asked, Pending
from worker.recent_calls import RecentCalls
from worker.refusals import is_passing

logger = structlog.get_logger("chatrelay.writer")

MAX_CALLS = 1000
"""Scripts in one pipeline."""

MAX_BYTES = 1024 * 1024
"""Bytes in one pipeline, unless a single call has more."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds
_REFUSED_PAUSE = 0.5  # seconds


class Writer:
    """The one way by which a worker changes anything in Redis.

    ``line`` is its own. ``timeout``: seconds after which a pipeline without a reply counts as lost, and is sent again.
    """

    def __init__(self, line: Line, timeout: float) -> None:
        self._line = line
        self._timeout = timeout
        self._scripts = ScriptRunner(line)
        self._waiting: list[Pending] = []
        self._work = asyncio.Event()
        self._pause = _FIRST_PAUSE
        self._recent = RecentCalls()
        self._server: str | None = None
        self._has_met_server = False
        self._is_careful = False
        self._is_idle = False
        self._begun: tuple[list[Pending], Said] | None = None

    def submit(self, call: Call, *, remember: bool = True, repeat: bool = True) -> "asyncio.Future[Any]":
        """Send ``call`` with the next pipeline; the future becomes its result.

        ``remember``: say it again to a server that forgot it. ``repeat``: say it again when its reply does not come.

        Future raises:
            redis.exceptions.ResponseError: the server refused it, for a reason that will not pass by itself.
            redis.exceptions.RedisError: with ``repeat=False``, its reply did not come.
        """
        asked = Asked(call, remembered=remember, repeated=repeat)
        self.add(asked)
        return asked.future

    def add(self, pending: Pending) -> None:
        """Send it with the next pipeline, and tell it the result."""
        self._waiting.append(pending)
        self._work.set()

    def hurry(self) -> None:
        """Send what waits now, where nothing is on its way: the caller's step has nothing to add to it."""
        can_write = self._is_idle and self._has_met_server and self._line.is_open and not self._is_careful
        if can_write and (batch := self._take()):
            self._is_idle = False
            self._begun = batch, self._say(batch)

    def remember(self, call: Call) -> None:
        """Say ``call`` to a server that forgot what it acknowledged just now."""
        self._recent.add([call], time.monotonic())

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._is_idle = True
            await self._work.wait()
            self._is_idle = False
            (batch, said), self._begun = self._begun or (self._take(), None), None
            broken_off = await self._write(batch, said) if batch else batch
            # What seems to have broken the connection comes last, and stays alone; all else keeps its place.
            at = len(self._waiting) if broken_off and broken_off[0].is_suspect else 0
            self._waiting[at:at] = broken_off
            if not self._waiting:
                self._work.clear()
            if broken_off:
                await self._rest()

    def _take(self) -> list[Pending]:
        """Put a pipeline together: no more than a slow link carries in time; nothing, where nothing is left to say."""
        batch: list[Pending] = []
        looked_at = size = 0
        # After a failure one call goes alone: should it be what breaks the connection, it breaks nothing else.
        alone = self._is_careful or any(pending.is_suspect for pending in self._waiting[:1])
        most = 1 if alone else MAX_CALLS
        for pending in self._waiting:
            if len(batch) == most:
                break
            if (call := pending.prepare()) is not None:
                size += len(call.packed())
                if batch and (size > MAX_BYTES or pending.is_suspect):
                    break
                batch.append(pending)
            looked_at += 1
        del self._waiting[:looked_at]
        return batch

    def _say(self, batch: Sequence[Pending]) -> Said:
        return self._scripts.say([pending.call for pending in batch if pending.call])

    async def _write(self, batch: Sequence[Pending], said: Said | None) -> Sequence[Pending]:
        """Write the batch, unless it was said already; return what has to be written again, as the connection broke."""
        met = said is not None
        try:
            async with asyncio.timeout(self._timeout):
                if said is None:
                    await self._meet_server()
                    met = True
                    said = self._say(batch)
                results = await self._scripts.results(said)
        except (RedisError, OSError, TimeoutError) as error:  # of the connection: a refused call is a result
            why = str(error) or f"no reply within {self._timeout:g} s"
            logger.warning("redis cannot be written to, trying again", error=why, calls=len(batch))
            self._line.close()
            batch[0].is_suspect = batch[0].is_suspect or (met and self._is_careful)
            self._is_careful = True
            return _to_be_repeated(batch, why)
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
        scripts, calls = self._recent.scripts(), self._recent.calls()
        logger.warning("redis is not the server it was, telling it the last again", calls=len(calls))
        self._scripts.forget()
        for start in range(0, len(calls), MAX_CALLS):
            results = await self._scripts.run_packed(scripts, calls[start : start + MAX_CALLS])
            for refused in filter(is_passing, results):
                raise refused  # it cannot take them yet: nothing else may come before them

    def _answer(self, batch: Sequence[Pending], results: Sequence[Any]) -> None:
        now = time.monotonic()
        acknowledged: list[Call] = []
        refused: list[Pending] = []
        for pending, result in zip(batch, results, strict=True):
            if not isinstance(result, RedisError):
                if pending.remembered and pending.call is not None and _had_effect(result):
                    acknowledged.append(pending.call)
                pending.is_suspect = False
            elif is_passing(result):
                logger.warning("redis cannot serve, writing again", error=str(result))
                refused.append(pending)
                continue
            pending.tell(result)
        self._recent.add(acknowledged, now)
        self._recent.forget_the_old(now)
        if refused:
            self._write_later(refused)

    def _write_later(self, refused: Sequence[Pending]) -> None:
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


def _had_effect(result: Any) -> bool:
    """Whether a call changed anything. What a fence or a cancel kept from it must not change a server that forgot."""
    return result not in (b"lost", b"gone") and not (isinstance(result, list) and result[:1] == [b"cancel"])


def _to_be_repeated(batch: Sequence[Pending], why: str) -> Sequence[Pending]:
    """Tell those who want no repetition that their reply is lost; return the others."""
    for pending in batch:
        if not pending.repeated:
            pending.tell(RedisConnectionError(f"the reply was lost: {why}"))
    return [pending for pending in batch if pending.repeated]
