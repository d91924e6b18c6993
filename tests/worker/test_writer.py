"""Group commit: what became ready meanwhile goes out together, in order, and again when the reply was lost."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import hiredis
import pytest
from redis.exceptions import BusyLoadingError, NoScriptError, OutOfMemoryError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Call, Script
from producer.connection.line import Listener
from worker import writer as writer_module
from worker.pending import Pending
from worker.recent_calls import REMEMBERED_BYTES, REMEMBERED_SECONDS, RecentCalls
from worker.writer import MAX_BYTES, MAX_CALLS, Writer

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
        self.refusal = None
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
        names = [_command(call)[3].decode() for call in calls]
        self.pipelines.put_nowait(names)
        return await self._replies(names)

    async def _replies(self, names: list[str]) -> list[Any]:
        async with self._turn:
            reply = await self.replies.get()
        if isinstance(reply, Exception):
            raise reply
        return [reply.get(name, name.encode()) for name in names]


def _command(packed: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(packed)
    command: list[bytes] = reader.gets()
    return command


@pytest.fixture
async def peer(line: FakeLine) -> Peer:
    return Peer(line)


@pytest.fixture
def line() -> FakeLine:
    return FakeLine()


@pytest.fixture
async def writer(peer: Peer, line: FakeLine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Writer]:
    monkeypatch.setattr(writer_module, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(writer_module, "_LONGEST_PAUSE", 0.0)
    async with running(Writer(line, 60), peer) as writer:  # type: ignore[arg-type]
        yield writer


@contextlib.asynccontextmanager
async def running(writer: Writer, peer: Peer) -> AsyncIterator[Writer]:
    writer._scripts = peer  # type: ignore[assignment]
    run = asyncio.create_task(writer.run())
    yield writer
    assert not run.done(), "the writer broke"
    run.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await run


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


class Withdrawn(Pending):
    """Has nothing to say any more when its turn comes."""


async def test_what_has_nothing_to_say_any_more_disturbs_nobody(writer: Writer, peer: Peer) -> None:
    await written(writer, peer, "first")
    writer.add(Withdrawn())
    await asyncio.sleep(0)
    await written(writer, peer, "a")
    writer.add(Withdrawn())
    await written(writer, peer, "b")


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
    async with running(Writer(line, 0.05), peer) as writer:  # type: ignore[arg-type]
        only = writer.submit(call("a"))
        assert await peer.pipelines.get() == ["a"]
        line.waits_since = asyncio.get_running_loop().time()
        assert await peer.pipelines.get() == ["a"]
        peer.replies.put_nowait({})
        assert await only == b"a"


class Broken(Pending):
    """Cannot say what it wants, or bear to hear what comes of it: a bug."""

    def __init__(self, call: Call | None) -> None:
        super().__init__(call)

    def prepare(self) -> Call | None:
        if self.call is None:
            raise ZeroDivisionError
        return self.call

    def tell(self, result: Any) -> None:
        raise ZeroDivisionError


@pytest.mark.parametrize("broken", [Broken(None), Broken(call("a"))])
async def test_a_bug_ends_the_writer_and_is_not_hidden(line: FakeLine, peer: Peer, broken: Pending) -> None:
    writer = Writer(line, 60)  # type: ignore[arg-type]
    writer._scripts = peer  # type: ignore[assignment]
    writer.add(broken)
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


class Again(Pending):
    """Has more to say whenever it was answered, as an attempt has."""

    def __init__(self) -> None:
        super().__init__(call("again"))
        self.answered = asyncio.Event()

    def tell(self, result: Any) -> None:
        self.answered.set()


async def test_what_was_suspected_once_goes_with_the_others_when_it_has_more_to_say(
    writer: Writer, peer: Peer
) -> None:
    again = Again()
    writer.add(again)
    for reply in (RedisConnectionError("gone"), RedisConnectionError("gone"), {}):
        assert await peer.pipelines.get() == ["again"]
        peer.replies.put_nowait(reply)
    await again.answered.wait()
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
    futures = [writer.submit(SCRIPT.on([name], b"x" * (MAX_BYTES // 2 - 200))) for name in "abcde"]
    futures.append(writer.submit(SCRIPT.on(["huge"], b"x" * (3 * MAX_BYTES))))
    pipelines = []
    for _ in range(4):
        peer.replies.put_nowait({})
        pipelines.append(await peer.pipelines.get())
    assert pipelines == [["a", "b"], ["c", "d"], ["e"], ["huge"]]
    await asyncio.gather(*futures)


# -- a server that came back without its last second ----------------------------------------------------------


async def written(writer: Writer, peer: Peer, *names: str, remember: bool = True) -> None:
    futures = [writer.submit(call(name), remember=remember) for name in names]
    peer.replies.put_nowait({})
    assert await peer.pipelines.get() == list(names)
    await asyncio.gather(*futures)


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
    return [_command(call)[3].decode() for call in recent.calls()]


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
