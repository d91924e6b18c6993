"""Does a job cost more when many wait, or a chunk when many streams run? One worker process; flat is the goal.

    python -m benchmarks.growth           or, for a look,            python -m benchmarks.growth --quick

Waiting: the worker is full, its streams held at the upstream's gate, while so many jobs are enqueued; the gate is
opened, and the cost is taken until the last one is settled. Running: so many streams of one chunk every two seconds,
all begun before the window opens and none ended before it closes, beside a worker that reads the same and drops it.
Every log is read afterwards and must be exact.
"""

import argparse
import asyncio
import math
import sys
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence

from benchmarks import command
from benchmarks.plan import Plan
from benchmarks.processes import Stretch, raise_file_limit
from benchmarks.report import Bound, Report
from benchmarks.stand import CHATRELAY, NotExact, Side, Stand, open_stand, side

WAITING, RUNNING = (100, 1000, 10_000), (1000, 2000, 3000, 9000)
QUICK_WAITING, QUICK_RUNNING = (100,), (300,)
AT_LEAST = 2000  # jobs in each measurement, over several rounds where few wait
BUSY = 50  # concurrency of the worker behind which jobs wait
CONCURRENCY = 10_000  # the most that the settings allow
WAITED_FOR = Plan(20, gated=True)
RATE = 0.5  # chunks a second of each running stream
BEGINNING = 500  # jobs that are enqueued in a second
WINDOW = 10.0  # seconds in which all streams run
SLACK = 12.0  # seconds that streams run beyond the window, in all
LOGGED = 500  # chunks in the logs whose size is taken

Figures = dict[tuple[str, str], float]
Measure = Callable[[Stand, Side, int], Awaitable[Figures]]


async def main(given: argparse.Namespace) -> int:
    raise_file_limit()
    report = Report("growth", "Does a job or a chunk cost more when there are many?")
    failures: list[str] = []
    for name in given.server:
        async with open_stand(name) as stand:
            report.servers = [*report.servers, stand.server.described]
            for setting, ways, count, measure in settings(given):
                title = f"{name}: {setting}"
                try:
                    values = await repeat(stand, title, ways, (measure, count, given.repeats))
                except (NotExact, RuntimeError, TimeoutError) as error:
                    failures.append(f"{title}: {error}")
                    continue
                enter(report, title, count, values)
    report.notes += [*NOTES, *(f"NOT MEASURED: {failure}" for failure in failures)]
    report.finish(given.out)
    return 1 if failures else 0


NOTES = [
    f"Waiting jobs have answers of {WAITED_FOR.chunks} chunks, sent at once; {BUSY} run at the same time.",
    "Memory per stream: what the process holds more when all streams run, by their number.",
]


def settings(given: argparse.Namespace) -> list[tuple[str, Sequence[str], int, Measure]]:
    """Return what is measured: its name, the ways, how many jobs, and by which function."""
    waiting, running = (QUICK_WAITING, QUICK_RUNNING) if given.quick else (WAITING, RUNNING)
    found: list[tuple[str, Sequence[str], int, Measure]] = [
        *((f"{count:,} jobs wait", (CHATRELAY,), count, wait) for count in waiting),
        *((f"{count:,} streams run", ("drop", CHATRELAY), count, run) for count in running),
        ("logs of answers sent at once", (CHATRELAY,), 0, log_at_once),
        ("logs of smooth answers", (CHATRELAY,), 0, log_smoothly),
    ]
    return [setting for setting in found if given.only in setting[0]]


Values = dict[tuple[str, str, str], list[float]]


async def repeat(stand: Stand, title: str, ways: Sequence[str], what: tuple[Measure, int, int]) -> Values:
    """Give every way its turn, so many times, in a process of its own."""
    measure, count, repeats = what
    values: Values = defaultdict(list)
    for _ in range(repeats):
        for way in ways:
            async with side(stand, way, BUSY if measure is wait else CONCURRENCY) as running:
                figures = await measure(stand, running, count)
            for (name, unit), value in figures.items():
                values[way, name, unit].append(value)
            shown = ", ".join(f"{name} {value:.4g} {unit}" for (name, unit), value in figures.items())
            print(f"{title}: {way}: {shown}", flush=True)
    return values


def enter(report: Report, title: str, count: int, values: Values) -> None:
    """Enter a setting's values into the report, with what is asked of them."""
    for (way, measure, unit), taken in values.items():
        report.add(title, way, measure, unit, taken)
    if any(way == "drop" for way, _, _ in values):
        if count == 2000:
            report.hold(title, "worker's peak memory", CHATRELAY, Bound("<=", 160, 110))
        if count == 9000:
            report.hold(title, "memory per stream", CHATRELAY, Bound("<=", 60, 30))
        # What was not relayed within the window cost nothing in it: then the CPU figures mean little.
        report.hold(title, "there in time", CHATRELAY, Bound(">=", 99))
        report.ratio(title, "worker CPU per 100k chunks", CHATRELAY, "drop")


# -- the measurements ------------------------------------------------------------------------------------------


async def wait(stand: Stand, way: Side, count: int) -> Figures:
    """Let jobs wait behind a full worker, then let it go."""
    rounds = max(1, AT_LEAST // count)
    worker, server = 0.0, 0.0
    for _ in range(rounds):
        stand.ask_upstream("shut")
        await way.hand(WAITED_FOR, BUSY + count)
        await stand.until_calls(BUSY, "held")
        with Stretch(worker=way.child.takes, server=stand.server.process) as stretch:
            stand.ask_upstream("open")
            await way.ended(BUSY + count)
        worker += stretch.cpu["worker"]
        server += stretch.cpu["server"]
        await way.figures()
        await way.check(WAITED_FOR)
    per_1000 = 1000 / (rounds * (BUSY + count))
    return {
        ("worker CPU per 1,000 jobs", "s"): worker * per_1000,
        ("server CPU per 1,000 jobs", "s"): server * per_1000,
        ("worker's peak memory", "MB"): way.child.takes.peak_mb(),
    }


async def run(stand: Stand, way: Side, count: int) -> Figures:
    """Let streams run side by side."""
    plan = Plan(math.ceil(RATE * (WINDOW + SLACK)), RATE, gated=True)
    before = way.child.takes.memory_mb()
    stand.ask_upstream("shut")
    with Stretch(worker=way.child.takes) as whole:
        await way.hand(plan, count, count / BEGINNING)
        await stand.until_calls(count, "held")
        stand.ask_upstream("open")
        await asyncio.sleep(1 / RATE)  # one turn of the wheel: all have begun
        running = stand.ask_upstream("figures")["running"]
        since = time.monotonic_ns()
        with Stretch(worker=way.child.takes, server=stand.server.process) as window:
            await asyncio.sleep(WINDOW)
        memory, sent = way.child.takes.memory_mb(), stand.ask_upstream("figures")
        if not running == sent["running"] == count:
            raise NotExact(f"{running} and then {sent['running']} of {count} streams ran")
        await way.ended(count)
    seen = await way.figures(since, sent["last_at"])
    if way.way == CHATRELAY and seen["chunks"] != plan.chunks * count:
        raise NotExact(f"{seen['chunks']} of {plan.chunks * count} chunks were seen")
    await way.check(plan)
    per_100k = 1e5 / sent["chunks"]
    in_window = {
        ("there in time", "%"): 100 * seen["in_time"],
        ("chunk latency p50", "ms"): seen["delay"].get("p50", 0.0),
        ("chunk latency p99", "ms"): seen["delay"].get("p99", 0.0),
    }
    return (in_window if way.way == CHATRELAY else {}) | {
        ("worker CPU per 100k chunks", "s"): window.cpu["worker"] * per_100k,
        ("server CPU per 100k chunks", "s"): window.cpu["server"] * per_100k,
        ("worker CPU per 1,000 jobs, all of it", "s"): whole.cpu["worker"] * 1000 / count,
        ("memory per stream", "KiB"): (memory - before) * 1024 / count,
        ("worker's peak memory", "MB"): way.child.takes.peak_mb(),
        ("chunks", "1/s"): sent["chunks"] / window.seconds,
    }


async def log_at_once(stand: Stand, way: Side, _count: int) -> Figures:
    """Log answers whose chunks come all at once."""
    return await log(stand, way, Plan(LOGGED))


async def log_smoothly(stand: Stand, way: Side, _count: int) -> Figures:
    """Log answers whose chunks come one by one."""
    return await log(stand, way, Plan(LOGGED, 100.0))


async def log(stand: Stand, way: Side, plan: Plan) -> Figures:
    streams = 10
    await way.hand(plan, streams)
    await way.ended(streams)
    size = await way.log_bytes()
    stand.ask_upstream("figures")
    await way.figures()
    await way.check(plan)
    return {("server's memory per logged chunk", "bytes"): size / plan.chunks}


if __name__ == "__main__":
    sys.exit(asyncio.run(main(command.parse(command.parser(__doc__)))))
