"""Where the time of no-op jobs and of enqueueing goes: cProfile of one process, by file and by function.

    python -m benchmarks.profiles jobs                   # a worker that works off 4,000 jobs
    python -m benchmarks.profiles enqueue --to FILE      # a producer that enqueues 4,000

Seconds are CPU time under the profiler, three to five times the real ones. The start of the process is among them.
"""

import argparse
import contextlib
import json
import os
import pstats
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks import servers
from benchmarks.peers.chatrelay import PROFILE
from benchmarks.processes import ROOT
from benchmarks.servers import Server
from benchmarks.sides import SIDES, enqueue, work_off

JOBS = 4_000
CHATRELAY = SIDES[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("jobs", "enqueue"))
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--server", choices=servers.available(), default=servers.available()[-1])
    parser.add_argument("--to", type=Path, help="default: the terminal")
    given = parser.parse_args()
    profiled = worker_profile if given.what == "jobs" else producer_profile
    with tempfile.TemporaryDirectory() as folder, servers.started(given.server) as server:
        path = Path(folder) / "profile"
        said = profiled(server, given.jobs, path)
        with given.to.open("w") if given.to else contextlib.nullcontext(sys.stdout) as out:
            print(f"{said}; {server.described}\n", file=out)
            show(path, out)


def worker_profile(server: Server, jobs: int, path: Path) -> str:
    enqueue(CHATRELAY, server, jobs)
    os.environ[PROFILE] = str(path)
    work = work_off(CHATRELAY, server, jobs)
    return f"{jobs} no-op jobs, {work.worker_cpu:.2f} CPU-s under the profiler"


def producer_profile(server: Server, jobs: int, path: Path) -> str:
    command = CHATRELAY.command("enqueue", server.url, jobs)
    command[1:3] = ["-m", "benchmarks.profiled", str(path), command[2]]
    told = json.loads(subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True).stdout)
    return f"{jobs} jobs enqueued, {told['cpu_s']:.2f} CPU-s under the profiler"


def show(path: Path, out: Any) -> None:
    """Write the share of each file, and the functions with the most time of their own and in all."""
    stats = pstats.Stats(str(path), stream=out)
    by_file: Counter[str] = Counter()
    for (file, _, _), (_, _, own, _, _) in stats.stats.items():  # type: ignore[attr-defined]
        by_file[short(file)] += own
    whole = sum(by_file.values())
    for file, seconds in by_file.most_common(25):
        print(f"{seconds:8.3f} s {seconds / whole:6.1%}  {file}", file=out)
    for order in ("tottime", "cumulative"):
        stats.sort_stats(order).print_stats(30)


def short(file: str) -> str:
    """Return a path as seen from the project, or from where packages are."""
    for folder in (f"{ROOT}/", "site-packages/", f"/python{sys.version_info[0]}.{sys.version_info[1]}/"):
        if folder in file:
            return file.rpartition(folder)[2]
    return "built-in" if file == "~" else file


if __name__ == "__main__":
    main()
