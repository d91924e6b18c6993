"""Commands to Redis with a time limit: carried through a short outage, then one typed error."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import AuthenticationError, AuthorizationError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer.connection import Arg, Call, Line, ScriptRunner, SharedTimer, Url, connect
from producer.connection.packing import pack
from producer.connection.refusals import is_busy, is_demotion
from producer.connection.tasks import end
from producer.errors import Unavailable
from producer.home_loop import HomeLoop

T = TypeVar("T")

_LOST = (RedisConnectionError, RedisTimeoutError, OSError)
_FINAL = (AuthenticationError, AuthorizationError)
_READS_AT_ONCE = 64
"""Further ones wait for their turn, outside of the time limit: a thousand readers who come at once would take each
other for a silent server."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0  # seconds


class Link:
    """A client's way to Redis.

    What it is given to run must bear being said twice: a command whose reply was lost is sent again.
    """

    def __init__(self, url: Url, timeout: float) -> None:
        self.url = url
        self.timeout = timeout
        self._redis = connect(url, connect_timeout=timeout)
        self._line = Line(url, timeout)
        self._scripts = ScriptRunner(self._line)
        self._timer = SharedTimer(timeout)
        # Pages of logs are large: neither a cancel nor a new job is to wait behind them.
        self._reading_line = Line(url, timeout)
        self._turns = asyncio.Semaphore(_READS_AT_ONCE)
        self._home = HomeLoop()
        self._was_demoted = False
        self._leaving: list[asyncio.Task[None]] = []
        self.closed = False
        self.when_moved: Callable[[], None] = _nothing
        """Called when another server than before was found to be the one that is written to."""

    async def run(self, *calls: Call) -> list[Any]:
        """Run scripts in one round trip, which other callers may share, and return their results.

        Raises:
            Unavailable: not reachable within the timeout, or a script was refused.
        """
        return await self.run_telling(lambda _: calls)

    async def run_telling(self, calls: Callable[[bool], Sequence[Call]]) -> list[Any]:
        """Run the scripts that ``calls(again)`` returns; ``again`` is true once they may have been run before.

        Raises:
            Unavailable: not reachable within the timeout, or a script was refused.
        """
        self._check_open()
        if not self._line.is_open or self._line.silence > self.timeout:
            return await self._run_patiently(calls, again=False)
        # Nearly all go through at once, and what may have to be done otherwise costs more than to send them.
        results = self._scripts.send(calls(False))
        give_up_at = self._timer.watch(results)
        try:
            replies = await results
        except TimeoutError as error:
            raise self._too_late(error, self._line) from error
        except RedisConnectionError as error:
            if self.closed:
                raise Unavailable("this Producer was closed") from error
        else:
            if _all_well(replies):
                return replies
            return await self._run_patiently(calls, again=_may_have_run(replies), give_up_at=give_up_at)
        return await self._run_patiently(calls, again=True, give_up_at=give_up_at)

    async def _run_patiently(
        self, calls: Callable[[bool], Sequence[Call]], *, again: bool, give_up_at: float | None = None
    ) -> list[Any]:
        async def run() -> list[Any]:
            nonlocal again
            await self._open(self._line)
            said, before, again = calls(again), again, True
            replies = await self._scripts.run(said)
            again = before or _may_have_run(replies)
            _not_passing(replies)
            if self._was_demoted:
                self._move()
            return replies

        return self._accepted(await self._patiently(run, self._line, give_up_at))

    async def read(self, *commands: Sequence[Arg]) -> list[Any]:
        """Send commands in one round trip, which other callers may share; return the replies as the server has them.

        Raises:
            Unavailable: not reachable within the timeout, or a command was refused.
        """
        packed = [pack(*command) for command in commands]

        async def send() -> list[Any]:
            await self._open(self._reading_line)
            return _not_passing(await self._reading_line.send(packed))

        async with self._turns:
            return self._accepted(await self._patiently(send, self._reading_line))

    async def _open(self, line: Line) -> None:
        if line.silence > self.timeout:  # those who waited may have left before they could tell
            line.close()
        if not line.is_open:
            await line.open()
            if self.closed:
                line.close()
                raise Unavailable("this Producer was closed")

    def _accepted(self, replies: list[Any]) -> list[Any]:
        for reply in replies:
            if isinstance(reply, RedisError):
                raise self._refused(reply) from reply
        return replies

    async def ask(self, command: Callable[[Redis], Awaitable[T]]) -> T:
        """Await ``command(redis)`` and return what it returns.

        Raises:
            Unavailable: not reachable within the timeout, or the command was refused.
        """
        return await self._patiently(lambda: command(self._redis))

    async def _patiently(
        self, command: Callable[[], Awaitable[T]], line: Line | None = None, give_up_at: float | None = None
    ) -> T:
        """Await ``command()``, again and again where that can help.

        ``line``: what it goes over, if over any. ``give_up_at``: by the loop's clock; None for the timeout from now.
        """
        self._check_open()
        last: Exception | None = None
        limit = asyncio.timeout(self.timeout) if give_up_at is None else asyncio.timeout_at(give_up_at)
        try:
            async with limit:
                pause = _FIRST_PAUSE
                while True:
                    try:
                        return await command()
                    except (RedisError, OSError) as error:
                        if not _passes(error):
                            raise
                        last = error
                    if is_demotion(last):
                        await self._leave(line)
                    await asyncio.sleep(pause)
                    if self.closed:
                        raise Unavailable("this Producer was closed") from last
                    pause = min(2 * pause, _LONGEST_PAUSE)
        except TimeoutError as error:
            why = last or error
            raise self._too_late(why, line) from why
        except RedisError as error:
            raise self._refused(error) from error

    async def _leave(self, line: Line | None) -> None:
        """Leave a server that was demoted: its connections stay open, and only new ones may lead to the other one."""
        self._was_demoted = True
        if line is not None:
            line.close()
        else:
            await self._redis.connection_pool.disconnect(inuse_connections=False)

    def _move(self) -> None:
        """Let what only reads follow to the server that is written to: the other one serves it, and may be behind."""
        self._was_demoted = False
        self._reading_line.close()
        left, self._redis = self._redis, connect(self.url, connect_timeout=self.timeout)
        self._leaving.append(asyncio.create_task(_close(left), name="chatrelay-leaving"))
        self.when_moved()

    async def aclose(self) -> None:
        """Close the connections; whatever is asked afterwards is refused."""
        self.closed = True
        await self._line.aclose()
        await self._reading_line.aclose()
        await end(*self._leaving)
        await _close(self._redis)

    def _check_open(self) -> None:
        self._home.check()
        if self.closed:
            raise Unavailable("this Producer is closed: open it with `async with Producer(...)`")

    def _too_late(self, why: Exception, line: Line | None) -> Unavailable:
        if line is not None and line.silence > self.timeout / 2:
            line.close()  # it would keep others waiting, too
        return Unavailable(self._says(why), passing=True)

    def _refused(self, error: RedisError) -> Unavailable:
        return Unavailable(self._says(error))

    def _says(self, error: Exception) -> str:
        why = str(error).strip() or f"no reply within {self.timeout:g} s"
        return f"Redis at {self.url} cannot serve: {why}"


def _nothing() -> None: ...


async def _close(redis: Redis) -> None:
    with suppress(RedisError, OSError):  # a peer that says no goodbye
        await redis.aclose()


def _passes(error: Exception) -> bool:
    return (isinstance(error, _LOST) and not isinstance(error, _FINAL)) or is_busy(error)


def _all_well(replies: list[Any]) -> bool:
    for reply in replies:  # noqa: SIM110 - all() would make a generator for each call
        if isinstance(reply, RedisError):
            return False
    return True


def _may_have_run(replies: list[Any]) -> bool:
    """Whether anything of it was carried out: a server that cannot serve at present did not even begin."""
    return not all(is_busy(reply) for reply in replies)


def _not_passing(replies: list[Any]) -> list[Any]:
    """Return the replies; raise one that says that the server cannot serve yet, for all to be asked again."""
    for reply in replies:
        if isinstance(reply, RedisError) and _passes(reply):
            raise reply
    return replies
