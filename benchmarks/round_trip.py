"""On an idle system: how long from enqueueing a no-op job to seeing its end, next to other queues?

    python -m benchmarks.round_trip                      # every peer, every server: about two minutes
    python -m benchmarks.round_trip --quick --only taskiq

One producer, one worker, one job at a time. For chatrelay the end is the `done` event at a subscriber; for the
others the result, by the way that each of them has. The sides take turns.
"""

import statistics
from collections import defaultdict

from benchmarks.command import parse, parser
from benchmarks.figures import quantile
from benchmarks.report import Bound, Report
from benchmarks.servers import Server, started
from benchmarks.sides import Side, answering, ask, chosen, compare, empty, note_sides

CALLS, FEWER = 500, 100
BOUND = Bound("<=", 0.8, 0.3)
PERCENTS = (50, 90, 99)


def main() -> None:
    given = parse(parser(__doc__))
    contenders = chosen(given.only)
    report = Report("round_trip", "Enqueue to end seen, of a no-op job on an idle system")
    for name in given.server:
        with started(name) as server:
            report.servers = [*report.servers, server.described]
            taken = measure(server, contenders, FEWER if given.quick else CALLS, given.repeats)
            tell(report, server.name, taken)
    note_sides(report, contenders)
    report.finish(given.out)


def measure(server: Server, contenders: list[Side], calls: int, repeats: int) -> dict[str, list[list[float]]]:
    """Return the seconds that each call took, a list for each repeat, by the side's name."""
    taken: dict[str, list[list[float]]] = defaultdict(list)
    for _ in range(repeats):
        for side in contenders:
            empty(server)
            with answering(side, server):
                taken[side.name].append(ask(side, server, calls)["seconds"])
    return taken


def tell(report: Report, server: str, taken: dict[str, list[list[float]]]) -> None:
    """Add the figures of one server to the report, and compare with the best of the others."""
    medians = {name: [statistics.median(seconds) for seconds in repeats] for name, repeats in taken.items()}
    for name, repeats in taken.items():
        for percent in PERCENTS:
            values = [1000 * quantile(seconds, percent) for seconds in repeats]
            report.add(server, name, f"p{percent}", "ms", values)
    compare(report, server, "p50", medians, BOUND)


if __name__ == "__main__":
    main()
