"""On an idle system: how much later than in a direct call of the provider does an answer arrive?

    make bench            or            python -m benchmarks.idle_latency --calls 500

An upstream HTTP server, a Redis-compatible server and one worker run as processes of their own. A direct call and
a job take turns, so that both meet the machine in the same state; this process runs on uvloop, as the worker does.
What a no-op job takes next to other queues is in `benchmarks.round_trip`.
"""

import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable

import aiohttp

from benchmarks.command import parse, parser
from benchmarks.figures import quantile
from benchmarks.peers.side import run
from benchmarks.processes import chat_worker, one_provider, upstream
from benchmarks.report import Bound, Report
from benchmarks.servers import Server, started
from producer import Chunk, Done, Event, Producer, Started
from worker.providers.base import Part
from worker.providers.http import open_session
from worker.providers.openai_compatible import OpenAICompatible

MESSAGES = [{"role": "user", "content": "hello"}]
WARM_UP = 50
CALLS, FEWER = 1000, 100
CONCURRENCY = 64
BOUND = Bound("<=", 0.8, 0.4)  # ms

DIRECT, RELAYED = "direct call", "chatrelay"
ENQUEUED, STARTED, FIRST, END = "enqueue returns", "started seen", "first chunk", "end seen"
PERCENTS = (50, 90, 99)

Moments = dict[str, float]
"""What of one answer was seen when, in seconds since it was asked for."""


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--calls", type=int, help=f"how often each way is measured; default {CALLS}")
    given = parse(options)
    calls = given.calls or (FEWER if given.quick else CALLS)
    report = Report("idle_latency", "An answer of five chunks on an idle system, one at a time")
    for name in given.server:
        with started(name) as server:
            report.servers = [*report.servers, server.described]
            tell(report, server.name, [run(measure(server, calls)) for _ in range(given.repeats)])
    report.finish(given.out)


async def measure(server: Server, calls: int) -> dict[str, list[Moments]]:
    """Return what was seen when, of so many calls, by the way that they went."""
    taken: dict[str, list[Moments]] = defaultdict(list)
    with upstream() as (_, base_url), chat_worker(server.url, one_provider(base_url), CONCURRENCY):
        async with Producer(server.url) as producer, open_session() as http:
            for _ in range(WARM_UP + calls):
                taken[DIRECT].append(await direct_call(base_url, http))
                taken[RELAYED].append(await through_chatrelay(producer))
    return {way: moments[WARM_UP:] for way, moments in taken.items()}


async def direct_call(base_url: str, http: aiohttp.ClientSession) -> Moments:
    seen = watch()
    answer: AsyncIterator[Part] = OpenAICompatible.create_async_generator(
        "m", MESSAGES, base_url=base_url, api_key="k", http=http
    )
    moments: Moments = {}
    async for part in answer:
        if isinstance(part, str):
            moments.setdefault(FIRST, seen())
    return {**moments, END: seen()}


async def through_chatrelay(producer: Producer) -> Moments:
    seen = watch()
    job = await producer.enqueue(MESSAGES, provider="upstream")
    moments = {ENQUEUED: seen()}
    async for event in producer.subscribe(job.id):
        if name := shown_as(event):
            moments.setdefault(name, seen())
    return moments


def shown_as(event: Event) -> str | None:
    match event:
        case Started():
            return STARTED
        case Chunk():
            return FIRST
        case Done():
            return END
    return None


def watch() -> Callable[[], float]:
    """Return a function that says how many seconds ago this was called."""
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


def tell(report: Report, server: str, repeats: list[dict[str, list[Moments]]]) -> None:
    """Add the figures of one server to the report."""
    for way, names in ((DIRECT, (FIRST, END)), (RELAYED, (ENQUEUED, STARTED, FIRST, END))):
        for name in names:
            for percent in PERCENTS:
                values = [quantile([one[name] for one in taken[way]], percent) for taken in repeats]
                report.add(server, way, f"{name}, p{percent}", "ms", [1000 * value for value in values])
    for name in (FIRST, END):
        for percent in PERCENTS:
            bound = BOUND if (name, percent) == (FIRST, 50) else None
            report.difference(server, f"{name}, p{percent}", RELAYED, DIRECT, bound)


if __name__ == "__main__":
    main()
