"""A response that is poured out: whole, at any pace, and without a trace of it left on its connection."""

import asyncio
import gc
import gzip
import ssl
import zlib
from collections import Counter
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.support.facts import until
from worker.providers.base import Finish, Part
from worker.providers.errors import Broken, Cut
from worker.providers.flow import AT_ONCE, _Spout
from worker.providers.part_stream import PartStream

from .protocols import ACYTOO, OPENAI, Protocol, delta, poured, sse, text_of
from .upstream import (
    LAST_CHUNK,
    PATIENCE,
    Exchange,
    Script,
    Upstream,
    answering,
    answering_and_closing,
    chunk,
    head,
    tls_without_certificates,
)


def ask(upstream: Upstream, http: aiohttp.ClientSession, protocol: Protocol = OPENAI) -> PartStream:
    answer = protocol.ask(upstream.url, http=http)
    assert isinstance(answer, PartStream)
    return answer


@pytest.fixture
async def https() -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(ssl=tls_without_certificates(ssl.PROTOCOL_TLS_CLIENT))
    async with aiohttp.ClientSession(connector=connector) as session:
        yield session


async def test_a_read_of_many_events_is_handed_over_at_once(http: aiohttp.ClientSession) -> None:
    body = sse(*map(delta, "abc"), delta(finish_reason="stop"), "[DONE]")
    async with Upstream(answering(*OPENAI.chunked([body]))) as upstream:
        lists: list[list[Part]] = []

        def take(parts: list[Part]) -> bool:
            lists.append(parts)
            return True

        assert await ask(upstream, http).pour(take)
        assert lists == [["a", "b", "c", Finish("stop")]]


async def test_a_piece_is_handed_over_in_the_step_in_which_it_arrives(http: aiohttp.ClientSession) -> None:
    """No task has to be woken for it, not even the one that waits for the answer."""
    texts = [f"{number} " for number in range(50)]
    places: list[str] = []

    def take(_: list[Part]) -> bool:
        places.append("a task" if asyncio.current_task() is not None else "the connection")
        return True

    async with Upstream(answering(*OPENAI.chunked([sse(delta(text)) for text in texts]))) as upstream:
        answer = ask(upstream, http)
        with pytest.raises(Cut):
            await answer.pour(take)
        assert set(places[1:]) == {"the connection"}  # the first may have come before anybody listened


@pytest.mark.parametrize("stops", [1, 5, 1000])
async def test_a_taker_that_is_full_again_and_again_gets_all(http: aiohttp.ClientSession, stops: int) -> None:
    texts = [f"{number} " for number in range(500)]
    pieces = [sse(*map(delta, texts[begin : begin + 7])) for begin in range(0, len(texts), 7)]
    async with Upstream(answering(*OPENAI.chunked([*pieces, sse("[DONE]")]))) as upstream:
        assert text_of(await poured(ask(upstream, http), stops=stops)) == "".join(texts)


async def test_while_the_taker_is_full_the_service_is_read_no_further(http: aiohttp.ClientSession) -> None:
    sent = 0
    piece = sse(delta("x" * 8000))

    async def flood(exchange: Exchange) -> None:
        nonlocal sent
        await exchange.send(OPENAI.head(transfer_encoding="chunked"))
        while sent < 2000:  # 16 MB: more than the sockets hold
            await exchange.send(chunk(piece))
            sent += 1
        await exchange.send(chunk(sse("[DONE]")), LAST_CHUNK)

    async with Upstream(flood) as upstream:
        answer = ask(upstream, http)
        taken: list[Part] = []

        def take(parts: list[Part]) -> bool:
            taken.extend(parts)
            return len(taken) > 1

        assert not await answer.pour(take)
        for _ in range(20_000):  # steps of the loop, twice as many as it takes to send all of it
            await asyncio.sleep(0)
        assert 0 < sent < 1900
        while not await answer.pour(take):
            pass
        assert text_of(taken) == "x" * 8000 * 2000


async def test_answers_that_share_one_connection_are_each_whole() -> None:
    """The next call may begin in the very step in which the last answer ends."""
    texts = [f"{number} " for number in range(20)]
    pieces = [*(sse(delta(text)) for text in texts), sse("[DONE]")]
    connector = aiohttp.TCPConnector(limit=1)
    async with Upstream(answering(*OPENAI.chunked(pieces))) as upstream:
        async with aiohttp.ClientSession(connector=connector) as http, asyncio.timeout(PATIENCE):
            answers = await asyncio.gather(*(poured(ask(upstream, http)) for _ in range(20)))
        assert [text_of(parts) for parts in answers] == ["".join(texts)] * 20
        assert upstream.connections == 1


async def test_a_call_that_is_cancelled_while_it_is_poured_is_closed(http: aiohttp.ClientSession) -> None:
    has_begun, is_gone = asyncio.Event(), asyncio.Event()

    async def stall(exchange: Exchange) -> None:
        await exchange.send(OPENAI.head(transfer_encoding="chunked"), chunk(sse(delta("a"))))
        await exchange.peer_closed()
        is_gone.set()

    def take(_: list[Part]) -> bool:
        has_begun.set()
        return True

    async with Upstream(stall) as upstream, asyncio.timeout(PATIENCE):
        reader = asyncio.create_task(ask(upstream, http).pour(take))
        await has_begun.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await is_gone.wait()


async def test_what_arrives_in_the_step_of_a_cancel_is_left_alone(http: aiohttp.ClientSession) -> None:
    has_begun, told = asyncio.Event(), 0

    async def stall(exchange: Exchange) -> None:
        await exchange.send(OPENAI.head(transfer_encoding="chunked"), chunk(sse(delta("a"))))
        await exchange.peer_closed()

    def take(_: list[Part]) -> bool:
        nonlocal told
        told += 1
        has_begun.set()
        return True

    async with Upstream(stall) as upstream, asyncio.timeout(PATIENCE):
        answer = ask(upstream, http)
        reader = asyncio.create_task(answer.pour(take))
        await has_begun.wait()
        await asyncio.sleep(0)  # it waits for more
        (spout,) = [it for it in gc.get_objects() if isinstance(it, _Spout) and it._is_there]
        reader.cancel()
        spout.data_received(chunk(sse(delta("b"))))
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert told == 1


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_taker_may_cancel_the_call_over_what_it_takes(
    goes_on: bool, http: aiohttp.ClientSession, caplog: pytest.LogCaptureFixture
) -> None:
    go_on = asyncio.Event()

    async def stall(exchange: Exchange) -> None:
        await exchange.send(OPENAI.head(transfer_encoding="chunked"), chunk(sse(delta("a"))))
        await go_on.wait()
        await exchange.send(chunk(sse(delta("b"))))
        await exchange.peer_closed()

    def take(_: list[Part]) -> bool:
        if go_on.is_set():
            reader.cancel()
            return goes_on
        go_on.set()
        return True

    async with Upstream(stall) as upstream, asyncio.timeout(PATIENCE):
        reader = asyncio.create_task(ask(upstream, http).pour(take))
        with pytest.raises(asyncio.CancelledError):
            await reader
    assert not caplog.records


async def test_a_compressed_body_and_one_that_ends_with_its_connection_are_poured_whole(
    http: aiohttp.ClientSession,
) -> None:
    text = "".join(f"{number} " for number in range(100_000))
    packed = gzip.compress(text.encode())
    begin = head(content_type="text/plain", content_encoding="gzip", transfer_encoding="chunked")
    parts = [chunk(packed[at : at + 1000]) for at in range(0, len(packed), 1000)]
    async with Upstream(answering(begin, *parts, LAST_CHUNK)) as upstream:
        assert text_of(await poured(ask(upstream, http, ACYTOO), stops=3)) == text


def derailing(protocol: Protocol, piece: bytes) -> Script:
    """Send ``piece`` and with it what is no HTTP: aiohttp drops the connection in the step in which they arrive."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(protocol.head(transfer_encoding="chunked"), chunk(piece) + b"nonsense\r\n")
        await exchange.peer_closed()

    return script


async def test_what_comes_with_the_end_mark_takes_nothing_back(http: aiohttp.ClientSession) -> None:
    async with Upstream(derailing(OPENAI, OPENAI.encode(["a", "b"]))) as upstream:
        assert await poured(ask(upstream, http)) == ["a", "b", Finish("stop")]


async def test_a_taker_that_was_full_when_the_connection_went_hears_of_it(
    http: aiohttp.ClientSession,
) -> None:
    """It asks for more at once, in the very step in which the connection ends."""
    async with Upstream(derailing(ACYTOO, b"Once upon")) as upstream, asyncio.timeout(PATIENCE):
        with pytest.raises(Cut):
            await poured(ask(upstream, http, ACYTOO), stops=1)


@pytest.mark.parametrize("is_poured", [True, False])
async def test_a_body_that_holds_far_more_than_was_read_leaves_others_their_turns(
    is_poured: bool, http: aiohttp.ClientSession
) -> None:
    size = 20 * AT_ONCE
    packed = gzip.compress(b"x" * size)
    head_and_body = ACYTOO.head(content_encoding="gzip", content_length=str(len(packed))) + packed
    turns, taken_in = 0, Counter[int]()

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    def take(parts: list[Part]) -> bool:
        taken_in[turns] += len(text_of(parts))
        return True

    async with Upstream(answering(head_and_body)) as upstream, asyncio.timeout(PATIENCE):
        running = asyncio.create_task(others())
        answer = ask(upstream, http, ACYTOO)
        if is_poured:
            assert await answer.pour(take)
        else:
            async for part in answer:
                take([part])
        running.cancel()
    assert taken_in.total() == size
    assert max(taken_in.values()) < 2 * AT_ONCE


async def test_what_came_in_one_read_with_what_spoils_the_body_is_handed_over(
    http: aiohttp.ClientSession,
) -> None:
    packer = zlib.compressobj()
    packed = packer.compress(OPENAI.encode(["a", "b"])) + packer.flush(zlib.Z_SYNC_FLUSH)
    begin = OPENAI.head(transfer_encoding="chunked", content_encoding="deflate")
    async with Upstream(answering(begin, chunk(packed) + chunk(b"\xff" * 10))) as upstream:
        assert await poured(ask(upstream, http)) == ["a", "b", Finish("stop")]


async def test_what_came_before_the_body_broke_off_is_kept_for_a_taker_that_was_full(
    http: aiohttp.ClientSession,
) -> None:
    is_full = asyncio.Event()
    taken: list[Part] = []

    async def break_off(exchange: Exchange) -> None:
        await exchange.send(OPENAI.head(transfer_encoding="chunked"), chunk(sse(delta("a"))))
        await is_full.wait()
        await exchange.send(chunk(sse(delta("b"), "[DONE]")))
        exchange.hang_up()

    def take(parts: list[Part]) -> bool:
        taken.extend(parts)
        is_full.set()
        return False

    async with Upstream(break_off) as upstream, asyncio.timeout(PATIENCE):
        answer = ask(upstream, http)
        assert not await answer.pour(take)
        assert answer._flow is not None
        await until(answer._flow._content.exception)
        while not await answer.pour(take):
            pass
    assert taken == ["a", "b"]


async def test_a_failure_behind_a_part_that_was_read_is_raised_where_the_rest_is_poured(
    http: aiohttp.ClientSession,
) -> None:
    """Both came in one read: the part was taken by itself, and the failure is what is left of it."""
    taken: list[Part] = []

    def take(parts: list[Part]) -> bool:
        taken.extend(parts)
        return True

    async with Upstream(answering(*OPENAI.chunked([sse(delta("a"), "no json")]))) as upstream:
        answer = ask(upstream, http)
        assert await anext(answer) == "a"
        with pytest.raises(Broken):
            await answer.pour(take)
    assert taken == []


async def test_a_body_that_ends_with_its_tls_connection_is_poured_whole(https: aiohttp.ClientSession) -> None:
    """aiohttp closes such a connection twice, and then asyncio's TLS transport has forgotten all about itself."""
    script = answering_and_closing(ACYTOO.head(connection="close"), b"Once upon", b" a time")
    async with Upstream(script, tls=True) as upstream, asyncio.timeout(PATIENCE):
        assert text_of(await poured(ask(upstream, https, ACYTOO))) == "Once upon a time"
