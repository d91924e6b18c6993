"""Jobs that do nothing: how many a second does one worker process get through, next to other queues?

    python -m benchmarks.jobs                            # every peer, every server: about five minutes
    python -m benchmarks.jobs --quick --only dramatiq    # chatrelay and one peer, once

The jobs are enqueued first; then one worker starts. The clock runs from inside its first job to the moment at which
the last one has run and Redis shows none that is unfinished, the same for all. The sides take turns.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.command import parse, parser
from benchmarks.report import Bound, Report
from benchmarks.servers import Server, started
from benchmarks.sides import (
    OURS,
    Side,
    Work,
    check_all_done,
    chosen,
    compare,
    empty,
    enqueue,
    note_sides,
    work_off,
)

JOBS, FEWER = 20_000, 3_000
BOUND = Bound(">=", 3, 8)

PER_SECOND, WORKER_CPU, SERVER_CPU = "jobs", "worker CPU per 1,000 jobs", "server CPU per 1,000 jobs"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--concurrency", help="of every worker, instead of each one's own")
    options.add_argument("--jobs", type=int, help=f"default {JOBS}, with --quick {FEWER}")
    given = parse(options)
    contenders = chosen(given.only)
    report = Report("jobs", "No-op jobs of one worker process")
    for name in given.server:
        with started(name) as server:
            report.servers = [*report.servers, server.described]
            jobs = given.jobs or (FEWER if given.quick else JOBS)
            settings = ["--concurrency", given.concurrency] if given.concurrency else []
            taken = measure(server, contenders, Load(jobs, given.repeats, settings))
            tell(report, server.name, taken)
    note_sides(report, contenders)
    report.finish(given.out)


@dataclass(frozen=True, slots=True)
class Load:
    jobs: int
    repeats: int
    options: Sequence[str] = ()


def measure(server: Server, contenders: list[Side], load: Load) -> dict[str, list[Work]]:
    """Return what each side took, by its name."""
    taken: dict[str, list[Work]] = defaultdict(list)
    for _ in range(load.repeats):
        for side in contenders:
            empty(server)
            enqueue(side, server, load.jobs)
            taken[side.name].append(work_off(side, server, load.jobs, *load.options))
            if side.name == OURS:
                check_all_done(server, load.jobs)
    empty(server)
    return taken


def tell(report: Report, server: str, taken: dict[str, list[Work]]) -> None:
    """Add the figures of one server to the report, and compare with the best of the others."""
    rates = {name: [work.jobs / work.seconds for work in works] for name, works in taken.items()}
    for name, works in taken.items():
        report.add(server, name, PER_SECOND, "1/s", rates[name])
        report.add(server, name, WORKER_CPU, "s", [1000 * work.worker_cpu / work.jobs for work in works])
        report.add(server, name, SERVER_CPU, "s", [1000 * work.server_cpu / work.jobs for work in works])
    for leader in sorted(compare(report, server, PER_SECOND, rates, BOUND)):
        report.ratio(server, WORKER_CPU, OURS, leader)


if __name__ == "__main__":
    main()
