"""What the way from a service's bytes to the parts of an answer costs in CPU, beside a bare read by aiohttp.

python -m benchmarks.provider_path --rounds 9
python -m benchmarks.provider_path --held 2000 --side poured

Sides, in turns in the same run: `bytes` reads and drops what aiohttp hands over; `parts` iterates over the provider's
parts; `poured` has them handed over as they arrive. Answers: `none` is the end mark alone, so a call; `fast` comes in
four writes, `paced` one event at a time; `small` events hold a text alone, `full` ones what OpenAI sends beside it.
Figures are CPU time of this process alone, the service being another: the least of all rounds, the median in brackets.
"""

import argparse
import asyncio
import gc
import json
import statistics
import sys
import time
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from benchmarks.figures import memory
from worker.providers.base import Part
from worker.providers.http import open_session
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.part_stream import PartStream

CHUNKS = 200  # in an answer
FAST_WRITES = 4  # in which a fast answer comes
PACE = 0.02  # seconds between the events of a paced answer: a read then holds one event
STREAMS = 50  # at the same time
CALLS = {"none": 60, "fast": 12, "paced": 1}  # one after another, in each stream
MESSAGES = [{"role": "user", "content": "Say something."}]

PATHS = ("fast-small", "fast-full", "paced-small", "paced-full")

Side = Callable[[aiohttp.ClientSession, str], Awaitable[int]]


# -- the service -----------------------------------------------------------------------------------------------


def http_chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(payload: object) -> bytes:
    return http_chunk(f"data: {json.dumps(payload, separators=(',', ':'))}\n\n".encode())


def small(text: str) -> object:
    return {"choices": [{"index": 0, "delta": {"content": text}}]}


def full(text: str) -> object:
    """What OpenAI itself sends."""
    choice = {"index": 0, "delta": {"content": text}, "logprobs": None, "finish_reason": None}
    return {
        "id": "chatcmpl-BqT0123456789abcdefghijklmno",
        "object": "chat.completion.chunk",
        "created": 1763629932,
        "model": "gpt-4o-mini-2024-07-18",
        "service_tier": "default",
        "system_fingerprint": "fp_0123456789",
        "choices": [choice],
        "usage": None,
        "obfuscation": "Zk3xN",
    }


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
END = http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


def answers() -> dict[str, tuple[float, list[bytes]]]:
    """What is answered under each path: seconds between the writes, and the writes."""
    answers: dict[str, tuple[float, list[bytes]]] = {"/none": (0.0, [HEAD + END])}
    for name, shape in (("small", small), ("full", full)):
        events = [event(shape(f"{i:06} abcdefghijklm")) for i in range(CHUNKS)]
        step = CHUNKS // FAST_WRITES
        writes = [b"".join(events[i : i + step]) for i in range(0, CHUNKS, step)]
        answers[f"/fast-{name}"] = (0.0, [HEAD, *writes, END])
        answers[f"/paced-{name}"] = (PACE, [HEAD, *events, END])
    answers["/held"] = (3600.0, [HEAD + event(small("abc")), END])
    return answers


class Service(asyncio.Protocol):
    answers = answers()

    def __init__(self) -> None:
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self._request += data
        head, found, body = self._request.partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length")
        )
        if len(body) >= length:
            path = head.split(b" ", 2)[1].decode().removesuffix("/chat/completions")
            self._request = b""
            self._write(*self.answers[path])

    def _write(self, pace: float, writes: list[bytes]) -> None:
        self._transport.write(writes[0])
        if pace and writes[1:]:
            asyncio.get_running_loop().call_later(pace, self._write, pace, writes[1:])
        elif writes[1:]:
            asyncio.get_running_loop().call_soon(self._write, pace, writes[1:])


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(Service, "127.0.0.1", 0, backlog=10_000)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await asyncio.get_running_loop().connect_read_pipe(Parent, sys.stdin)
    await server.serve_forever()


class Parent(asyncio.Protocol):
    """Its end is ours."""

    def connection_lost(self, exc: Exception | None) -> None:
        sys.exit()


@asynccontextmanager
async def service() -> AsyncIterator[str]:
    command = (sys.executable, "-m", "benchmarks.provider_path", "--serve")
    process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
    try:
        yield (await process.stdout.readline()).decode().strip()
    finally:
        process.terminate()
        await process.wait()


# -- the sides -------------------------------------------------------------------------------------------------

BODY = json.dumps({"model": "m", "messages": MESSAGES, "stream": True}).encode()
HEADERS = {"Content-Type": "application/json", "Accept": "text/event-stream", "User-Agent": "chatrelay"}


async def read_bytes(http: aiohttp.ClientSession, url: str) -> int:
    reads = 0
    async with http.post(f"{url}/chat/completions", data=BODY, headers=HEADERS) as response:
        async for _ in response.content.iter_any():
            reads += 1
    return reads


def ask(http: aiohttp.ClientSession, url: str) -> PartStream:
    return OpenAICompatible.create_async_generator("m", MESSAGES, base_url=url, http=http)


async def read_parts(http: aiohttp.ClientSession, url: str) -> int:
    parts = 0
    async for _ in ask(http, url):
        parts += 1
    return parts


async def pour(http: aiohttp.ClientSession, url: str) -> int:
    count = 0

    def take(parts: list[Part]) -> bool:
        nonlocal count
        count += len(parts)
        return True

    await ask(http, url).pour(take)
    return count


SIDES: dict[str, Side] = {"bytes": read_bytes, "parts": read_parts, "poured": pour}


# -- the figures -----------------------------------------------------------------------------------------------


async def cpu_of(side: Side, http: aiohttp.ClientSession, url: str, calls: int) -> tuple[float, float]:
    """Return CPU seconds per call, and what a call counted."""
    gc.collect()
    counts: list[int] = []

    async def ask_in_turn() -> None:
        counts.extend([await side(http, url) for _ in range(calls)])

    since = time.process_time()
    await asyncio.gather(*(ask_in_turn() for _ in range(STREAMS)))
    return (time.process_time() - since) / len(counts), sum(counts) / len(counts)


async def measure(base: str, rounds: int, only: str) -> None:
    sides = list(SIDES)
    print(f"{'answer':12} {'side':6} {'us/call':>18} {'us/chunk':>9} {'over bytes':>11}")
    async with open_session() as http:
        calls = await rounds_of(http, f"{base}/none", sides, rounds)
        for name, cpu in calls.items():
            print(f"{'none':12} {name:6} {shown(cpu):>18} {'':9} {min(cpu) / min(calls['bytes']):>10.2f}x")
        for path in (path for path in PATHS if only in path):
            cpus = await rounds_of(http, f"{base}/{path}", sides, rounds)
            per_chunk = {name: (min(cpu) - min(calls[name])) / CHUNKS for name, cpu in cpus.items()}
            for name, cpu in cpus.items():
                over = per_chunk[name] - per_chunk["bytes"]
                print(
                    f"{path:12} {name:6} {shown(cpu):>18} {per_chunk[name]:9.2f} {over:>+8.2f} us", flush=True
                )


def shown(cpu: list[float]) -> str:
    return f"{min(cpu):.1f} ({statistics.median(cpu):.1f})"


async def rounds_of(
    http: aiohttp.ClientSession, url: str, sides: list[str], rounds: int
) -> dict[str, list[float]]:
    """Return the CPU of a call in us, of each side and round."""
    calls = next(calls for kind, calls in CALLS.items() if f"/{kind}" in url)
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name in sides:
            cpu, _ = await cpu_of(SIDES[name], http, url, calls)
            taken[name].append(cpu * 1e6)
    return taken


async def held(base: str, side: str, streams: int) -> None:
    """Show what an open stream holds."""
    async with open_session() as http:
        await SIDES[side](http, f"{base}/none")
        gc.collect()
        before, tasks = memory(), []
        for _ in range(streams):
            tasks.append(asyncio.create_task(SIDES[side](http, f"{base}/held")))
            if len(tasks) % 100 == 0:
                await asyncio.sleep(0.05)
        await asyncio.sleep(2)
        gc.collect()
        print(f"{side}: {(memory() - before) * 1024 / streams:.1f} KiB per open stream of {streams}")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def main(given: argparse.Namespace) -> None:
    if given.serve:
        await serve()
        return
    async with service() as base:
        if given.held:
            await held(base, given.side, given.held)
        else:
            await measure(base, given.rounds, given.only)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--held", type=int, default=0, help="streams to hold open, for their memory")
    parser.add_argument("--only", default="", help="answers whose name holds this")
    parser.add_argument("--side", choices=SIDES, default="parts")
    parser.add_argument("--uvloop", action="store_true")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.uvloop and not options.serve:
        import uvloop

        uvloop.run(main(options))
    else:
        asyncio.run(main(options))
