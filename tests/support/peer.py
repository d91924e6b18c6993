"""A server that shakes hands like Redis, and then does what a test wants it to do."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from producer.connection import Url

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def peer(answer: Answer, *, shakes_hands: bool = True) -> AsyncIterator[Url]:
    """The URL of a server that shakes hands like Redis, or does not, and then does what the test wants it to do."""

    serving: list[asyncio.Task[object]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.append(asyncio.current_task())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            for _ in range(2 if shakes_hands else 0):  # CLIENT SETINFO lib-name, lib-ver
                await command_from(reader)
                writer.write(b"+OK\r\n")
            await answer(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield Url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await asyncio.gather(*serving)


async def command_from(reader: asyncio.StreamReader) -> list[bytes]:
    count = int((await reader.readuntil(b"\r\n"))[1:])
    words = []
    for _ in range(count):
        size = int((await reader.readuntil(b"\r\n"))[1:])
        words.append((await reader.readexactly(size + 2))[:-2])
    return words
