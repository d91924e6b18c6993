"""A client's way to Redis, where the other end is silent, slow, or gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from producer import link as link_module
from producer.connection import Call, Script, SharedTimer, Url
from producer.errors import Unavailable
from producer.link import Link
from producer.seat import Seat
from producer.subscription import Subscription
from producer.wire.keys import Keys
from tests.support.peer import command_from, peer

PONG = b"+PONG\r\n"
CALL = Script("return 1", "its-sha").on(["key"])


@contextlib.asynccontextmanager
async def link_to(url: Url, timeout: float) -> AsyncIterator[Link]:
    link = Link(url, timeout)
    yield link
    await link.aclose()


async def ping(link: Link) -> list[object]:
    return await link.read(("PING",))


async def serve_calls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, count: int) -> None:
    """Load scripts, and answer so many of their calls; take no notice of what is asked then."""
    while count and (command := await command_from(reader)):
        is_call = command[0] == b"EVALSHA"
        writer.write(b":1\r\n" if is_call else b"+its-sha\r\n")
        count -= is_call
    await command_from(reader)


async def test_a_call_over_a_connection_that_fell_silent_is_given_up_and_the_next_one_has_another() -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await serve_calls(reader, writer, connections)
        await reader.read()  # for ever, without an answer

    async with peer(answer) as url, link_to(url, 0.2) as link:
        assert await link.run(CALL) == [1]
        with pytest.raises(Unavailable, match=r"no reply within 0\.2 s") as raised:
            await link.run(CALL)
        assert raised.value.passing
        assert await link.run(CALL) == [1]
        assert connections == 2


async def test_a_call_whose_reply_was_lost_is_said_again_in_the_time_that_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connections = 0
    said: list[bool] = []
    due: list[float] = []
    given_up_at: list[float | None] = []
    watch, timeout_at = SharedTimer.watch, asyncio.timeout_at

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await serve_calls(reader, writer, connections)  # and hang up over the one after that

    def calls(again: bool) -> list[Call]:
        said.append(again)
        return [CALL]

    def watched(timer: SharedTimer, future: "asyncio.Future[Any]") -> float:
        due.append(watch(timer, future))
        return due[-1]

    def timed(when: float | None) -> asyncio.Timeout:
        given_up_at.append(when)
        return timeout_at(when)

    async with peer(answer) as url, link_to(url, 30) as link:
        assert await link.run(CALL) == [1]
        monkeypatch.setattr(SharedTimer, "watch", watched)
        monkeypatch.setattr(asyncio, "timeout_at", timed)
        assert await link.run_telling(calls) == [1]
    assert (connections, said) == (2, [False, True])
    assert due
    assert given_up_at == due


async def test_a_connection_that_died_without_a_word_is_replaced_also_when_no_caller_waits_for_long() -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await reader.read()  # for ever, without an answer
        while await command_from(reader):
            writer.write(PONG)

    async with peer(answer) as url, link_to(url, 0.2) as link:
        while connections < 2:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.05):
                    assert await ping(link) == [b"PONG"]
        assert await ping(link) == [b"PONG"]
        assert connections == 2


async def test_one_slow_call_does_not_cost_the_others_their_connection() -> None:
    connections = 0

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        with contextlib.suppress(TimeoutError):
            while True:  # one reply every 20 ms, whatever is asked
                async with asyncio.timeout(5):
                    await command_from(reader)
                await asyncio.sleep(0.02)
                writer.write(PONG)

    async with peer(answer) as url, link_to(url, 0.2) as link:
        asked = await asyncio.gather(*(ping(link) for _ in range(20)), return_exceptions=True)
        assert any(isinstance(reply, Unavailable) for reply in asked)
        assert any(reply == [b"PONG"] for reply in asked)
        assert connections == 1


async def test_what_is_asked_while_the_client_is_closed_leaves_no_connection() -> None:
    met, may_go_on = asyncio.Event(), asyncio.Event()
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        met.set()
        await may_go_on.wait()
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await command_from(reader):
                writer.write(b"+OK\r\n")
        writer.close()
        ended.set()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        link = Link(Url(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"), 5)
        asked = asyncio.ensure_future(ping(link))
        await met.wait()
        await link.aclose()
        may_go_on.set()
        with pytest.raises(Unavailable, match="closed"):
            await asked
        async with asyncio.timeout(5):
            await ended.wait()


class EmptySeats:
    """In place of a listener: the channel is subscribed to at once, and nothing comes over it."""

    async def join(self, channel: str) -> Seat:
        return Seat()


async def test_many_readers_of_a_silent_server_all_give_up_when_their_patience_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not each a time limit later than the one before it, though one look at a time is taken."""
    monkeypatch.setattr(link_module, "_READS_AT_ONCE", 1)

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def read(link: Link, number: int) -> None:
        listener: Any = EmptySeats()
        reader = Subscription(f"j{number}", keys=Keys(), link=link, listener=listener, patience=0.1)
        with pytest.raises(Unavailable):
            await anext(reader)

    async with peer(silent) as url, link_to(url, 0.2) as link, asyncio.timeout(5):
        await asyncio.gather(*(read(link, number) for number in range(100)))
