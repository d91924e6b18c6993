"""A server as the writer sees it: pipelines come, and are answered when the test says so."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import hiredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import (
    RedisError,
)

from producer.connection import Call, Script
from producer.connection.line import Listener
from worker.writer import Writer

SCRIPT = Script("return 1", "sha")


def call(name: str) -> Call:
    return SCRIPT.on([name])


class FakeLine:
    """A way to a server that says who it is."""

    def __init__(self) -> None:
        self.run_id = "one"
        self.is_open = False
        self.due: set[asyncio.Task[None]] = set()
        self.waits_since: float | None = None

    @property
    def silence(self) -> float:
        return 0.0 if self.waits_since is None else asyncio.get_running_loop().time() - self.waits_since

    async def open(self) -> bool:
        was_open, self.is_open = self.is_open, True
        return not was_open

    async def ask(self, *command: str) -> bytes:
        assert command == ("INFO", "server")
        return f"# Server\r\nredis_version:7\r\nrun_id:{self.run_id}\r\n".encode()

    def close(self) -> None:
        self.is_open = False
        self.waits_since = None
        for answering in self.due:
            answering.cancel()


class Peer:
    """Takes pipelines; each is answered when the test says so, with what the test says."""

    def __init__(self, line: FakeLine) -> None:
        self.pipelines: asyncio.Queue[list[str]] = asyncio.Queue()
        self.replies: asyncio.Queue[Any] = asyncio.Queue()
        self.refusal: RedisError | None = None
        self._line = line
        self._turn = asyncio.Lock()

    def forget(self) -> None:
        """It knows no scripts."""

    def say(self, calls: Sequence[Call], listener: Listener) -> None:
        names = [call.keys[0] for call in calls]
        self.pipelines.put_nowait(names)
        answering = asyncio.ensure_future(self._answer(names, listener))
        self._line.due.add(answering)
        answering.add_done_callback(self._line.due.discard)

    async def _answer(self, names: list[str], listener: Listener) -> None:
        try:
            replies = await self._replies(names)
        except RedisConnectionError as error:
            self._line.due.discard(asyncio.current_task())
            self._line.close()  # nothing that was said later is answered either
            listener.lost(error)
        else:
            for part in (replies[:1], replies[1:]):  # as a connection may bring them
                if part:
                    listener.heard(part)

    async def run_packed(self, scripts: set[Script], calls: Sequence[bytes]) -> list[Any]:
        assert scripts
        names = [command_of(call)[3].decode() for call in calls]
        self.pipelines.put_nowait(names)
        return await self._replies(names)

    async def _replies(self, names: list[str]) -> list[Any]:
        async with self._turn:
            reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return [reply.get(name, name.encode()) for name in names]


def command_of(packed: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(packed)
    command: list[bytes] = reader.gets()
    return command


@contextlib.asynccontextmanager
async def running(line: FakeLine, peer: Peer, timeout: float) -> AsyncIterator[Writer]:
    writer = Writer(line, timeout, peer)  # type: ignore[arg-type]
    run = asyncio.create_task(writer.run())
    yield writer
    assert not run.done(), "the writer broke"
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run


async def until_idle(peer: Peer) -> None:
    """Wait until all replies that the test has given were heard."""
    while not peer.replies.empty():  # noqa: ASYNC110 - it is the loop that is waited for
        await asyncio.sleep(0)


async def written(writer: Writer, peer: Peer, *names: str, remember: bool = True) -> None:
    futures = [writer.submit(call(name), remember=remember) for name in names]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == list(names)
    await asyncio.gather(*futures)
