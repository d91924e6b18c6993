"""An LLM service made of a socket: it keeps each request to the byte and answers with the bytes it is told."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Self

PATIENCE = 5.0  # seconds after which a fact that did not come is a failed test

LAST_CHUNK = b"0\r\n\r\n"


def head(status: str = "200 OK", **headers: str) -> bytes:
    """The first lines of a response; ``content_type="x"`` makes ``content-type: x``."""
    lines = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def whole(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A response with a length."""
    return head(status, content_length=str(len(body)), **headers) + body


class Exchange:
    """One request that came, and the means to answer it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes) -> None:
        self.request = request
        self.is_over = False
        self._reader = reader
        self._writer = writer

    async def send(self, *pieces: bytes) -> None:
        """Send every piece in a TCP segment of its own."""
        for piece in pieces:
            self._writer.write(piece)
            await self._writer.drain()
            # Client and server share this loop: a few turns of it let the client read one segment before
            # the next is sent. No assertion hangs on it, every split must give the same text.
            for _ in range(3):
                await asyncio.sleep(0)

    async def peer_closed(self) -> None:
        """Return when the client has closed the connection."""
        async with asyncio.timeout(PATIENCE):
            with suppress(ConnectionResetError):
                assert await self._reader.read() == b""
        self.is_over = True

    def hang_up(self) -> None:
        self._writer.close()
        self.is_over = True

    def reset_at_once(self) -> None:
        """Reset also where all that came was read: otherwise the kernel would close the connection in order."""
        at_once = struct.pack("ii", 1, 0)
        self._writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.reset()

    def reset(self) -> None:
        self._writer.transport.abort()
        self.is_over = True


Script = Callable[[Exchange], Awaitable[None]]


class Upstream:
    """Plays ``script`` for every request; a failed assertion in it fails the test that runs the upstream."""

    def __init__(self, script: Script, *, tls: bool = False) -> None:
        self.requests: list[bytes] = []
        self.connections = 0
        self._script = script
        self._tls = tls
        self._tasks: set[asyncio.Task[None]] = set()
        self._plays: set[asyncio.Future[None]] = set()
        self._failures: list[Exception] = []

    @property
    def netloc(self) -> str:
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.netloc}"

    async def __aenter__(self) -> Self:
        tls = tls_without_certificates(ssl.PROTOCOL_TLS_SERVER) if self._tls else None
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        if kind is None and self._plays:
            await asyncio.wait(self._plays, timeout=PATIENCE)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._failures:
            raise self._failures[0]

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (request := await _next_request(reader)) is not None:
                self.requests.append(request)
                exchange = Exchange(reader, writer, request)
                play = asyncio.ensure_future(self._script(exchange))
                self._plays.add(play)
                await play
                if exchange.is_over:
                    break
        except Exception as error:  # noqa: BLE001 - kept, and raised where the test sees it
            self._failures.append(error)
        finally:
            writer.close()


async def _next_request(reader: asyncio.StreamReader) -> bytes | None:
    try:
        first = await reader.readuntil(b"\r\n\r\n")
        length = [line for line in first.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        return first + await reader.readexactly(int(length[0].split(b":")[1]) if length else 0)
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None


def answering(*pieces: bytes) -> Script:
    """A script that sends ``pieces`` and keeps the connection."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*pieces)

    return script


def answering_and_closing(*pieces: bytes) -> Script:
    """A script that sends ``pieces`` and closes: the way to end an answer that has no length."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(*pieces)
        exchange.hang_up()

    return script


def tls_without_certificates(side: int) -> ssl.SSLContext:
    """One side of a TLS in which nobody shows who they are: a test needs no certificate for it."""
    context = ssl.SSLContext(side)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("aNULL:@SECLEVEL=0")
    return context


@asynccontextmanager
async def closed_port() -> AsyncIterator[str]:
    """The URL of a port where nobody listens."""
    server = await asyncio.start_server(lambda _reader, writer: writer.close(), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    server.close()
    await server.wait_closed()
    yield f"http://{host}:{port}"
