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
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection.url import Url

Arg = str | bytes | int

_INCOMPLETE = object()


def pack(*args: Arg) -> bytes:
    """Return a command as the bytes that are sent."""
    packed: bytes = hiredis.pack_command(args)  # type: ignore[arg-type]  # its stub knows tuples of one only
    return packed


def new_reply_reader() -> hiredis.Reader:
    """Return a parser of replies; errors are those of redis-py, whole ones come from `replies_in`."""
    return hiredis.Reader(
        protocolError=RedisConnectionError,
        replyError=DefaultParser.parse_error,
        notEnoughData=_INCOMPLETE,
    )


def replies_in(reader: hiredis.Reader) -> Iterable[Any]:
    """Yield the replies that are whole.

    Raises:
        redis.exceptions.ConnectionError: what came is not the protocol.
    """
    while (reply := reader.gets()) is not _INCOMPLETE:
        yield reply


class HandedOver:
    """An open connection's transport, taken from redis-py, and given to ``protocol``."""

    def __init__(self, connection: AbstractConnection, protocol: asyncio.Protocol) -> None:
        # There is no public way to it. redis-py forgets the two, or it would close them when it is collected.
        stream = connection._writer  # noqa: SLF001
        assert stream is not None, "it is open"
        self._stream = stream  # which would close the transport when it is collected
        connection._reader = connection._writer = None  # noqa: SLF001
        self.transport: asyncio.WriteTransport = self._stream.transport
        self.transport.set_protocol(protocol)

    def close(self) -> None:
        """Close the connection without waiting for what was not sent yet."""
        self.transport.abort()


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
        self._conversation: _Conversation | None = None

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
            self._conversation = _Conversation()
            self._conversation.begin(HandedOver(connection, self._conversation))
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
            self._conversation.say(commands, future)
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
            self._conversation.lose("it was closed here")


@dataclass(slots=True)
class _Exchange:
    """Commands that were sent together, and the replies that came so far."""

    count: int
    future: "asyncio.Future[list[Any]]"
    replies: list[Any] = field(default_factory=list)


class _Conversation(asyncio.Protocol):
    """What is said over one connection, from its handshake to its end."""

    def __init__(self) -> None:
        self.is_over = False
        self._connection: HandedOver | None = None
        self._reader = new_reply_reader()
        self._expected: deque[_Exchange] = deque()
        self._unwritten: list[bytes] = []
        self._has_written = False
        self._loop = asyncio.get_running_loop()
        self._waits_since = 0.0

    @property
    def silence(self) -> float:
        return self._loop.time() - self._waits_since if self._expected and not self.is_over else 0.0

    def begin(self, connection: HandedOver) -> None:
        self._connection = connection
        if connection.transport.is_closing():
            self.lose("it was closed by the server")

    def say(self, commands: Sequence[bytes], future: "asyncio.Future[list[Any]]") -> None:
        if not self._expected:
            self._waits_since = self._loop.time()
        self._expected.append(_Exchange(len(commands), future))
        if self._has_written:
            self._unwritten += commands
            return
        # An idle line writes at once. What others say in this same step of the loop is written together, after it.
        self._has_written = True
        self._loop.call_soon(self._write_rest)
        self._write(commands)

    def _write_rest(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        self._has_written = False
        if unwritten and not self.is_over:
            self._write(unwritten)

    def _write(self, commands: Sequence[bytes]) -> None:
        assert self._connection is not None, "nobody knows of a conversation that has not begun"
        self._connection.transport.write(b"".join(commands))

    def data_received(self, data: bytes) -> None:
        self._waits_since = self._loop.time()
        self._reader.feed(data)
        try:
            for reply in replies_in(self._reader):
                self._take(reply)
        except RedisConnectionError as error:
            self.lose(str(error))

    def _take(self, reply: Any) -> None:
        if not self._expected:
            raise RedisConnectionError("a reply came that nobody asked for")
        exchange = self._expected[0]
        exchange.replies.append(reply)
        if len(exchange.replies) == exchange.count:
            self._expected.popleft()
            if not exchange.future.done():
                exchange.future.set_result(exchange.replies)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lose(str(exc or "it was closed by the server"))

    def lose(self, why: str) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self._connection is not None:
            self._connection.close()
        expected, self._expected = self._expected, deque()
        for exchange in expected:
            if not exchange.future.done():
                exchange.future.set_exception(RedisConnectionError(f"the connection was lost: {why}"))
