"""A TCP proxy in front of Redis, for one worker: it can cut, refuse, swallow, delay, and lose replies."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Self

Connect = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]

_PIECE = 64 * 1024


class Proxy:
    """``async with`` it, and it listens at ``port``. Trouble lasts until `heal`.

    ``connect`` opens a connection to the server behind it.
    """

    def __init__(self, connect: Connect) -> None:
        self.port = 0
        self._connect = connect
        self._open: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._refuses = False
        self._delay = 0.0  # seconds before a reply goes on
        self._up = asyncio.Event()
        self._down = asyncio.Event()
        self._loses_replies = False
        self._up.set()
        self._down.set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.heal()
        self.refuse()
        await self._server.wait_closed()
        if self._serving:
            await asyncio.wait(self._serving)

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return len(self._open) // 2

    def cut(self) -> None:
        """Cut all connections; new ones are welcome, unless `refuse` says otherwise."""
        for writer in list(self._open):
            writer.transport.abort()

    def refuse(self) -> None:
        """Cut all connections and refuse new ones."""
        self._refuses = True
        self.cut()

    def black_hole(self) -> None:
        """Hold back what goes either way, without a sign of it."""
        self._up.clear()
        self._down.clear()

    def delay(self, seconds: float) -> None:
        """Hold back each reply for a while."""
        self._delay = seconds

    def lose_replies(self) -> None:
        """Let commands through and drop what is answered; `heal` cuts those connections."""
        self._loses_replies = True

    def heal(self) -> None:
        """End the trouble."""
        if self._loses_replies:
            self.cut()
        self._refuses = self._loses_replies = False
        self._delay = 0.0
        self._up.set()
        self._down.set()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving = asyncio.create_task(self._serve(reader, writer), name="verify-proxy")
        self._serving.add(serving)
        serving.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refuses:
            writer.transport.abort()
            return
        try:
            far_reader, far_writer = await self._connect()
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._open |= ends
        pumps = [
            asyncio.create_task(self._forward(reader, far_writer)),
            asyncio.create_task(self._backward(far_reader, writer)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._open -= ends
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for end in ends:
                end.transport.abort()

    async def _forward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PIECE):
                await self._up.wait()
                target.write(data)
                await target.drain()

    async def _backward(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_PIECE):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._down.wait()
                if not self._loses_replies:
                    target.write(data)
                    await target.drain()
