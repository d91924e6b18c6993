"""A server that came back without its last second is told it again."""

import asyncio
import time

import pytest
from redis.exceptions import (
    BusyLoadingError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from worker import reminder as reminder_module
from worker.recent_calls import REMEMBERED_BYTES, REMEMBERED_SECONDS, RecentCalls
from worker.writer import Writer

from .peer import SCRIPT, FakeLine, Peer, call, command_of, running, written


async def test_another_server_is_told_what_was_acknowledged_lately_and_in_its_order(
    writer: Writer, peer: Peer, line: FakeLine
) -> None:
    await written(writer, peer, "a", "b")
    await written(writer, peer, "c")
    line.run_id = "two"
    line.close()
    writer.submit(call("d"))
    assert await peer.pipelines.get() == ["a", "b", "c"]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == ["d"]
    peer.replies.put_nowait({})
    await written(writer, peer, "e")  # and not said a third time


async def test_what_a_server_may_have_lost_is_counted_from_when_it_was_last_heard_of(
    writer: Writer, peer: Peer, line: FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long it was away, and however often it cannot be told yet."""
    away = 0.0
    clock = time.monotonic
    monkeypatch.setattr(reminder_module.time, "monotonic", lambda: clock() + away)
    await written(writer, peer, "a", "b")
    writer.remember(call("c"))
    line.run_id = "two"
    line.close()
    writer.submit(call("d"))
    for reply in (BusyLoadingError("Redis is loading"), RedisConnectionError("gone"), {}):
        away += 10 * REMEMBERED_SECONDS
        assert await peer.pipelines.get() == ["a", "b", "c"]
        peer.replies.put_nowait(dict.fromkeys("abc", reply) if isinstance(reply, BusyLoadingError) else reply)
    assert await peer.pipelines.get() == ["d"]
    peer.replies.put_nowait({})


async def test_one_that_refuses_all_does_not_count_as_heard_of(
    writer: Writer, peer: Peer, line: FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address leads to the server that was demoted for long: the one after it is told all the same."""
    away = 0.0
    clock = time.monotonic
    monkeypatch.setattr(reminder_module.time, "monotonic", lambda: clock() + away)
    await written(writer, peer, "a")
    refused = writer.submit(call("b"))
    for _ in range(3):
        away += 10 * REMEMBERED_SECONDS
        assert await peer.pipelines.get() == ["b"]
        peer.replies.put_nowait({"b": ReadOnlyError("You can't write against a read only replica.")})
        reads = writer.submit(call("only reads"), remember=False)
        told: list[str] = []
        while "only reads" not in told:
            told += await peer.pipelines.get()
            peer.replies.put_nowait({"b": ReadOnlyError("You can't write against a read only replica.")})
        await reads
    line.run_id = "two"
    line.close()
    told = []
    while "b" not in told:
        told += await peer.pipelines.get()
        peer.replies.put_nowait({})
    assert told[0] == "a"
    assert await refused == b"b"


async def test_the_same_server_over_a_new_connection_is_told_nothing_again(
    writer: Writer, peer: Peer, line: FakeLine
) -> None:
    await written(writer, peer, "a", "b")
    line.close()
    await written(writer, peer, "c")


async def test_what_changed_nothing_and_what_was_refused_is_not_said_again(
    writer: Writer, peer: Peer, line: FakeLine
) -> None:
    await written(writer, peer, "a")
    await written(writer, peer, "a look", remember=False)
    refused = writer.submit(call("b"))
    assert await peer.pipelines.get() == ["b"]
    peer.replies.put_nowait({"b": ResponseError("WRONGTYPE")})
    with pytest.raises(ResponseError):
        await refused
    writer.remember(call("in other words"))
    line.run_id = "two"
    line.close()
    writer.submit(call("c"))
    assert await peer.pipelines.get() == ["a", "in other words"]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == ["c"]
    peer.replies.put_nowait({})


async def test_to_be_told_all_of_it_may_take_a_server_longer_than_a_reply_may(
    peer: Peer, line: FakeLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reminder_module, "_SAID_AT_ONCE", 1)
    async with running(line, peer, 3.0) as writer:
        await written(writer, peer, "a", "b", "c")
        line.run_id = "two"
        line.close()
        writer.submit(call("d"))
        for name in "abc":
            assert await peer.pipelines.get() == [name]
            await asyncio.sleep(1.2)
            peer.replies.put_nowait({})
        assert await peer.pipelines.get() == ["d"]
        peer.replies.put_nowait({})


async def test_what_could_not_be_said_again_is_said_again_from_its_beginning(
    writer: Writer, peer: Peer, line: FakeLine
) -> None:
    await written(writer, peer, "a", "b")
    line.run_id = "two"
    line.close()
    writer.submit(call("c"))
    for reply in (RedisConnectionError("gone"), RedisConnectionError("gone"), {}):
        assert await peer.pipelines.get() == ["a", "b"]
        peer.replies.put_nowait(reply)
    assert await peer.pipelines.get() == ["c"]
    peer.replies.put_nowait({})


async def test_a_server_that_does_not_say_who_it_is_may_always_be_another_one(
    writer: Writer, peer: Peer, line: FakeLine
) -> None:
    line.run_id = ""
    await written(writer, peer, "a")
    line.close()
    writer.submit(call("b"))
    assert await peer.pipelines.get() == ["a"]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == ["b"]
    peer.replies.put_nowait({})


async def test_what_a_fence_or_a_cancel_kept_from_having_an_effect_is_not_said_again(
    writer: Writer, peer: Peer, line: FakeLine
) -> None:
    futures = [writer.submit(call(name)) for name in "abcd"]
    peer.replies.put_nowait({"b": b"lost", "c": [b"cancel", b"enough"], "d": b"gone"})
    assert await peer.pipelines.get() == ["a", "b", "c", "d"]
    await asyncio.gather(*futures)
    line.run_id = "two"
    line.close()
    writer.submit(call("e"))
    assert await peer.pipelines.get() == ["a"]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == ["e"]
    peer.replies.put_nowait({})


def names_in(recent: RecentCalls) -> list[str]:
    return [command_of(call)[3].decode() for call in recent.calls()]


def test_what_is_remembered_is_bounded_by_bytes_and_the_last_part_stays() -> None:
    recent = RecentCalls()
    for i in range(40):
        recent.add([SCRIPT.on([str(i)], b"x" * (REMEMBERED_BYTES // 10))], now=1.0)
        recent.forget_the_old(now=1.0)
    assert names_in(recent) == [str(i) for i in range(31, 40)]
    recent.add([SCRIPT.on(["huge"], b"x" * (2 * REMEMBERED_BYTES))], now=1.0)
    recent.forget_the_old(now=1.0)
    assert names_in(recent) == []
    recent.add([call("small")], now=1.0)
    assert names_in(recent) == ["small"]


def test_what_is_remembered_is_bounded_by_time() -> None:
    now = 1000.0
    recent = RecentCalls()
    for name in "abc":
        recent.add([call(name)], now)
        now += REMEMBERED_SECONDS / 2 - 0.01
    recent.add([call("d"), call("e")], now)
    recent.forget_the_old(now)
    assert names_in(recent) == ["b", "c", "d", "e"]
