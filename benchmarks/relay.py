"""What an answer pays for going through the stream, the log and the channel: chatrelay beside other ways.

    python -m benchmarks.relay            or, for a look,            python -m benchmarks.relay --quick

See `benchmarks.ways` for the ways. Fast: the upstream holds all streams at a gate, opens it, and sends each answer at
once. Paced: chunks come one by one at a fixed rate, each stamped with the time of its writing; whoever receives it
looks at the same clock. In each repeat every way has its turn, in a process of its own. chatrelay's logs are read
afterwards: an answer that is not exact is an error.
"""

import argparse
import asyncio
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from benchmarks import command
from benchmarks.plan import Plan
from benchmarks.processes import Stretch
from benchmarks.report import Bound, Report
from benchmarks.stand import CHATRELAY, FAILURES, SUBSCRIBED, NotExact, Side, Stand, open_stand, side

FAST_WAYS = ("direct", "bytes", "drop", "poured", "publish", "naive", CHATRELAY)
PACED_WAYS = ("direct", "drop", "poured", "publish", "naive", CHATRELAY)
TURNS = ("naive", "bytes", "drop", "poured", CHATRELAY, "direct", "publish", SUBSCRIBED)
"""The order in which they have their turns. What is compared stands next to each other, because the machine may be
another one a minute later."""
CHUNKS = 200
SUBSCRIPTIONS = 50  # as many as one reading process is given
RAMP = 1.5  # seconds over which paced streams begin

Values = dict[tuple[str, str, str], list[float]]  # by side, measure and unit


@dataclass(frozen=True, slots=True)
class Setting:
    """What is measured: so many streams, ``bursts`` times at once, or at a rate for so many seconds."""

    name: str
    streams: int
    bursts: int = 1
    rate: float = 0.0
    seconds: float = 6.0

    @property
    def ways(self) -> Sequence[str]:
        if not self.rate:
            return FAST_WAYS
        return (*PACED_WAYS, SUBSCRIBED) if self.streams <= SUBSCRIPTIONS else PACED_WAYS


SETTINGS = (
    Setting("fast, 1 stream", 1, bursts=100),
    Setting("fast, 50 streams", 50, bursts=10),
    Setting("fast, 500 streams", 500),
    Setting("fast, 2,000 streams", 2000),
    Setting("paced, 50 streams at 67/s", 50, rate=67),
    Setting("paced, 500 streams at 67/s", 500, rate=67),
    Setting("smooth, 50 streams at 20/s", 50, rate=20),
    Setting("smooth, 250 streams at 20/s", 250, rate=20),
)
QUICK = (
    Setting("fast, 50 streams", 50, bursts=2),
    Setting("paced, 50 streams at 67/s", 50, rate=67, seconds=2),
)


async def main(given: argparse.Namespace) -> int:
    failures = []
    settings = [setting for setting in (QUICK if given.quick else SETTINGS) if given.only in setting.name]
    report = Report("relay", "What does an answer pay for going through stream, log and channel?")
    for name in given.server:
        for setting in settings:
            try:
                async with open_stand(name) as stand:
                    values = await measure(stand, setting, given.repeats)
            except FAILURES as error:
                failures.append(f"{name}, {setting.name}: {error}")
                continue
            report.servers = list(dict.fromkeys([*report.servers, stand.server.described]))
            enter(report, f"{name}: {setting.name}", setting, values)
    report.notes += [*NOTES, *(f"NOT MEASURED: {failure}" for failure in failures)]
    report.finish(given.out)
    return 1 if failures else 0


NOTES = [
    "Worker CPU counts claim, call, relay and settling; 'relay alone' begins when all calls wait at the gate.",
    "Server CPU is that of the relay alone, the subscribed reader's output included.",
    "One process reads all channels and takes the time of each chunk without decoding its frame;",
    "for 'chatrelay, subscribed' it enqueues and subscribes as a service does, and takes the time of each event.",
]


async def measure(stand: Stand, setting: Setting, repeats: int) -> Values:
    """Give every way its turn, so many times."""
    values: Values = defaultdict(list)
    for _ in range(repeats):
        for way in sorted(setting.ways, key=TURNS.index):
            async with side(stand, way, setting.streams) as running:
                figures = await (paced if setting.rate else fast)(stand, running, setting)
            for (measure, unit), value in figures.items():
                values[way, measure, unit].append(value)
            shown = ", ".join(f"{measure} {value:.4g} {unit}" for (measure, unit), value in figures.items())
            print(f"{stand.server.name}: {setting.name}: {way}: {shown}", flush=True)
    return values


Figures = dict[tuple[str, str], float]


async def fast(stand: Stand, way: Side, setting: Setting) -> Figures:
    """Let all answers go at once, so many times."""
    plan = Plan(CHUNKS, gated=True)
    chunks = setting.bursts * setting.streams * CHUNKS
    seconds, whole, relay, server = 0.0, 0.0, 0.0, 0.0
    way.child.takes.reset_peak()
    for _ in range(setting.bursts):
        async with AsyncExitStack() as stack:
            stand.ask_upstream("shut")
            all_of_it = stack.enter_context(Stretch(worker=way.child.takes))
            await way.hand(plan, setting.streams)
            await stand.until_calls(setting.streams, "held")
            relaying = stack.enter_context(Stretch(worker=way.child.takes, server=stand.server.process))
            stand.ask_upstream("open")
            last_end_at = await way.ended(setting.streams)
        seconds += (last_end_at - stand.ask_upstream("figures")["first_at"]) / 1e9
        whole += all_of_it.cpu["worker"]
        relay += relaying.cpu["worker"]
        server += relaying.cpu["server"]
        await way.figures()
        peak = way.child.takes.peak_mb()
        await way.check(plan)
    per_100k = 1e5 / chunks
    return {
        ("chunks", "1/s"): chunks / seconds,
        ("worker CPU per 100k chunks", "s"): whole * per_100k,
        ("worker CPU, relay alone", "s"): relay * per_100k,
        ("server CPU per 100k chunks", "s"): server * per_100k,
        ("worker's peak memory", "MB"): peak,
    }


async def paced(stand: Stand, way: Side, setting: Setting) -> Figures:
    """Let streams run at their rate; what is measured begins when all of them run."""
    plan = Plan(round(setting.rate * (setting.seconds + RAMP)), setting.rate)
    way.child.takes.reset_peak()
    await way.hand(plan, setting.streams, RAMP)
    await stand.until_calls(setting.streams, "figures")
    since = time.monotonic_ns()
    with Stretch(worker=way.child.takes, server=stand.server.process) as stretch:
        await way.ended(setting.streams)
    sent = stand.ask_upstream("figures")
    figures = await way.figures(since, sent["last_at"])
    if way.way in MEASURED and figures["chunks"] != plan.chunks * setting.streams:
        raise NotExact(f"{way.way}: {figures['chunks']} of {plan.chunks * setting.streams} chunks were seen")
    peak = way.child.takes.peak_mb()
    await way.check(plan)
    per_100k = 1e5 / sent["chunks"]
    taken = {
        ("worker CPU per 100k chunks", "s"): stretch.cpu["worker"] * per_100k,
        ("server CPU per 100k chunks", "s"): stretch.cpu["server"] * per_100k,
        ("worker's peak memory", "MB"): peak,
    }
    if way.way not in MEASURED:
        return taken
    return taken | {
        ("there in time", "%"): 100 * figures["in_time"],
        ("chunk latency p50", "ms"): figures["delay"]["p50"],
        ("chunk latency p99", "ms"): figures["delay"]["p99"],
        ("first chunk p50", "ms"): figures["first"]["p50"],
        ("first chunk p99", "ms"): figures["first"]["p99"],
    }


MEASURED = ("direct", "publish", "naive", CHATRELAY, SUBSCRIBED)
"""The ways in which somebody sees the chunks."""


# -- what is compared, and the bounds --------------------------------------------------------------------------


def enter(report: Report, name: str, setting: Setting, values: Values) -> None:
    """Enter a setting's values into the report, with what is asked of them."""
    add_latencies(values, setting.ways)
    by_way = sorted(values.items(), key=lambda item: setting.ways.index(item[0][0]))
    for (way, measure, unit), taken in by_way:
        report.add(name, way, measure, unit, taken)
    if setting.rate:
        compare_paced(report, name, setting)
    else:
        compare_fast(report, name, setting)


def add_latencies(values: Values, ways: Sequence[str]) -> None:
    """Add what each way adds to a direct read's latency, repeat by repeat."""
    for measure in ("chunk latency p50", "chunk latency p99", "first chunk p50", "first chunk p99"):
        direct = values.get(("direct", measure, "ms"), [])
        for way in ways:
            taken = values.get((way, measure, "ms"))
            if way != "direct" and taken:
                added = [ours - theirs for ours, theirs in zip(taken, direct, strict=True)]
                values[way, f"added {measure}", "ms"] = added


def compare_fast(report: Report, name: str, setting: Setting) -> None:
    is_50, is_2000 = setting.streams == 50, setting.streams == 2000
    report.ratio(name, "chunks", CHATRELAY, "naive", Bound(">=", 15, 28) if is_50 else None)
    report.ratio(name, "chunks", CHATRELAY, "direct", Bound(">=", 0.4, 0.65) if is_50 else None)
    for other in ("drop", "poured", "direct", "naive"):
        report.ratio(name, "worker CPU per 100k chunks", CHATRELAY, other)
    if is_2000:
        report.hold(name, "worker's peak memory", CHATRELAY, Bound("<=", 160, 110))


def compare_paced(report: Report, name: str, setting: Setting) -> None:
    is_500, is_smooth = setting.streams == 500, setting.rate <= 20
    p50, p99 = "added chunk latency p50", "added chunk latency p99"
    report.hold(name, "there in time", CHATRELAY, Bound(">=", 99))
    if is_500:
        report.hold(name, p50, CHATRELAY, Bound("<=", 0.6, 0.35))
        report.hold(name, p99, CHATRELAY, Bound("<=", 10, 5))
    cpu_bound = Bound("<=", 1.35, 1.15) if is_500 else None
    for other in ("drop", "poured"):
        report.ratio(name, "worker CPU per 100k chunks", CHATRELAY, other, cpu_bound)
    report.ratio(name, p50, CHATRELAY, "publish", Bound("<=", 0.9, 0.6) if is_smooth else None)
    report.ratio(name, p99, CHATRELAY, "publish", Bound("<=", 0.5, 0.25) if is_smooth else None)


if __name__ == "__main__":
    sys.exit(asyncio.run(main(command.parse(command.parser(__doc__)))))
