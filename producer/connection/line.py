"""One connection whose commands are packed once and whose replies are counted off, in order.

redis-py spends 9 µs of Python on each command of a pipeline; this spends less than one, because hiredis does all
that is done per command. redis-py still makes the connection: its addresses, TLS, credentials and handshake.
"""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection.conversation import Conversation
from producer.connection.url import Url

Arg = str | bytes | int


def pack(*args: Arg) -> bytes:
    """Return a command as the bytes that are sent."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed


class Line:
    """A connection for any number of callers at once. Of what they send in one step of the loop the first is written at
    once, and all else together.

    A caller that goes away disturbs nobody: its replies are counted off, and dropped. Nothing here is bounded in
    time: whoever finds that the other end has been silent for too long calls `close`, and all that is awaited is lost.
    """

    def __init__(self, url: Url, connect_timeout: float) -> None:
        self._url = url
        self._connect_timeout = connect_timeout
        self._connecting = asyncio.Lock()
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
        """Connect where there is no connection; return whether a new one was made.

        Raises:
            redis.exceptions.RedisError: that failed.
        """
        async with self._connecting:
            if self.is_open:
                return False
            connection = self._url.new_connection(self._connect_timeout)
            try:
                await connection.connect()
            except BaseException:
                await connection.disconnect(nowait=True)
                raise
            self._conversation = _Exchanges()
            self._conversation.begin(connection)
            return True

    def send(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Any]]":
        """Send packed commands; the future becomes their replies, in order. One that is an error is no exception.

        Future raises:
            redis.exceptions.ConnectionError: the replies are lost; some of the commands may have been carried out.
        """
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        if self._conversation is None or self._conversation.is_over:
            future.set_exception(RedisConnectionError("there is no connection"))
        elif not commands:
            future.set_result([])
        else:
            self._conversation.ask(commands, future)
        return future

    async def ask(self, *args: Arg) -> Any:
        """Send one command and return its reply.

        Raises:
            redis.exceptions.RedisError: the reply is an error, or was lost.
        """
        (reply,) = await self.send([pack(*args)])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def close(self) -> None:
        """Close; whoever waits for replies is told that they are lost."""
        if self._conversation is not None:
            self._conversation.lose(RedisConnectionError("it was closed here"))


@dataclass(slots=True)
class _Exchange:
    """Commands that were sent together, and the replies that came so far."""

    count: int
    future: "asyncio.Future[list[Any]]"
    replies: list[Any] = field(default_factory=list)


class _Exchanges(Conversation):
    """Commands and their replies, over one connection."""

    def __init__(self) -> None:
        super().__init__()
        self._expected: deque[_Exchange] = deque()
        self._waits_since = 0.0

    @property
    def silence(self) -> float:
        return self.loop.time() - self._waits_since if self._expected and not self.is_over else 0.0

    def ask(self, commands: Sequence[bytes], future: "asyncio.Future[list[Any]]") -> None:
        if not self._expected:
            self._waits_since = self.loop.time()
        self._expected.append(_Exchange(len(commands), future))
        self.say(commands)

    def hear(self, replies: Iterable[Any]) -> None:
        self._waits_since = self.loop.time()
        for reply in replies:
            self._take(reply)

    def _take(self, reply: Any) -> None:
        if not self._expected:
            raise RedisConnectionError("a reply came that nobody asked for")
        exchange = self._expected[0]
        exchange.replies.append(reply)
        if len(exchange.replies) == exchange.count:
            self._expected.popleft()
            if not exchange.future.done():
                exchange.future.set_result(exchange.replies)

    def ended(self, error: Exception) -> None:
        expected, self._expected = self._expected, deque()
        for exchange in expected:
            if not exchange.future.done():
                exchange.future.set_exception(RedisConnectionError(f"the connection was lost: {error}"))
