"""A client's way to Redis, where the other end is silent, slow, or gone."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer import Producer
from producer import link as link_module
from producer.connection import Call, Script, SharedTimer, Url
from producer.errors import Unavailable
from producer.link import Link
from producer.listener import Listener
from producer.seat import Seat
from producer.status import queues_of
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
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
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


async def test_a_scan_of_all_keys_begins_again_where_a_page_had_to_be_asked_for_again() -> None:
    """It may be another server, or another life of it: a cursor of the one means something else to the other."""
    asked: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while command := await command_from(reader):
                if command[0] != b"SCAN":
                    writer.write(b"+OK\r\n")
                    continue
                asked.append(command[1])
                if len(asked) == 2:
                    break  # without an answer
                cursor, key = (b"7", b"chat:{one}:jobs") if command[1] == b"0" else (b"0", b"chat:{two}:jobs")
                writer.write(b"*2\r\n$1\r\n%b\r\n*1\r\n$15\r\n%b\r\n" % (cursor, key))
        writer.close()

    async with peer(answer) as url, link_to(url, 5) as link:
        assert await queues_of(link, Keys().jobs) == {"one", "two"}
    assert asked == [b"0", b"7", b"0", b"7"]


@pytest.mark.parametrize("refusal", ["BUSY Redis is busy running a script.", "MASTERDOWN Link is down"])
async def test_what_a_server_says_that_is_busy_is_borne_like_an_outage(refusal: str) -> None:
    left = 2

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal left
        with contextlib.suppress(asyncio.IncompleteReadError):
            while command := await command_from(reader):
                is_ping = command[0] == b"PING"
                writer.write(f"-{refusal}\r\n".encode() if is_ping and left else b"+PONG\r\n")
                left -= is_ping and left > 0
        writer.close()

    async with peer(answer) as url, link_to(url, 5) as link:
        assert await ping(link) == [b"PONG"]
        left = 1
        assert await link.ask(lambda redis: redis.ping())
    assert left == 0


def test_a_producer_in_another_loop_than_its_own_says_so() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def use(producer: Producer) -> None:
        with pytest.raises(Unavailable):
            await producer.status("j")
        with pytest.raises(Unavailable):
            await producer.subscribe("j").read()
        await producer.aclose()

    async def use_again(producer: Producer) -> None:
        producer._link.closed = producer._listener._closed = False
        with pytest.raises(RuntimeError, match="another event loop"):
            await producer.status("j")
        with pytest.raises(RuntimeError, match="another event loop"):
            await producer.enqueue("x", provider="p")
        with pytest.raises(RuntimeError, match="another event loop"):
            await producer._listener.join("j")

    async def main() -> Producer:
        async with peer(answer) as url:
            producer = Producer(url.secret, timeout=0.05, patience=0.05)
            await use(producer)
            return producer

    asyncio.run(use_again(asyncio.run(main())))


class SaysNoGoodbye:
    """In place of a client of redis-py: over TLS, a peer that froze keeps it waiting for the end of the connection."""

    async def aclose(self) -> None:
        raise RedisTimeoutError("Timed out closing connection after 1")


async def test_a_peer_that_does_not_let_go_keeps_no_producer_from_being_closed() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(answer) as url:
        producer = Producer(url.secret, timeout=0.05)
        with pytest.raises(Unavailable, match=r"no acknowledgement within 0\.05 s"):
            await producer._listener.join("j")
        client, producer._link._redis = producer._link._redis, SaysNoGoodbye()  # type: ignore[assignment]
        await producer.aclose()
        assert producer._listener._task is None
        await client.aclose()


async def test_whoever_cannot_subscribe_is_told_why_each_time() -> None:
    """Also where the server does not even shake hands: an error of that has no text."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with peer(silent, shakes_hands=False) as url:
        listener = Listener(url, 0.05)
        for _ in range(3):
            with pytest.raises(Unavailable, match=r"cannot be subscribed to: [a-z]"):
                await listener.join("j")
        await listener.aclose()


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
