"""An answer can be taken part by part, or all that is ready at once; it is the same answer, and closed all the same."""

import asyncio
import gc
import inspect
from collections.abc import AsyncGenerator

import aiohttp
import pytest

from worker.providers.base import Part
from worker.providers.errors import Broken
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.part_stream import PartStream, part_stream

from .protocols import ACYTOO, OPENAI, Protocol, collect, delta, sse
from .upstream import PATIENCE, Exchange, Upstream, answering, chunk


@part_stream
async def letters(reads: list[list[Part]], error: Exception | None = None) -> AsyncGenerator[list[Part]]:
    for parts in reads:
        yield parts
    if error is not None:
        raise error


class Taken:
    """Takes lists of parts, each the last one that it can take for a moment."""

    def __init__(self) -> None:
        self.parts: list[list[Part]] = []

    def __call__(self, parts: list[Part]) -> bool:
        self.parts.append(parts)
        return False


async def test_what_is_ready_is_handed_over_together_until_no_more_is_wanted() -> None:
    answer, taken = letters([["a", "b"], ["c"]]), Taken()
    assert [await answer.pour(taken) for _ in range(4)] == [False, False, True, True]
    assert taken.parts == [["a", "b"], ["c"]]


async def test_both_ways_can_be_mixed() -> None:
    answer, taken = letters([["a", "b", "c"], ["d", "e"], ["f"]]), Taken()
    assert await anext(answer) == "a"
    assert not await answer.pour(taken)
    assert await anext(answer) == "d"
    assert await answer.asend(None) == "e"
    assert not await answer.pour(taken)
    assert taken.parts == [["b", "c"], ["f"]]
    with pytest.raises(StopAsyncIteration):
        await anext(answer)


@pytest.mark.parametrize("all_at_once", [True, False])
async def test_a_failure_comes_after_the_parts_before_it(
    all_at_once: bool, http: aiohttp.ClientSession
) -> None:
    body = sse(delta("a"), delta("b")) + b"event: error\ndata: overloaded\n\n" + sse(delta("c"))
    async with Upstream(answering(*OPENAI.chunked([body]))) as upstream:
        answer, taken = OPENAI.ask(upstream.url, http=http), Taken()
        assert isinstance(answer, PartStream)
        if not all_at_once:
            taken([await anext(answer), await anext(answer)])
        with pytest.raises(Broken, match="overloaded"):
            await (answer.pour(taken) if all_at_once else anext(answer))
        assert taken.parts == [["a", "b"]]
        assert await answer.pour(taken)


async def test_what_nobody_took_is_gone_once_the_answer_is_closed() -> None:
    answer = letters([["a", "b"], ["c"]])
    assert await anext(answer) == "a"
    await answer.aclose()
    assert await answer.pour(Taken())
    assert await collect(answer) == []


async def test_an_error_thrown_in_ends_the_answer() -> None:
    answer = letters([["a", "b"], ["c"]])
    assert await anext(answer) == "a"
    with pytest.raises(ZeroDivisionError):
        await answer.athrow(ZeroDivisionError())
    assert await answer.pour(Taken())


@pytest.mark.parametrize(
    ("protocol", "first"),
    [(OPENAI, sse(delta("first"))), (ACYTOO, b"first")],
    ids=lambda value: value.provider.__name__ if isinstance(value, Protocol) else "",
)
async def test_an_answer_that_is_dropped_half_way_closes_its_call(
    protocol: Protocol, first: bytes, http: aiohttp.ClientSession
) -> None:
    gone = asyncio.Event()

    async def stall(exchange: Exchange) -> None:
        await exchange.send(protocol.head(transfer_encoding="chunked"), chunk(first))
        await exchange.peer_closed()
        gone.set()

    async with Upstream(stall) as upstream, asyncio.timeout(PATIENCE):
        answer = protocol.ask(upstream.url, http=http)
        assert await anext(answer) == "first"
        del answer
        gc.collect()
        await gone.wait()


def test_what_a_provider_takes_can_still_be_read_off_it() -> None:
    parameters = inspect.signature(OpenAICompatible.create_async_generator).parameters
    assert {"model", "messages", "base_url", "api_key", "http"} <= parameters.keys()
    assert "cls" not in parameters
