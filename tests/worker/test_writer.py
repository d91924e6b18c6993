"""Group commit: what became ready meanwhile goes out together, in order, and again when the reply was lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Call, Script
from worker import writer as writer_module
from worker.writer import MAX_BYTES, MAX_CALLS, Writer

SCRIPT = Script("return 1", "sha")


def call(name: str) -> Call:
    return SCRIPT.on([name])


class Peer:
    """Takes pipelines; each is answered when the test says so, with what the test says."""

    def __init__(self) -> None:
        self.pipelines: asyncio.Queue[list[str]] = asyncio.Queue()
        self.replies: asyncio.Queue[Any] = asyncio.Queue()

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        names = [call.keys[0] for call in calls]
        self.pipelines.put_nowait(names)
        reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return [reply.get(name, name.encode()) for name in names] if isinstance(reply, dict) else list(reply)


@pytest.fixture
async def peer() -> Peer:
    return Peer()


@pytest.fixture
async def writer(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Writer]:
    monkeypatch.setattr(writer_module, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(writer_module, "_LONGEST_PAUSE", 0.0)
    writer = Writer(None, 60)  # type: ignore[arg-type]
    writer._scripts = peer  # type: ignore[assignment]
    running = asyncio.create_task(writer.run())
    yield writer
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def test_the_first_call_goes_at_once_and_the_rest_together(writer: Writer, peer: Peer) -> None:
    first = writer.submit(call("a"))
    assert await peer.pipelines.get() == ["a"]
    others = [writer.submit(call(name)) for name in "bcd"]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == ["b", "c", "d"]
    peer.replies.put_nowait({})
    assert await asyncio.gather(first, *others) == [b"a", b"b", b"c", b"d"]


async def test_after_a_lost_reply_the_same_is_sent_again_before_anything_else(
    writer: Writer, peer: Peer
) -> None:
    first = [writer.submit(call(name)) for name in "ab"]
    assert await peer.pipelines.get() == ["a", "b"]
    later = writer.submit(call("c"))
    for error in (RedisConnectionError("gone"), TimeoutError(), OSError("reset")):
        peer.replies.put_nowait(error)
        assert await peer.pipelines.get() == ["a", "b"]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == ["c"]
    peer.replies.put_nowait({})
    assert await asyncio.gather(*first, later) == [b"a", b"b", b"c"]


async def test_a_refused_call_is_an_error_for_its_own_caller_only(writer: Writer, peer: Peer) -> None:
    good, bad = writer.submit(call("a")), writer.submit(call("b"))
    peer.replies.put_nowait({"b": ResponseError("WRONGTYPE")})
    assert await good == b"a"
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await bad


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("command not allowed"),
        BusyLoadingError("Redis is loading"),
        NoScriptError("No matching script"),
        ResponseError("MISCONF Redis is configured to save RDB snapshots"),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("BUSY Redis is busy running a script."),
    ],
    ids=lambda error: str(error).partition(" ")[0],
)
async def test_what_the_server_cannot_take_now_is_sent_again(
    writer: Writer, peer: Peer, error: Exception
) -> None:
    good, later = writer.submit(call("a")), writer.submit(call("b"))
    assert await peer.pipelines.get() == ["a", "b"]
    peer.replies.put_nowait({"b": error})
    assert await good == b"a"
    assert await peer.pipelines.get() == ["b"]
    peer.replies.put_nowait({})
    assert await later == b"b"


async def test_a_caller_who_has_gone_disturbs_nobody(writer: Writer, peer: Peer) -> None:
    gone, stays = writer.submit(call("a")), writer.submit(call("b"))
    assert await peer.pipelines.get() == ["a", "b"]
    gone.cancel()
    peer.replies.put_nowait({})
    assert await stays == b"b"


async def test_a_pipeline_has_a_bound(writer: Writer, peer: Peer) -> None:
    futures = [writer.submit(call(str(i))) for i in range(MAX_CALLS + 1)]
    for _ in range(2):
        peer.replies.put_nowait({})
    assert [len(await peer.pipelines.get()) for _ in range(2)] == [MAX_CALLS, 1]
    assert await futures[-1] == str(MAX_CALLS).encode()


async def test_a_pipeline_is_no_larger_than_a_slow_link_carries(writer: Writer, peer: Peer) -> None:
    futures = [writer.submit(SCRIPT.on([name], b"x" * (MAX_BYTES // 2))) for name in "abcde"]
    futures.append(writer.submit(SCRIPT.on(["huge"], b"x" * (3 * MAX_BYTES))))
    pipelines = []
    for _ in range(4):
        peer.replies.put_nowait({})
        pipelines.append(await peer.pipelines.get())
    assert pipelines == [["a", "b"], ["c", "d"], ["e"], ["huge"]]
    await asyncio.gather(*futures)
