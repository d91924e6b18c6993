"""Enqueueing: how many jobs a second does one producer process with 50 tasks put into Redis, next to other queues?

    python -m benchmarks.enqueue                         # every peer, every server: about two minutes
    python -m benchmarks.enqueue --quick --only faststream

Each job is one short message, and a call is over when Redis has the job. The sides take turns.
"""

from collections import defaultdict
from typing import Any

from benchmarks.command import parse, parser
from benchmarks.report import Bound, Report
from benchmarks.servers import Server, started
from benchmarks.sides import OURS, Side, chosen, compare, empty, enqueue, note_sides

JOBS, FEWER = 20_000, 3_000
BOUND = Bound(">=", 1.5, 3)

PER_SECOND, PRODUCER_CPU, SERVER_CPU = "enqueue", "producer CPU per 1,000 jobs", "server CPU per 1,000 jobs"


def main() -> None:
    given = parse(parser(__doc__))
    contenders = chosen(given.only)
    report = Report("enqueue", "Jobs that one producer process enqueues with 50 tasks")
    for name in given.server:
        with started(name) as server:
            report.servers = [*report.servers, server.described]
            taken = measure(server, contenders, FEWER if given.quick else JOBS, given.repeats)
            tell(report, server.name, taken)
    note_sides(report, contenders)
    report.finish(given.out)


def measure(
    server: Server, contenders: list[Side], jobs: int, repeats: int
) -> dict[str, list[dict[str, Any]]]:
    """Return what each side's producer told, by its name."""
    taken: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _ in range(repeats):
        for side in contenders:
            empty(server)
            server_began = server.process.cpu_seconds()
            told = enqueue(side, server, jobs)
            taken[side.name].append({**told, "server_cpu_s": server.process.cpu_seconds() - server_began})
    empty(server)
    return taken


def tell(report: Report, server: str, taken: dict[str, list[dict[str, Any]]]) -> None:
    """Add the figures of one server to the report, and compare with the best of the others."""
    rates = {name: [told["jobs"] / told["seconds"] for told in all_told] for name, all_told in taken.items()}
    for name, all_told in taken.items():
        report.add(server, name, PER_SECOND, "1/s", rates[name])
        for measure, key in ((PRODUCER_CPU, "cpu_s"), (SERVER_CPU, "server_cpu_s")):
            report.add(server, name, measure, "s", [1000 * told[key] / told["jobs"] for told in all_told])
    for leader in sorted(compare(report, server, PER_SECOND, rates, BOUND)):
        report.ratio(server, PRODUCER_CPU, OURS, leader)


if __name__ == "__main__":
    main()
