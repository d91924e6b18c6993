"""The upstream of the benchmarks, asked by the client that workers use."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
import pytest

from benchmarks.plan import TEXT_CHARS, Plan, stamped
from benchmarks.upstream import Connection, Service
from worker.providers.base import Finish
from worker.providers.http import open_session
from worker.providers.openai_compatible import OpenAICompatible


@dataclass
class Upstream:
    host: str
    http: aiohttp.ClientSession

    async def call(self, prompt: str) -> list[object]:
        messages = [{"role": "user", "content": prompt}]
        answer = OpenAICompatible.create_async_generator(
            "m", messages, base_url=f"http://{self.host}/v1", api_key="k", http=self.http
        )
        return [part async for part in answer]

    async def told(self, path: str) -> object:
        async with self.http.get(f"http://{self.host}/{path}") as response:
            return json.loads(await response.read())


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    service = Service()
    server = await asyncio.get_running_loop().create_server(lambda: Connection(service), "127.0.0.1", 0)
    async with open_session() as http:
        host, port = server.sockets[0].getsockname()
        yield Upstream(f"{host}:{port}", http)
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize("plan", [Plan(1), Plan(200), Plan(1200), Plan(1, 500.0), Plan(40, 500.0)])
async def test_an_answer_holds_what_its_plan_says_and_ends(upstream: Upstream, plan: Plan) -> None:
    *texts, finish = await upstream.call(plan.prompt())
    assert plan.is_exact([str(text) for text in texts])
    assert finish == Finish("stop")


async def test_an_everyday_prompt_is_answered_as_well(upstream: Upstream) -> None:
    assert len(await upstream.call("hello")) == Plan().chunks + 1


async def test_paced_answers_of_all_streams_are_exact(upstream: Upstream) -> None:
    plan = Plan(20, 200.0)
    answers = await asyncio.gather(*(upstream.call(plan.prompt()) for _ in range(30)))
    assert all(plan.is_exact([str(text) for text in texts]) for *texts, _ in answers)
    told = await upstream.told("figures")
    assert isinstance(told, dict)
    assert (told["calls"], told["chunks"], told["running"], told["cut"]) == (30, 600, 0, 0)


async def test_the_gate_holds_answers_until_it_is_opened(upstream: Upstream) -> None:
    plan = Plan(3, gated=True)
    calls = [asyncio.create_task(upstream.call(plan.prompt())) for _ in range(2)]
    while await upstream.told("held") != 2:
        pass
    assert not any(call.done() for call in calls)
    await upstream.told("open")
    assert [len(answer) for answer in await asyncio.gather(*calls)] == [4, 4]
    assert len(await upstream.call(plan.prompt())) == 4, "it stays open"


async def test_a_request_may_come_in_pieces_and_two_in_one(upstream: Upstream) -> None:
    body = json.dumps({"messages": [{"role": "user", "content": Plan(2).prompt()}]}).encode()
    request = b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    host, _, port = upstream.host.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for piece in (request[:10], request[10:-5], request[-5:] + request):
        writer.write(piece)
        await writer.drain()
    first = await reader.readuntil(b"\r\n0\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert await reader.readuntil(b"\r\n0\r\n\r\n") == first
    writer.close()
    await writer.wait_closed()


async def test_the_figures_begin_anew_when_they_were_told(upstream: Upstream) -> None:
    await upstream.call(Plan(7).prompt())
    before = await upstream.told("figures")
    after = await upstream.told("figures")
    assert isinstance(before, dict)
    assert isinstance(after, dict)
    assert (before["chunks"], after["chunks"]) == (7, 0)
    assert before["first_at"] > 0 == after["first_at"]


# -- plans -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [Plan(), Plan(3, 0.5), Plan(9, gated=True)])
def test_a_plan_travels_as_a_prompt(plan: Plan) -> None:
    assert Plan.read({"messages": [{"role": "user", "content": plan.prompt()}]}) == plan


def test_every_chunk_has_the_same_length() -> None:
    assert {len(Plan().fast_text(seq)) for seq in (0, 999, 123_456)} == {TEXT_CHARS}
    assert {len(stamped(now, seq)) for now in (1, 10**15) for seq in (0, 1999)} == {TEXT_CHARS}


@pytest.mark.parametrize("rate", [0.0, 50.0])
def test_an_answer_with_a_chunk_lost_doubled_or_swapped_is_not_exact(rate: float) -> None:
    plan = Plan(4, rate)
    whole = [stamped(seq, seq).decode() if rate else plan.fast_text(seq) for seq in range(4)]
    assert plan.is_exact(whole)
    for wrong in (whole[:3], [*whole, whole[3]], [whole[1], whole[0], *whole[2:]], [*whole[:3], whole[2]]):
        assert not plan.is_exact(wrong)
