"""How long until a worker that is started claims its first job, and what does importing the client cost?

    python -m benchmarks.startup            or, for a look,            python -m benchmarks.startup --quick

A job waits in the queue. From the moment before the worker's process is begun to the job's ``started_at``, which is
the server's time at the claim, on the same clock. Imports stand beside `python -c pass`, in turns. The CPU time is
that of the process itself: unlike the wall clock it says the same on a busy machine.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from uuid import uuid4

import redis

from benchmarks import command, servers
from benchmarks.figures import percentile
from benchmarks.processes import PATHS, ROOT, python
from benchmarks.report import Bound, Report
from producer import Producer
from producer.wire.keys import Keys

REPEATS = 15
PACKAGES = ("redis", "hiredis", "pydantic", "aiohttp", "structlog", "typer", "uvloop")
PATIENCE_MS = 60_000
NOTHING = "python -c pass"
IMPORTS = {
    NOTHING: "pass",
    "import producer": "import producer",
    "from producer import Producer": "from producer import Producer",
    "import blocking Producer": "from producer.blocking import Producer",
}
IMPORT_BOUND, CLAIM_BOUND = Bound("<=", 100), Bound("<=", 500)  # ms

Values = dict[tuple[str, str], list[float]]  # by side and measure, in ms


def main() -> None:
    given = command.parse(command.parser(__doc__))
    repeats = given.repeats if given.repeats > command.REPEATS else 3 if given.quick else REPEATS
    report = Report("startup", "How long does it take to begin?", packages=PACKAGES)
    with as_installed():
        if given.only in "import":
            report_imports(report, measure_imports(repeats))
        if given.only in "claim":
            with servers.started(given.server[0]) as server:
                report.servers = [server.described]
                report_claims(report, measure_claims(server.url, repeats))
    report.notes.append(
        f"others on this machine meanwhile: load {os.getloadavg()[0]:.1f}; the wall clock needs one below 1"
    )
    report.finish(given.out)


@contextlib.contextmanager
def as_installed() -> Iterator[None]:
    """Let the processes find compiled modules, as they are after an installation, whatever this machine is set to."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(PYTHONDONTWRITEBYTECODE="", PYTHONPYCACHEPREFIX=folder)
        yield


# -- imports ---------------------------------------------------------------------------------------------------


def measure_imports(repeats: int) -> Values:
    values: Values = defaultdict(list)
    for code in IMPORTS.values():
        run_python(code)  # compiles
    for _ in range(repeats):
        for side, code in IMPORTS.items():
            wall, cpu = run_python(code)
            values[side, "wall"].append(wall)
            values[side, "CPU"].append(cpu)
    return values


def run_python(code: str) -> tuple[float, float]:
    """Run an interpreter from its start to its end; return wall clock and CPU time, in ms."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "PYTHONPATH": PATHS}
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, code
    return 1000 * (time.perf_counter() - began), 1000 * (usage.ru_utime + usage.ru_stime)


def report_imports(report: Report, values: Values) -> None:
    for (side, measure), taken in values.items():
        report.add("imports", side, measure, "ms", taken)
    for side in list(IMPORTS)[1:]:
        bound = IMPORT_BOUND if side == "import producer" else None
        report.difference("imports", "wall", side, NOTHING, bound)
        report.difference("imports", "CPU", side, NOTHING)
    heaviest = ", ".join(f"{name} {ms:.0f}" for name, ms in heaviest_imports("from producer import Producer"))
    report.notes.append(
        f"-X importtime of `from producer import Producer`, ms with all that each brings in: {heaviest}"
    )


def heaviest_imports(code: str, count: int = 8) -> Sequence[tuple[str, float]]:
    """Return the packages whose first import takes longest, as the interpreter counts, in ms."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": PATHS},
    )
    rows = [line.split("|") for line in done.stderr.splitlines() if line.startswith("import time:")][1:]
    taken = {name.strip(): int(together) / 1000 for _, together, name in rows}
    return sorted(taken.items(), key=lambda row: -row[1])[:count]


# -- the first claim -------------------------------------------------------------------------------------------


def measure_claims(url: str, repeats: int) -> Values:
    values: Values = defaultdict(list)
    run_worker(url, 1)  # compiles
    for _ in range(repeats):
        for processes in (1, 2):
            wall, cpu = run_worker(url, processes)
            side = "worker" if processes == 1 else f"--processes {processes}"
            values[side, "to its first claim"].append(wall)
            if processes == 1:
                values[side, "CPU until then"].append(cpu)
        values[NOTHING, "wall"].append(run_python("pass")[0])
    return values


def run_worker(url: str, processes: int) -> tuple[float, float]:
    """Start a worker for whom a job waits; return the ms to its claim, and those of CPU that it took till then."""
    prefix = f"startup-{uuid4().hex[:8]}"
    job_id = asyncio.run(enqueue(url, prefix))
    options = ["--redis", url, "--prefix", prefix, "--log-level", "warning"]
    supervised = ["--processes", str(processes)] if processes > 1 else []
    keys = Keys(prefix)
    with redis.Redis.from_url(url) as client:
        began_at = time.time()
        with python("worker", "run", *options, *supervised) as worker:
            # Sleeps until the attempt's first event is logged, and so takes nothing of the machine meanwhile.
            came = client.xread({keys.log(job_id): "0-1"}, count=1, block=PATIENCE_MS)
            cpu = worker.takes.cpu_seconds()
            assert came, "no worker claimed the job"
        claimed_at = int(client.hget(keys.record(job_id), "started_at")) / 1000
        client.flushdb()
    return 1000 * (claimed_at - began_at), 1000 * cpu


async def enqueue(url: str, prefix: str) -> str:
    async with Producer(url, prefix=prefix) as producer:
        return (await producer.enqueue("hello", provider="echo")).id


def report_claims(report: Report, values: Values) -> None:
    for (side, measure), taken in values.items():
        report.add("a job waits", side, measure, "ms", taken)
        report.add("a job waits", side, f"{measure}, p90", "ms", [percentile(taken, 0.9)])
    report.hold("a job waits", "to its first claim", "worker", CLAIM_BOUND)


if __name__ == "__main__":
    main()
