"""Group commit: the scripts of all jobs that become ready in one step of the loop go to Redis as one pipeline.

There is no timer and no delay: an idle worker writes at once, a busy one has more to write at the end of each step.
When the connection breaks, all that has no reply is sent again, in the same order; so everything sent here must bear
being said twice. `worker.reminder` deals with a server that comes back without what it acknowledged last.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import structlog
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, RedisError

from producer.connection import Call, Line, ScriptRunner
from producer.connection.refusals import is_demotion, is_passing
from worker.pending import Asked, Pending
from worker.reminder import Reminder

logger = structlog.get_logger("chatrelay.writer")

MAX_CALLS = 1000
"""Scripts that are on their way at once."""

MAX_BYTES = 1024 * 1024
"""Bytes that are on their way at once, unless a single call has more."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds
_REFUSED_PAUSE = 0.5  # seconds


class Writer:
    """The one way by which a worker changes anything in Redis.

    ``line`` is its own. ``timeout``: seconds without a word from Redis after which what is on its way counts as lost,
    and is sent again. ``scripts``: what runs calls over the line, if it is not to be an ordinary one.
    """

    def __init__(self, line: Line, timeout: float, scripts: ScriptRunner | None = None) -> None:
        self.loop = asyncio.get_running_loop()  # kept: to ask for it takes a system call (Python 3.11)
        self._line = line
        self._timeout = timeout
        self._scripts = scripts or ScriptRunner(line)
        self._reminder = Reminder(line, self._scripts, timeout)
        self._waiting: list[Pending] = []
        self._said: deque[Pending] = deque()
        self._said_bytes = 0
        self._unknown: list[Pending] = []
        """Said to a server that did not know their scripts: they come before all else, with their scripts."""
        self._work = asyncio.Event()
        self._flow: asyncio.Future[None] | None = None
        """There while calls go out as they come; done when they cannot go on so."""
        self._is_due = False
        self._pause = _FIRST_PAUSE
        self._is_careful = False
        self._was_demoted = False
        self.when_moved: Callable[[], None] = _nothing
        """Called when another server than before was found to be the one that is written to."""

    def submit(self, call: Call, *, remember: bool = True, repeat: bool = True) -> "asyncio.Future[Any]":
        """Send ``call`` with the next pipeline; the future becomes its result.

        ``remember``: say it again to a server that forgot it. ``repeat``: say it again when its reply does not come.

        Future raises:
            redis.exceptions.ResponseError: the server refused it, for a reason that will not pass by itself.
            redis.exceptions.RedisError: with ``repeat=False``, its reply did not come.
        """
        asked = Asked(call, self.loop, remembered=remember, repeated=repeat)
        self.add(asked)
        return asked.future

    def add(self, pending: Pending) -> None:
        """Send it with the next pipeline, and tell it the result."""
        self._waiting.append(pending)
        self._write_soon()

    def remember(self, call: Call) -> None:
        """Say ``call`` to a server that forgot what it acknowledged just now."""
        self._reminder.note(call)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._work.wait()
            if (why := await self._write_on()) is not None:
                self._take_back(why)
                await self._rest()

    async def _write_on(self) -> str | None:
        """Write until the connection ends; return why, if it failed."""
        try:
            await self._reminder.meet_server()
            await self._let_flow()
        except (RedisError, OSError, TimeoutError) as error:  # of the connection: a refused call is a result
            return str(error) or f"no reply within {self._timeout:g} s"
        return None

    async def _let_flow(self) -> None:
        """Let calls go out as they come, until the connection ends, or has been silent for too long."""
        self._work.clear()
        self._flow = self.loop.create_future()
        self._write()
        try:
            while not self._flow.done():
                await asyncio.wait([self._flow], timeout=self._timeout - self._line.silence)
                if self._line.silence >= self._timeout:
                    raise TimeoutError
            self._flow.result()
        finally:
            self._flow = None

    def _write_soon(self) -> None:
        """Write at the end of this step of the loop: whatever else it makes ready goes along."""
        if self._flow is None:
            self._work.set()
        elif not self._is_due:
            self._is_due = True
            self.loop.call_soon(self._write)

    def _write(self) -> None:
        self._is_due = False
        if self._flow is None or self._flow.done():
            self._work.set()
        elif not self._line.is_open:
            self._work.set()
            self._flow.set_result(None)  # it was closed while nothing was on its way
        else:
            try:
                if batch := self._take():
                    self._scripts.say([pending.call for pending in batch if pending.call], self)
            except Exception as bug:  # noqa: BLE001 - of whoever makes calls: `run` raises it
                self._flow.set_exception(bug)

    def _take(self) -> list[Pending]:
        """Put a pipeline together: no more than a slow link carries in time; nothing, where nothing is left to say."""
        if self._unknown:
            self._scripts.forget()
            self._waiting[:0], self._unknown = self._unknown, []
        batch: list[Pending] = []
        looked_at = 0
        room = self._most_at_once() - len(self._said)
        for pending in self._waiting:
            if len(batch) >= room:
                break
            if (call := pending.prepare()) is not None:
                size = len(call.packed)
                if (batch or self._said) and (self._said_bytes + size > MAX_BYTES or pending.is_suspect):
                    break
                self._said_bytes += size
                batch.append(pending)
            looked_at += 1
        del self._waiting[:looked_at]
        self._said += batch
        return batch

    def _most_at_once(self) -> int:
        # After a failure one call goes alone: should it be what breaks the connection, it breaks nothing else.
        first = self._said[0] if self._said else self._waiting[0] if self._waiting else None
        return 1 if self._is_careful or (first and first.is_suspect) else MAX_CALLS

    def _take_back(self, why: str) -> None:
        """Let all that has no reply wait once more, before anything else."""
        logger.warning("redis cannot be written to, trying again", error=why, calls=len(self._said))
        self._line.close()
        said, self._said, self._said_bytes = self._said, deque(), 0
        if said:
            said[0].is_suspect = said[0].is_suspect or self._is_careful
        self._is_careful = True
        repeated = _to_be_repeated(said, why)
        # What seems to have broken the connection comes last, and stays alone; all else keeps its place.
        at = len(self._waiting) if repeated and repeated[0].is_suspect else 0
        self._waiting[at:at] = repeated
        self._waiting[:0], self._unknown = self._unknown, []
        if self._waiting:
            self._work.set()

    # -- the line calls these --------------------------------------------------------------------------------

    def heard(self, results: Sequence[Any]) -> None:
        """Tell the next of those who wait their results."""
        try:
            self._answer(results)
        except Exception as bug:
            if self._flow is not None and not self._flow.done():
                self._flow.set_exception(bug)  # `run` raises it
            raise
        self._is_careful = False
        if self._flow is not None and not self._flow.done():
            self._pause = _FIRST_PAUSE
        if self._waiting or self._unknown:
            self._write_soon()

    def lost(self, error: RedisError) -> None:
        """Take notice that what was said last has no reply."""
        if self._flow is not None and not self._flow.done():
            self._flow.set_exception(error)

    # -- what came back --------------------------------------------------------------------------------------

    def _answer(self, results: Sequence[Any]) -> None:
        refused: list[Pending] = []
        demotion: RedisError | None = None
        serves = False
        for result in results:
            pending = self._said.popleft()
            assert pending.call is not None, "it was said"
            self._said_bytes -= len(pending.call.packed)
            if not isinstance(result, RedisError):
                self._note(pending, pending.call, result)
            elif isinstance(result, NoScriptError) and self._scripts.refusal is None:
                self._unknown.append(pending)
                continue
            elif is_passing(result):
                logger.warning(
                    "redis cannot serve, writing again", error=str(self._scripts.refusal or result)
                )
                refused.append(pending)
                if is_demotion(result):
                    demotion = result
                continue
            # Also a server that was demoted answers what only reads: one that has been written to is the master.
            serves = serves or not self._was_demoted or (pending.remembered and _had_effect(result))
            pending.tell(result)
        if serves:  # one that refuses all may not be the one that is to be told what it forgot
            self._reminder.server_was_heard_of()
        if refused:
            self._write_later(refused)
        self._follow_the_master(demotion, serves=serves)

    def _note(self, pending: Pending, call: Call, result: Any) -> None:
        if pending.remembered and _had_effect(result):
            self._reminder.note(call)
        pending.is_suspect = False

    def _follow_the_master(self, demotion: RedisError | None, *, serves: bool) -> None:
        """Leave a server that was demoted; tell that it was, once another one serves."""
        if demotion is not None:
            self._was_demoted = True
            self.lost(demotion)
        elif self._was_demoted and serves:
            self._was_demoted = False
            self.when_moved()

    def _write_later(self, refused: Sequence[Pending]) -> None:
        """Let what the server cannot take at present rest, and nothing else wait for it.

        Without memory, say, it still takes what settles, renews and releases; that is how it gets memory again.
        """
        self._scripts.forget()  # it may be that it would not load them

        def write() -> None:
            self._waiting.extend(refused)
            self._write_soon()

        self.loop.call_later(_REFUSED_PAUSE * random.uniform(0.5, 1.0), write)

    async def _rest(self) -> None:
        await asyncio.sleep(self._pause * random.uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def _nothing() -> None: ...


def _had_effect(result: Any) -> bool:
    """Whether a call changed anything. What a fence or a cancel kept from it must not change a server that forgot."""
    return result not in (b"lost", b"gone") and not (isinstance(result, list) and result[:1] == [b"cancel"])


def _to_be_repeated(batch: Iterable[Pending], why: str) -> list[Pending]:
    """Tell those who want no repetition that their reply is lost; return the others."""
    for pending in batch:
        if not pending.repeated:
            pending.tell(RedisConnectionError(f"the reply was lost: {why}"))
    return [pending for pending in batch if pending.repeated]
