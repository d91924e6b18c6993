"""Group commit: what becomes ready together goes out together, in order, and again when the reply was lost."""

import asyncio
from typing import Any

import pytest
from redis.exceptions import (
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Call
from worker import writer as writer_module
from worker.pending import Asked, Pending
from worker.writer import MAX_BYTES, MAX_CALLS, Writer

from .peer import SCRIPT, FakeLine, Peer, call, running, until_idle, written


async def test_what_one_step_of_the_loop_makes_ready_goes_together_and_waits_for_no_reply(
    writer: Writer, peer: Peer
) -> None:
    first = writer.submit(call("a"))
    assert await peer.pipelines.get() == ["a"]
    others = [writer.submit(call(name)) for name in "bcd"]
    assert await peer.pipelines.get() == ["b", "c", "d"]
    assert not first.done()
    peer.replies.put_nowait({})
    peer.replies.put_nowait({})
    assert await asyncio.gather(first, *others) == [b"a", b"b", b"c", b"d"]


async def test_what_has_nothing_to_say_any_more_disturbs_nobody(writer: Writer, peer: Peer) -> None:
    await written(writer, peer, "first")
    writer.add(Pending())
    await asyncio.sleep(0)
    await written(writer, peer, "a")
    writer.add(Pending())
    await written(writer, peer, "b")


async def test_a_server_that_was_demoted_is_left_and_what_it_refused_goes_to_whoever_is_there_then(
    writer: Writer, peer: Peer, line: FakeLine
) -> None:
    await written(writer, peer, "first")
    refused = [writer.submit(call(name)) for name in "ab"]
    assert await peer.pipelines.get() == ["a", "b"]
    line.run_id = "two"
    peer.replies.put_nowait(
        dict.fromkeys("ab", ReadOnlyError("You can't write against a read only replica."))
    )
    told: list[str] = []
    while not {"a", "b"} <= set(told):
        told += await peer.pipelines.get()
        peer.replies.put_nowait({})
    assert (told[0], sorted(told[1:])) == ("first", ["a", "b"])
    assert await asyncio.gather(*refused) == [b"a", b"b"]


async def test_after_a_lost_reply_the_same_is_sent_again_before_anything_else(
    writer: Writer, peer: Peer
) -> None:
    first = [writer.submit(call(name)) for name in "ab"]
    assert await peer.pipelines.get() == ["a", "b"]
    second = writer.submit(call("c"))
    assert await peer.pipelines.get() == ["c"]
    peer.replies.put_nowait(RedisConnectionError("gone"))
    await asyncio.sleep(0)
    later = writer.submit(call("d"))
    sent = []
    for _ in range(2):
        peer.replies.put_nowait({})
        sent.append(await peer.pipelines.get())
    assert sent == [["a"], ["b", "c", "d"]]  # the first goes alone: should it be what broke the connection
    assert await asyncio.gather(*first, second, later) == [b"a", b"b", b"c", b"d"]


async def test_a_reply_that_was_heard_before_the_connection_broke_stays_heard(
    writer: Writer, peer: Peer
) -> None:
    first, second = writer.submit(call("a")), None
    assert await peer.pipelines.get() == ["a"]
    second = writer.submit(call("b"))
    assert await peer.pipelines.get() == ["b"]
    peer.replies.put_nowait({})
    peer.replies.put_nowait(RedisConnectionError("gone"))
    assert await first == b"a"
    assert await peer.pipelines.get() == ["b"]
    peer.replies.put_nowait({})
    assert await second == b"b"


async def test_a_connection_that_breaks_again_and_again_is_borne(writer: Writer, peer: Peer) -> None:
    only = writer.submit(call("a"))
    for reply in (RedisConnectionError("gone"), RedisConnectionError("gone"), {}):
        assert await peer.pipelines.get() == ["a"]
        peer.replies.put_nowait(reply)
    assert await only == b"a"


async def test_what_is_not_answered_in_time_is_sent_again_over_another_connection(
    line: FakeLine, peer: Peer
) -> None:
    async with running(line, peer, 0.05) as writer:
        only = writer.submit(call("a"))
        assert await peer.pipelines.get() == ["a"]
        line.waits_since = asyncio.get_running_loop().time()
        assert await peer.pipelines.get() == ["a"]
        peer.replies.put_nowait({})
        assert await only == b"a"


@pytest.mark.interpreted
@pytest.mark.parametrize("said", [None, call("a")])
async def test_a_bug_ends_the_writer_and_is_not_hidden(line: FakeLine, peer: Peer, said: Call | None) -> None:
    class Broken(Pending):
        """Cannot say what it wants, or bear to hear what comes of it."""

        def prepare(self) -> Call | None:
            if self.call is None:
                raise ZeroDivisionError
            return self.call

        def tell(self, result: Any) -> None:
            raise ZeroDivisionError

    writer = Writer(line, 60, peer)  # type: ignore[arg-type]
    writer.add(Broken(said))
    peer.replies.put_nowait({})
    with pytest.raises(ZeroDivisionError):
        await writer.run()
    await asyncio.gather(*line.due, return_exceptions=True)


async def test_a_call_that_breaks_every_connection_keeps_no_other_from_being_written(
    writer: Writer, peer: Peer
) -> None:
    """Such as one that is larger than the server takes."""
    poison = writer.submit(call("poison"))
    others = [writer.submit(call(name)) for name in "abc"]

    async def answer() -> None:
        while True:
            names = await peer.pipelines.get()
            peer.replies.put_nowait(RedisConnectionError("too big") if "poison" in names else {})

    answering = asyncio.create_task(answer())
    async with asyncio.timeout(5):
        assert await asyncio.gather(*others) == [b"a", b"b", b"c"]
    assert not poison.done()
    answering.cancel()


async def test_what_was_suspected_once_goes_with_the_others_when_it_has_more_to_say(
    writer: Writer, peer: Peer
) -> None:
    again = Asked(call("again"), writer.loop, remembered=True, repeated=True)
    writer.add(again)
    for reply in (RedisConnectionError("gone"), RedisConnectionError("gone"), {}):
        assert await peer.pipelines.get() == ["again"]
        peer.replies.put_nowait(reply)
    await again.future
    futures = [writer.submit(call("a"))]
    writer.add(again)
    futures.append(writer.submit(call("b")))
    assert await peer.pipelines.get() == ["a", "again", "b"]
    peer.replies.put_nowait({})
    await asyncio.gather(*futures)


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


async def test_what_a_server_does_not_know_the_scripts_of_is_said_again_before_anything_else(
    writer: Writer, peer: Peer
) -> None:
    """Also where several pipelines come back so: one call may undo what the one before it does."""
    futures = []
    for names in ("ab", "cd"):
        futures += [writer.submit(call(name)) for name in names]
        assert await peer.pipelines.get() == list(names)
    unknown = NoScriptError("No matching script")
    for names in ("ab", "cd"):
        peer.replies.put_nowait(dict.fromkeys(names, unknown))
    await until_idle(peer)
    futures.append(writer.submit(call("e")))
    said = []
    while len(said) < 5:
        said += await peer.pipelines.get()
        peer.replies.put_nowait({})
    assert said == list("abcde")
    await asyncio.gather(*futures)


async def test_where_a_script_may_not_be_loaded_its_calls_rest_before_they_are_said_again(
    writer: Writer, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_REFUSED_PAUSE", 0.0)
    only = writer.submit(call("a"))
    peer.refusal = NoPermissionError("this user may not SCRIPT")
    peer.replies.put_nowait({"a": NoScriptError("No matching script")})
    for _ in range(2):
        assert await peer.pipelines.get() == ["a"]
    peer.replies.put_nowait({})
    assert await only == b"a"


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
    futures = [writer.submit(SCRIPT.on([name], b"x" * (MAX_BYTES // 2 - 200))) for name in "abcde"]
    futures.append(writer.submit(SCRIPT.on(["huge"], b"x" * (3 * MAX_BYTES))))
    pipelines = []
    for _ in range(4):
        peer.replies.put_nowait({})
        pipelines.append(await peer.pipelines.get())
    assert pipelines == [["a", "b"], ["c", "d"], ["e"], ["huge"]]
    await asyncio.gather(*futures)
