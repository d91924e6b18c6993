"""A line: one connection for many callers, whose replies are counted off in order, or are lost for all."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer.connection import Line, Url
from producer.connection.packing import pack
from tests.conftest import on_real_servers
from tests.support.facts import PATIENCE
from tests.support.peer import command_from, peer
from tests.support.servers import Server


@contextlib.asynccontextmanager
async def line_to(url: Url) -> AsyncIterator[Line]:
    with contextlib.closing(Line(url, 5)) as line:
        yield line


@pytest.fixture
async def line(server: Server) -> AsyncIterator[Line]:
    line = Line(Url(server.url), 5)
    await line.open()
    yield line
    line.close()


async def test_many_callers_each_get_their_own_replies(line: Line) -> None:
    async def ask(number: int) -> None:
        replies = await line.send([pack("ECHO", f"{number}.{part}") for part in range(number % 4)])
        assert replies == [f"{number}.{part}".encode() for part in range(number % 4)]

    await asyncio.gather(*(ask(number) for number in range(1, 200) if number % 4))


async def test_arguments_and_replies_of_any_size_and_content_pass_unchanged(line: Line) -> None:
    for sent in ("", "é😀\r\n$3", "x" * 3_000_000, b"\x00\xff\r\n"):
        assert await line.ask("ECHO", sent) == (sent.encode() if isinstance(sent, str) else sent)
    assert await line.ask("ECHO", 7) == b"7"


@on_real_servers  # fakeredis hangs up after an error
async def test_an_error_is_a_reply_among_others(line: Line) -> None:
    good, bad, unknown, last = await line.send(
        [pack("ECHO", "a"), pack("INCR"), pack("EVALSHA", "0" * 40, 0), pack("ECHO", "b")]
    )
    assert (good, last) == (b"a", b"b")
    assert isinstance(bad, ResponseError)
    assert isinstance(unknown, NoScriptError)
    with pytest.raises(ResponseError):
        await line.ask("INCR")
    assert line.is_open


async def test_a_caller_that_leaves_takes_nobody_elses_reply(line: Line) -> None:
    leaving = [asyncio.ensure_future(line.ask("ECHO", "left")) for _ in range(3)]
    staying = asyncio.ensure_future(line.ask("ECHO", "stayed"))
    await asyncio.sleep(0)  # all of them have begun to wait
    for task in leaving:
        task.cancel()
    assert await staying == b"stayed"
    assert await line.ask("ECHO", "later") == b"later"


async def test_what_is_sent_in_one_step_of_the_loop_is_written_together() -> None:
    reads: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            reads.append(data)
            writer.write(b"+OK\r\n" * data.count(b"PING"))

    async with peer(answer) as url, line_to(url) as line:
        await line.open()
        await asyncio.gather(*(line.ask("PING") for _ in range(100)))
    assert b"".join(reads) == pack("PING") * 100
    assert len(reads) <= 2  # the first goes at once


async def test_when_the_server_hangs_up_all_who_wait_are_told_and_a_new_connection_is_a_new_beginning() -> (
    None
):
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await command_from(reader)
        if first == [b"ECHO", b"answered"]:
            writer.write(b"$8\r\nanswered\r\n")
            await command_from(reader)  # and hangs up

    async with peer(answer) as url, line_to(url) as line:
        assert await line.open()
        assert not await line.open()
        assert await line.ask("ECHO", "answered") == b"answered"
        waiting = [asyncio.ensure_future(line.ask("PING")) for _ in range(3)]
        for task in waiting:
            with pytest.raises(RedisConnectionError):
                await task
        assert not line.is_open
        with pytest.raises(RedisConnectionError):
            await line.ask("PING")
        assert await line.open()
        assert await line.ask("ECHO", "answered") == b"answered"


async def test_closing_tells_all_who_wait_and_does_not_harm_the_next_connection() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while (command := await command_from(reader)) != [b"QUIET"]:
            writer.write(b"$%d\r\n%s\r\n" % (len(command[-1]), command[-1]))
        await reader.read()

    async with peer(answer) as url, line_to(url) as line:
        await line.open()
        waiting = asyncio.ensure_future(line.ask("QUIET"))
        await asyncio.sleep(0)  # it has begun to wait
        line.close()
        with pytest.raises(RedisConnectionError, match="closed here"):
            await waiting
        await line.open()  # the loop has yet to tell that the old connection is lost
        for number in range(3):
            assert await line.ask("ECHO", str(number)) == str(number).encode()


@pytest.mark.parametrize("garbage", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b":1\r\n:2\r\n"])
async def test_what_is_not_a_reply_to_anything_ends_the_connection(garbage: bytes) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await command_from(reader)
        writer.write(garbage)
        await reader.read()

    async with peer(answer) as url, line_to(url) as line:
        await line.open()
        asked = asyncio.ensure_future(line.ask("PING"))
        await asyncio.wait([asked])
        if not asked.exception():  # the first of two replies was its own
            with pytest.raises(RedisConnectionError):
                await line.ask("PING")
        assert not line.is_open


async def test_a_server_that_cannot_be_reached_is_an_error_and_not_a_connection() -> None:
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
    line = Line(Url(f"redis://127.0.0.1:{port}"), 5)
    with pytest.raises(RedisConnectionError):
        await line.open()
    assert not line.is_open


async def test_callers_who_open_it_together_make_one_connection(server: Server) -> None:
    line = Line(Url(server.url), 5)
    assert sorted(await asyncio.gather(*(line.open() for _ in range(20)))) == [False] * 19 + [True]
    line.close()


async def test_whoever_waits_for_a_connection_no_longer_leaves_it_to_the_next() -> None:
    """None of them waits as long as it takes, and all of them together do: a server that is back is reached."""
    met = 0

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal met
        met += 1
        while await command_from(reader):
            await asyncio.sleep(0.2)
            writer.write(b"+OK\r\n")

    async with peer(slow, shakes_hands=False) as url:
        line = Line(url, 10)
        async with asyncio.timeout(PATIENCE):
            while not line.is_open:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(line.open(), 0.05)
        assert met == 1
        line.close()


async def test_a_connection_that_is_closed_while_it_is_made_is_none() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(silent, shakes_hands=False) as url:
        line = Line(url, 0.05)
        with pytest.raises(RedisTimeoutError, match=r"no connection within 0\.05 s"):
            await line.open()
        line = Line(url, 10)
        opening = asyncio.ensure_future(line.open())
        await asyncio.sleep(0)
        line.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            await opening


async def test_silence_is_counted_while_a_reply_is_due_and_from_the_last_word() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await command_from(reader)
        writer.write(b"+PONG\r\n")
        await reader.read()

    async with peer(answer) as url, line_to(url) as line:
        assert line.silence == 0
        await line.open()
        await line.ask("PING")
        assert line.silence == 0
        unanswered = asyncio.ensure_future(line.ask("PING"))
        while line.silence < 0.02:  # noqa: ASYNC110 - it is the clock that is waited for
            await asyncio.sleep(0.005)
        unanswered.cancel()
        await asyncio.sleep(0)
        assert line.silence > 0  # the reply is due, whoever waits for it
        line.close()
        assert line.silence == 0


class Heard:
    """Takes replies down as they come."""

    def __init__(self) -> None:
        self.parts: asyncio.Queue[list[bytes] | RedisConnectionError] = asyncio.Queue()

    def heard(self, replies: Sequence[bytes]) -> None:
        self.parts.put_nowait(list(replies))

    def lost(self, error: RedisConnectionError) -> None:
        self.parts.put_nowait(error)


async def test_a_listener_hears_each_reply_when_it_comes_and_only_its_own() -> None:
    go_on = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(5):
            await command_from(reader)
        writer.write(b"$1\r\na\r\n")
        await go_on.wait()
        writer.write(b"$1\r\nb\r\n$1\r\nc\r\n$1\r\nd\r\n")
        await writer.drain()
        writer.close()

    async with peer(answer) as url, line_to(url) as line:
        await line.open()
        first, second = Heard(), Heard()
        line.say([pack("PING")] * 3, first)
        line.say([pack("PING")] * 2, second)
        assert await first.parts.get() == [b"a"]
        go_on.set()
        assert await first.parts.get() == [b"b", b"c"]
        assert await second.parts.get() == [b"d"]
        assert isinstance(await second.parts.get(), RedisConnectionError)
        assert first.parts.empty()
        line.say([pack("PING")], first)
        assert isinstance(first.parts.get_nowait(), RedisConnectionError)  # there is no connection


async def test_nothing_to_say_is_answered_with_nothing(line: Line) -> None:
    assert await line.send([]) == []
    assert await line.ask("ECHO", "x") == b"x"


async def test_what_publishes_is_said_behind_a_ping_whose_reply_is_nobodys() -> None:
    came: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        replies = [
            b"+PONG\r\n",
            b"$1\r\na\r\n",
            b"$1\r\nb\r\n",
            b"-NOPERM no PING for you\r\n",
            b"$1\r\nc\r\n",
        ]
        for reply in [*replies, b"+PONG\r\n"]:
            came.append((await command_from(reader))[-1])
            writer.write(reply)
        came.append((await command_from(reader))[-1])
        writer.close()

    async with peer(answer) as url, line_to(url) as line:
        await line.open()
        heard = Heard()
        line.say([pack("ECHO", "a"), pack("ECHO", "b")], heard, publishing=True)
        line.say([pack("ECHO", "c")], heard, publishing=True)  # the server refuses its ping
        replies: list[bytes] = []
        while len(replies) < 3:
            part = await heard.parts.get()
            assert isinstance(part, list)
            replies += part
        line.say([pack("ECHO", "d")], heard, publishing=True)  # only the ping is answered
        assert isinstance(await heard.parts.get(), RedisConnectionError)
    assert came == [b"PING", b"a", b"b", b"PING", b"c", b"PING", b"d"]
    assert replies == [b"a", b"b", b"c"]
    assert heard.parts.empty()
