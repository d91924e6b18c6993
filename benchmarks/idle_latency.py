"""On an idle system: how much later does the first chunk arrive than in a direct call of the provider?

    make bench            or            python -m benchmarks.idle_latency --calls 500

An upstream HTTP server, a Redis-compatible server and one worker run as processes of their own. A direct call and
a job take turns, so that both meet the machine in the same state.
"""

import argparse
import asyncio
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from importlib.metadata import version
from pathlib import Path

import aiohttp

from producer import Chunk, Producer
from producer.connection import embedded
from worker.providers.http import open_session
from worker.providers.openai_compatible import OpenAICompatible

MESSAGES = [{"role": "user", "content": "hello"}]
WARM_UP = 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=300, help="how often each way is measured")
    calls = parser.parse_args().calls
    server = embedded.start()
    try:
        direct, relayed = asyncio.run(measure(server.url, calls))
    finally:
        server.stop()
    report(direct, relayed, server.kind)


async def measure(redis_url: str, calls: int) -> tuple[list[float], list[float]]:
    with upstream_process() as base_url, worker_process(redis_url, base_url):
        async with Producer(redis_url) as producer, open_session() as http:
            direct, relayed = list[float](), list[float]()
            for _ in range(WARM_UP + calls):
                direct.append(await direct_call(base_url, http))
                relayed.append(await through_chatrelay(producer))
    return direct[WARM_UP:], relayed[WARM_UP:]


async def direct_call(base_url: str, http: aiohttp.ClientSession) -> float:
    """Return the seconds from the call to the first chunk."""
    began = time.perf_counter()
    answer = OpenAICompatible.create_async_generator("m", MESSAGES, base_url=base_url, api_key="k", http=http)
    return await first(answer, began)


async def through_chatrelay(producer: Producer) -> float:
    """Return the seconds from `enqueue` to the first chunk at the subscriber."""
    began = time.perf_counter()
    job = await producer.enqueue(MESSAGES, provider="upstream")
    chunks = (event async for event in producer.subscribe(job.id) if isinstance(event, Chunk))
    return await first(chunks, began)


async def first(chunks: AsyncIterator[object], began: float) -> float:
    await anext(chunks)
    taken = time.perf_counter() - began
    async for _ in chunks:
        pass  # to the end, so that the connection goes back to its pool
    return taken


# -- the processes around it -----------------------------------------------------------------------------------


@contextlib.contextmanager
def upstream_process() -> Iterator[str]:
    command = [sys.executable, "-m", "benchmarks.upstream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextlib.contextmanager
def worker_process(redis_url: str, base_url: str) -> Iterator[None]:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "providers.toml"
        config.write_text(f'[providers.upstream]\nkind = "openai"\nbase_url = "{base_url}"\nmodels = ["m"]\n')
        # Its warnings go to the terminal. That it is ready shows when the first call of the warm-up is answered.
        command = [sys.executable, "-m", "worker", "run", "--redis", redis_url, "--config", str(config)]
        with subprocess.Popen([*command, "--log-level", "warning"]) as process:
            try:
                yield
            finally:
                process.terminate()


def report(direct: list[float], relayed: list[float], server: str) -> None:
    print(f"Time to first chunk on an idle system, {len(direct)} calls each, in ms")
    print(f"{'':24}{'p50':>9}{'p90':>9}{'p99':>9}")
    for name, seconds in (("direct call", direct), ("through chatrelay", relayed)):
        print(f"{name:24}" + "".join(f"{1000 * quantile(seconds, q):9.2f}" for q in (50, 90, 99)))
    added = [ours - theirs for ours, theirs in zip(relayed, direct, strict=True)]
    print(f"{'added':24}" + "".join(f"{1000 * quantile(added, q):9.2f}" for q in (50, 90, 99)))
    packages = ", ".join(f"{name} {version(name)}" for name in ("redis", "aiohttp", "msgpack"))
    print(f"{server}; Python {platform.python_version()}; {packages}; {os.cpu_count()} CPUs")


def quantile(values: list[float], percent: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


if __name__ == "__main__":
    main()
