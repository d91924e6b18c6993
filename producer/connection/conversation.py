"""An open connection taken from redis-py, for those who speak the protocol themselves."""

import asyncio
from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio.connection import AbstractConnection, DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError

_INCOMPLETE = object()


class Conversation(asyncio.Protocol):
    """What is said over one connection, from its handshake to its end. `hear` and `ended` are the subclass's."""

    def __init__(self) -> None:
        self.is_over = False
        self.loop = asyncio.get_running_loop()
        # Errors are those of redis-py.
        self._reader = hiredis.Reader(
            RedisConnectionError, DefaultParser.parse_error, notEnoughData=_INCOMPLETE
        )
        self._stream: asyncio.StreamWriter | None = None
        self._unwritten: list[bytes] = []
        self._has_written = False

    def hear(self, replies: Sequence[Any]) -> None:
        """Take in all that one read brought; an error that is raised here ends the conversation."""
        raise NotImplementedError

    def ended(self, error: Exception) -> None:
        """Take notice of the end, which comes once."""
        raise NotImplementedError

    def begin(self, connection: AbstractConnection) -> None:
        """Take an open connection over."""
        # There is no public way to its transport. redis-py forgets the two, or it would close them when it is
        # collected; and so would the stream, which is therefore kept.
        self._stream = connection._writer  # noqa: SLF001
        connection._reader = connection._writer = None  # noqa: SLF001
        transport = self._transport
        transport.set_protocol(self)
        if transport.is_closing():
            self.lose(RedisConnectionError("it was closed by the server"))

    def say(self, commands: Sequence[bytes]) -> None:
        """Send packed commands. The first in a step of the loop go at once, the others together; none after the end."""
        if self.is_over:
            return
        if self._has_written:
            self._unwritten += commands
            return
        self._has_written = True
        self.loop.call_soon(self._write_rest)
        self._transport.write(b"".join(commands))

    def lose(self, error: Exception) -> None:
        """End it, without waiting for what was not sent yet."""
        if self.is_over:
            return
        self.is_over = True
        self._transport.abort()
        self.ended(error)

    @property
    def _transport(self) -> asyncio.WriteTransport:
        assert self._stream is not None, "it has begun"
        return self._stream.transport

    def _write_rest(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        self._has_written = False
        if unwritten and not self.is_over:
            self._transport.write(b"".join(unwritten))

    # -- asyncio calls these -------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Hand on what is whole."""
        self._reader.feed(data)
        replies = []
        try:
            try:
                while (reply := self._reader.gets()) is not _INCOMPLETE:
                    replies.append(reply)
            finally:
                self.hear(replies)  # also what came before something that is no reply
        except Exception as error:  # noqa: BLE001 - whatever it is: another connection is made
            self.lose(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """End with what ended the connection."""
        self.lose(exc or RedisConnectionError("it was closed by the server"))
