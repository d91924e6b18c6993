"""One connection whose commands are packed once and whose replies are counted off, in order.

redis-py spends 9 µs of Python on each command of a pipeline; this spends less than one, because hiredis does all
that is done per command. redis-py still makes the connection: its addresses, TLS, credentials and handshake.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, Protocol

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer.connection.conversation import Conversation
from producer.connection.packing import Arg, pack
from producer.connection.tasks import end
from producer.connection.url import Url


class Listener(Protocol):
    """Whoever wants the replies to what was said."""

    def heard(self, replies: Sequence[Any]) -> None:
        """Take the next replies, in order. They come in parts: as many as one read of the connection brought."""

    def lost(self, error: RedisConnectionError) -> None:
        """Take notice that the others will not come; what they belong to may have been carried out."""


class Line:
    """A connection for any number of callers at once. Of what they send in one step of the loop the first is written at
    once, and all else together.

    A caller that goes away disturbs nobody: its replies are counted off, and dropped. Nothing here is bounded in
    time: whoever finds that the other end has been silent for too long calls `close`, and all that is awaited is lost.
    """

    def __init__(self, url: Url, connect_timeout: float) -> None:
        self._url = url
        self._connect_timeout = connect_timeout
        self._connecting: asyncio.Task[None] | None = None
        self._conversation: _Exchanges | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is a connection, as far as is known."""
        return self._conversation is not None and not self._conversation.is_over

    @property
    def silence(self) -> float:
        """For how many seconds a reply has been due without a word from the other end; 0 where none is."""
        return 0.0 if self._conversation is None else self._conversation.silence

    async def open(self) -> bool:
        """Connect where there is no connection; return whether this call has made one.

        Raises:
            redis.exceptions.RedisError: that failed, or took longer than the connect timeout.
        """
        if self.is_open:
            return False
        # It belongs to none of those who wait for it. Where each connected in its turn, and no longer than it waits
        # itself, the next in line would have no time left: after an outage nobody would ever get through.
        connecting, is_first = self._connecting, False
        if connecting is None or connecting.done():
            connecting, is_first = asyncio.create_task(self._connect(), name="chatrelay-connect"), True
            connecting.add_done_callback(_seen)
            self._connecting = connecting
        await asyncio.wait([connecting])
        if connecting.cancelled():
            raise RedisConnectionError("it was closed here")
        connecting.result()
        return is_first

    async def _connect(self) -> None:
        connection = self._url.new_connection(self._connect_timeout)
        try:
            async with asyncio.timeout(self._connect_timeout):
                await connection.connect()
        except TimeoutError as error:
            await connection.disconnect(nowait=True)
            raise RedisTimeoutError(f"no connection within {self._connect_timeout:g} s") from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._conversation = _Exchanges()
        self._conversation.begin(connection)

    def send(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Any]]":
        """Send packed commands; the future becomes their replies, in order. One that is an error is no exception.

        Future raises:
            redis.exceptions.ConnectionError: the replies are lost; some of the commands may have been carried out.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if commands:
            self.say(commands, _Together(len(commands), future))
        else:
            future.set_result([])
        return future

    def say(self, commands: Sequence[bytes], listener: Listener, *, publishing: bool = False) -> None:
        """Send packed commands, at least one; ``listener`` hears their replies as they come.

        ``publishing``: let subscribers have what the first command publishes before its reply comes here.
        """
        if self._conversation is None or self._conversation.is_over:
            listener.lost(RedisConnectionError("there is no connection"))
        else:
            self._conversation.ask(commands, listener, publishing=publishing)

    async def ask(self, *args: Arg) -> Any:
        """Send one command and return its reply.

        Raises:
            redis.exceptions.RedisError: the reply is an error, or was lost.
        """
        (reply,) = await self.send([pack(*args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def aclose(self) -> None:
        """Close, and wait until nothing of it is left."""
        self.close()
        if self._connecting is not None:
            await end(self._connecting)

    def close(self) -> None:
        """Close; whoever waits for replies is told that they are lost, whoever waits for the connection that it is."""
        if self._connecting is not None:
            self._connecting.cancel()
        if self._conversation is not None:
            self._conversation.lose(RedisConnectionError("it was closed here"))


def _seen(connecting: "asyncio.Task[None]") -> None:
    if not connecting.cancelled():
        connecting.exception()  # those who waited for it may all have gone


class _Nobody:
    """Wants no reply."""

    def heard(self, replies: Sequence[Any]) -> None: ...

    def lost(self, error: RedisConnectionError) -> None: ...


_NOBODY = _Nobody()
_PING = pack("PING")


class _Together:
    """Hears replies that are wanted all at once."""

    def __init__(self, count: int, future: "asyncio.Future[list[Any]]") -> None:
        self._count = count
        self._future = future
        self._replies: list[Any] = []

    def heard(self, replies: Sequence[Any]) -> None:
        self._replies += replies
        if len(self._replies) == self._count and not self._future.done():
            self._future.set_result(self._replies)

    def lost(self, error: RedisConnectionError) -> None:
        if not self._future.done():
            self._future.set_exception(error)


class _Exchanges(Conversation):
    """Commands and their replies, over one connection."""

    def __init__(self) -> None:
        super().__init__()
        self._expected: deque[tuple[int, Listener]] = deque()
        """How many replies are still due to whom."""
        self._waits_since = 0.0

    @property
    def silence(self) -> float:
        return self.loop.time() - self._waits_since if self._expected and not self.is_over else 0.0

    def ask(self, commands: Sequence[bytes], listener: Listener, *, publishing: bool) -> None:
        if not self._expected:
            self._waits_since = self.loop.time()
        if publishing:
            # At the end of its step the server writes to its clients: first to the one that it had something for last.
            # A script publishes before it returns, so that we would be written to, and woken, before the subscribers.
            # The reply to a ping is due to us earlier, and makes us the last.
            self._expected.append((1, _NOBODY))
        self._expected.append((len(commands), listener))
        self.say([_PING, *commands] if publishing else commands)

    def hear(self, replies: Sequence[Any]) -> None:
        self._waits_since = self.loop.time()
        taken = 0
        while taken < len(replies):
            if not self._expected:
                raise RedisConnectionError("a reply came that nobody asked for")
            due, listener = self._expected.popleft()
            part = replies[taken : taken + due]
            taken += len(part)
            if len(part) < due:
                self._expected.appendleft((due - len(part), listener))
            listener.heard(part)

    def ended(self, error: Exception) -> None:
        expected, self._expected = self._expected, deque()
        for _, listener in expected:
            listener.lost(RedisConnectionError(f"the connection was lost: {error}"))
