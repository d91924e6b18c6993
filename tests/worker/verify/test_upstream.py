"""The upstream does what the plan says, and keeps a true record of it."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from worker.verify.upstream import CallRecord, Plan, Upstream


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    async with Upstream() as upstream:
        yield upstream


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


async def ask(upstream: Upstream, http: aiohttp.ClientSession, plan: Plan) -> tuple[int, str]:
    """Ask once, and return the status and the body, as far as it came."""
    body = {"model": "m", "messages": [{"role": "user", "content": plan.prompt()}], "stream": True}
    async with http.post(f"{upstream.url}/chat/completions", json=body) as response:
        received = b""
        try:
            async for data in response.content.iter_any():
                received += data
        except aiohttp.ClientPayloadError:
            pass  # cut
        return response.status, received.decode()


async def only_call(upstream: Upstream, job: str = "j") -> CallRecord:
    """The one call of the job, once it is over."""
    async with asyncio.timeout(5):
        while not upstream.calls(job) or upstream.open_calls():  # noqa: ASYNC110 - the server has no event for it
            await asyncio.sleep(0.005)
    (call,) = upstream.calls(job)
    return call


async def test_an_answer_is_sent_whole_and_recorded_as_such(
    upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    status, body = await ask(upstream, http, Plan("j", 5, 0))
    call = (await only_call(upstream)).fact()
    assert status == 200
    assert [piece in body for piece in ("j.1.0 ", "j.1.3é😀 ", "j.1.4 ", "[DONE]")] == [True] * 4
    assert (call.is_whole, call.is_closed, call.text) == (True, True, "j.1.0 j.1.1 j.1.2 j.1.3é😀 j.1.4 ")


async def test_no_two_calls_have_a_chunk_in_common(upstream: Upstream, http: aiohttp.ClientSession) -> None:
    await ask(upstream, http, Plan("j", 20, 0))
    await ask(upstream, http, Plan("j", 20, 0))
    await ask(upstream, http, Plan("k", 20, 0))
    chunks = [set(call.pieces) for job in ("j", "k") for call in upstream.calls(job)]
    assert [len(one) for one in chunks] == [20] * 3
    assert len(set.union(*chunks)) == 60


async def test_a_cut_answer_ends_half_way_without_its_end_mark(
    upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    _, body = await ask(upstream, http, Plan("j", 6, 0, ("cut",)))
    call = await only_call(upstream)
    assert "[DONE]" not in body
    assert "j.1.2 " in body
    assert (call.fact().is_whole, call.fact().text, call.failed_at is not None) == (
        False,
        "j.1.0 j.1.1 j.1.2 ",
        True,
    )


@pytest.mark.parametrize("status", [429, 500])
async def test_a_refusal_is_for_the_call_that_the_plan_names(
    upstream: Upstream, http: aiohttp.ClientSession, status: int
) -> None:
    plan = Plan("j", 2, 0, ("", str(status)), always="500")
    assert [(await ask(upstream, http, plan))[0] for _ in range(3)] == [200, status, 500]


async def test_a_call_that_hangs_is_over_when_the_caller_hangs_up(
    upstream: Upstream, http: aiohttp.ClientSession
) -> None:
    asking = asyncio.create_task(ask(upstream, http, Plan("j", 2, 0, ("hang",))))
    async with asyncio.timeout(5):
        while not upstream.calls("j") or upstream.calls("j")[0].failed_at is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.005)
    assert upstream.open_calls() == ["call 1 of job j"]
    asking.cancel()
    call = await only_call(upstream)
    assert call.closed_by_caller
    assert not call.is_whole
