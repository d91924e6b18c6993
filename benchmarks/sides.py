"""The sides of the comparisons with other queues, and what each is asked to do, as processes of its environment.

chatrelay runs in this one; every peer in one of its own under .venv-peers, which `make peers` sets up from hashed
lists: they want three different major versions of redis-py.
"""

import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.processes import ROOT, Child, child
from benchmarks.report import Bound, Report
from benchmarks.servers import Server

ENVIRONMENTS = ROOT / ".venv-peers"
OURS = "chatrelay"
FORGETFUL = ", no ack"
"""What the names of those end with whose workers forget a job when they take it."""

_PATIENCE = 120.0  # seconds for which a side may be at it
_LOOK_INTERVAL = 0.0005  # seconds

Command = tuple[str, ...]
Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True, slots=True)
class Side:
    """A queue. ``unfinished`` is the Redis command whose reply, or its first part, counts the jobs that are left.

    It is None where a worker forgets a job when it takes it.
    """

    name: str
    module: str
    environment: str | None
    unfinished: Command | None
    packages: Sequence[str]

    @property
    def interpreter(self) -> Path:
        """The Python that it runs on."""
        return (
            Path(sys.executable)
            if self.environment is None
            else ENVIRONMENTS / self.environment / "bin/python"
        )

    def command(self, what: str, url: str, jobs: int, *options: str) -> list[str]:
        """Return a command line of the shape that `benchmarks.peers.side` describes."""
        module = f"benchmarks.peers.{self.module}"
        return [str(self.interpreter), "-m", module, what, "--redis", url, "--jobs", str(jobs), *options]

    def described(self) -> str:
        """Return the name and the versions that count."""
        program = f"from importlib.metadata import version; print(*map(version, {list(self.packages)!r}))"
        said = subprocess.run(
            [str(self.interpreter), "-c", program], capture_output=True, text=True, check=True
        ).stdout.split()
        return f"{self.name}: {', '.join(map(' '.join, zip(self.packages, said, strict=True)))}"


SIDES = (
    Side(OURS, "chatrelay", None, ("XLEN", "chat:{default}:jobs"), ("redis", "hiredis", "uvloop")),
    Side(
        "FastStream",
        "faststream",
        "faststream",
        ("XPENDING", "nothing", "workers"),
        ("faststream", "redis", "hiredis", "uvloop"),
    ),
    Side(
        "FastStream, no ack",
        "faststream_unacknowledged",
        "faststream",
        None,
        ("faststream", "redis", "hiredis", "uvloop"),
    ),
    Side("arq", "arq", "arq", ("ZCARD", "arq:queue"), ("arq", "redis", "hiredis", "uvloop")),
    Side(
        "taskiq, no ack", "taskiq", "taskiq", None, ("taskiq", "taskiq-redis", "redis", "hiredis", "uvloop")
    ),
    Side(
        "dramatiq",
        "dramatiq",
        "dramatiq",
        ("HLEN", "dramatiq:default.msgs"),
        ("dramatiq", "redis", "hiredis"),
    ),
    Side("saq", "saq", "saq", ("ZCARD", "saq:default:incomplete"), ("saq", "redis", "hiredis", "uvloop")),
)


def chosen(only: str) -> list[Side]:
    """Return chatrelay, and the peers whose names contain the text.

    Raises:
        SystemExit: an environment is missing, or has another Python than this one: that would be what is compared.
    """
    sides = [side for side in SIDES if side.name == OURS or only.lower() in side.name.lower()]
    if missing := [side.name for side in sides if not side.interpreter.exists()]:
        raise SystemExit(f"not installed: {', '.join(missing)}; run: make peers")
    ours = Path(sys.executable).resolve()
    if others := [side.name for side in sides if side.interpreter.resolve() != ours]:
        raise SystemExit(f"installed with another Python: {', '.join(others)}; run: make clean peers")
    return sides


# -- what a side does ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Work:
    """What one worker made of jobs that were waiting for it. CPU time in seconds."""

    jobs: int
    seconds: float
    worker_cpu: float
    server_cpu: float


def enqueue(side: Side, server: Server, jobs: int) -> dict[str, Any]:
    """Let one producer enqueue so many jobs with 50 tasks; return what it tells of itself."""
    with child(side.command("enqueue", server.url, jobs)) as producer:
        told: dict[str, Any] = producer.answer(_PATIENCE)
    return told


def work_off(side: Side, server: Server, jobs: int, *options: str) -> Work:
    """Start a worker for jobs that are there, and measure from its first job to where nothing is left of any.

    The beginning is told from inside the first job, so that the start of the process is not in it. The end is when
    the last job has run, and Redis shows none that is not finished, on whichever side it says so.
    """
    with (
        redis.Redis.from_url(server.url) as client,
        child(side.command("work", server.url, jobs, *options)) as worker,
    ):
        first, server_began = worker.answer(_PATIENCE), server.process.cpu_seconds()
        last = worker.answer(_PATIENCE)
        ended_at = max(last["at"], _nothing_left_at(side, client, last["at"]))
        worker_cpu = worker.takes.cpu_seconds() - first["cpu_s"]
        server_cpu = server.process.cpu_seconds() - server_began
    return Work(jobs, ended_at - first["at"], worker_cpu, server_cpu)


def _nothing_left_at(side: Side, client: redis.Redis, otherwise: float) -> float:
    if side.unfinished is None:
        return otherwise
    give_up_at = time.monotonic() + _PATIENCE
    while _count(client.execute_command(*side.unfinished)):
        if time.monotonic() > give_up_at:
            raise RuntimeError(f"{side.name}: {side.unfinished} still counts jobs after {_PATIENCE:g} s")
        time.sleep(_LOOK_INTERVAL)
    return time.monotonic()


def check_all_done(server: Server, jobs: int) -> None:
    """See that chatrelay has brought so many jobs to a good end: a figure for anything else would mean nothing.

    Raises:
        RuntimeError: there are others, or fewer, or more.
    """
    with redis.Redis.from_url(server.url) as client, client.pipeline(transaction=False) as pipeline:
        for record in client.scan_iter("chat:{*}:record", count=1000):
            pipeline.hget(record, "status")
        ends = Counter(pipeline.execute())
    if ends != {b"done": jobs}:
        raise RuntimeError(f"{jobs} jobs were to be done, but there are {dict(ends)}")


def _count(reply: Any) -> int:
    match reply:
        case {"pending": int(count)} | int(count):
            return count
    raise TypeError(f"no count: {reply!r}")


@contextmanager
def answering(side: Side, server: Server) -> Iterator[Child]:
    """Run a worker of the side whose results somebody waits for."""
    with child(side.command("work", server.url, 0, "--results")) as worker:
        yield worker


def ask(side: Side, server: Server, jobs: int) -> dict[str, Any]:
    """Let one producer ask so many times, one at a time; return what it tells of itself."""
    with child(side.command("ask", server.url, jobs)) as producer:
        told: dict[str, Any] = producer.answer(_PATIENCE)
    return told


def empty(server: Server) -> None:
    """Forget all that is in the server."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


# -- what is compared ------------------------------------------------------------------------------------------


def compare(report: Report, setting: str, measure: str, values: Values, bound: Bound) -> set[str]:
    """Put chatrelay beside each peer, and return the best ones: those that the bound is held against.

    ``values``: what was added to the report under this setting and measure, by the side's name.
    """
    leaders = leading(values, highest=bound.sense == ">=")
    for name in values:
        if name != OURS:
            report.ratio(setting, measure, OURS, name, bound if name in leaders else None)
    return leaders


def leading(values: Values, *, highest: bool) -> set[str]:
    """Return the peer with the best median, and the best one of those that lose nothing with a worker."""
    medians = {name: statistics.median(taken) for name, taken in values.items() if name != OURS}
    keeping = [name for name in medians if not name.endswith(FORGETFUL)]
    choose = max if highest else min
    return {choose(names, key=medians.__getitem__) for names in (list(medians), keeping) if names}


def note_sides(report: Report, sides: Sequence[Side]) -> None:
    """Note the versions that were measured."""
    report.notes += [side.described() for side in sides]
