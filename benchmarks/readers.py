"""What does it cost to read: one job by a thousand readers, a thousand jobs by one reader each, in one process?

    python -m benchmarks.readers             or, for a look,             python -m benchmarks.readers --quick

The reader's process is measured alone. Frames are written by this one, through the worker's append script. Next to it
stands what one writes without chatrelay: a redis-py pub/sub connection for each reader, and msgpack.
"""

import asyncio
import itertools
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import uuid4

from benchmarks import processes, servers
from benchmarks.command import parse, parser
from benchmarks.report import Report
from producer.connection import Line, Url
from producer.connection.packing import pack
from producer.wire.events import Chunk, Done, Event, Queued, Started
from producer.wire.frames import encode
from producer.wire.keys import FRAME_FIELD, Keys
from worker import scripts

SIDES = ("chatrelay", "bare")
TIMEOUT = 10.0  # seconds
CLIENTS = 1000  # readers in all


@dataclass(frozen=True, slots=True)
class Shape:
    """``jobs`` with ``readers`` each. A round is ``frames`` of ``merged`` chunks for every job, written at once."""

    jobs: int
    readers: int
    frames: int
    merged: int

    @property
    def name(self) -> str:
        return f"{self.jobs} × {self.readers}, {self.merged} to a frame"

    @property
    def handed_out(self) -> int:
        """Events that the readers get in one round."""
        return self.jobs * self.readers * self.frames * self.merged


FAST = [
    Shape(1, CLIENTS, 40, 1),
    Shape(1, CLIENTS, 20, 10),
    Shape(CLIENTS, 1, 10, 1),
    Shape(CLIENTS, 1, 5, 10),
]
PACED = [(Shape(1, CLIENTS, 1, 1), 0.05, 10.0), (Shape(CLIENTS, 1, 1, 1), 0.001, 5.0)]
"""Shapes, seconds between two frames, each for the next job, and seconds in all."""

UNITS = {
    "fast": {"events": "1/s", "reader CPU / 100k": "s", "memory / reader": "KiB"},
    "paced": {"reader CPU / 100k": "s", "late p50": "ms", "late p99": "ms"},
}

Found = dict[str, list[tuple[float, ...]]]
"""For each side what each repeat gave, in the order of its units."""


@dataclass
class Scribe:
    """Writes the jobs as a worker does, over one connection."""

    line: Line
    keys: Keys
    jobs: int
    attempt: int = 1_763_629_933_000
    written: dict[int, int] = field(default_factory=dict)

    async def begin(self) -> None:
        await self.line.open()
        await self.line.ask("SCRIPT", "LOAD", scripts.APPEND.text)
        queued = encode(Queued("0-1", "default"))
        for job in range(self.jobs):
            self.written[job] = 0
            await self.line.ask("XADD", self.keys.log(f"job-{job}"), "0-1", FRAME_FIELD, queued)

    async def start(self) -> None:
        await self._send([self._frame(job, [Started(self._id(job), 1, "p", "w")]) for job in self.written])

    async def round(self, shape: Shape) -> None:
        await self._send(
            [self._chunks(job, shape.merged) for _ in range(shape.frames) for job in self.written]
        )

    async def paced(self, frames: int, interval: float) -> None:
        """Write one frame of one chunk for one job after the other."""
        begun_at = time.monotonic()
        for number, job in zip(range(frames), itertools.cycle(self.written)):
            await asyncio.sleep(begun_at + number * interval - time.monotonic())
            await self._send([self._chunks(job, 1)])

    async def end(self) -> None:
        await self._send([self._frame(job, [Done(self._id(job), "stop", 0)]) for job in self.written])

    def _chunks(self, job: int, count: int) -> bytes:
        return self._frame(job, [Chunk(self._id(job), f"{time.monotonic_ns():020d}") for _ in range(count)])

    def _frame(self, job: int, events: list[Event]) -> bytes:
        frame = b"".join(encode(event) for event in events)
        names = self.keys.log(f"job-{job}"), self.keys.events(f"job-{job}")
        return pack("EVALSHA", scripts.APPEND.sha, 2, *names, events[-1].id, frame)

    def _id(self, job: int) -> str:
        seq = self.written[job]
        self.written[job] += 1
        return f"{self.attempt}-{seq}"

    async def _send(self, commands: list[bytes]) -> None:
        async with asyncio.timeout(TIMEOUT):
            replies = await self.line.send(commands)
        assert set(replies) == {b"written"}, set(replies)


@dataclass
class Run:
    """A reader's process, joined and waiting, and the hand that writes for it."""

    scribe: Scribe
    reader: processes.Child
    memory_kib: float

    async def fast(self, shape: Shape, rounds: int) -> tuple[float, float]:
        """Return events/s, and the reader's CPU seconds for 100,000 events."""
        self.reader.ask(events=shape.handed_out * rounds, timing=False)
        with processes.Stretch(reader=self.reader.takes) as stretch:
            for _ in range(rounds):
                await self.scribe.round(shape)
            self.reader.answer()
        events = shape.handed_out * rounds
        return events / stretch.seconds, stretch.cpu["reader"] / events * 100_000

    async def paced(self, shape: Shape, interval: float, frames: int) -> tuple[float, float, float]:
        """Return the reader's CPU seconds for 100,000 events, and median and p99 of the lateness in ms."""
        events = frames * shape.readers
        self.reader.ask(events=events, timing=True)
        with processes.Stretch(reader=self.reader.takes) as stretch:
            await self.scribe.paced(frames, interval)
            late = self.reader.answer()
        return stretch.cpu["reader"] / events * 100_000, 1000 * late["p50"], 1000 * late["p99"]


Part = Callable[[Run], Awaitable[tuple[float, ...]]]


@contextmanager
def reading(side: str, url: str, keys: Keys, shape: Shape) -> Iterator[processes.Child]:
    arguments = [side, url, keys.prefix, str(shape.jobs), str(shape.readers)]
    with processes.python("benchmarks.reading", *arguments) as child:
        yield child


async def measure(side: str, url: str, shape: Shape, part: Part) -> tuple[float, ...]:
    """Return what ``part`` finds in a run of its own, and the memory of a reader that waits, in KiB."""
    keys = Keys(f"bench{uuid4().hex[:8]}")
    scribe = Scribe(Line(Url(url), TIMEOUT), keys, shape.jobs)
    await scribe.begin()
    try:
        with reading(side, url, keys, shape) as child:
            run = Run(scribe, child, child.answer()["memory_kib"])
            child.ask(events=shape.jobs * shape.readers, timing=False)
            await scribe.start()
            child.answer()
            found = await part(run)
            await scribe.end()
            if problems := child.ask(check=True)["problems"]:
                raise AssertionError(f"{side} was not exact: {problems[:3]}")
    finally:
        scribe.line.close()
    return *found, run.memory_kib


def settings(*, quick: bool) -> Iterator[tuple[str, Shape, Part]]:
    enough = 50_000 if quick else 400_000  # events
    for shape in FAST:
        rounds = max(1, enough // shape.handed_out)
        yield f"fast, {shape.name}", shape, lambda run, shape=shape, rounds=rounds: run.fast(shape, rounds)
    for shape, interval, seconds in PACED:
        frames = round(seconds / interval / (5 if quick else 1))
        yield (
            f"paced, {shape.name}",
            shape,
            lambda run, shape=shape, interval=interval, frames=frames: run.paced(shape, interval, frames),
        )


def main() -> int:
    given = parse(parser(__doc__))
    report = Report("readers", "What does it cost to read, next to a pub/sub connection for each reader?")
    described = []
    for name in given.server:
        with servers.started(name) as server:
            described.append(server.described)
            for setting, shape, part in settings(quick=given.quick):
                if given.only in f"{name}: {setting}":
                    found = alternate(given.repeats, server.url, shape, part)
                    add(report, f"{name}: {setting}", found, UNITS[setting.partition(",")[0]])
    report.servers = described
    report.finish(given.out)
    return 0


def alternate(repeats: int, url: str, shape: Shape, part: Part) -> Found:
    found: Found = {side: [] for side in SIDES}
    for _ in range(repeats):
        for side in SIDES:
            found[side].append(asyncio.run(measure(side, url, shape, part)))
    return found


def add(report: Report, setting: str, found: Found, units: dict[str, str]) -> None:
    for place, (measure, unit) in enumerate(units.items()):
        for side in SIDES:
            report.add(setting, side, measure, unit, [values[place] for values in found[side]])
        report.ratio(setting, measure, *SIDES)


if __name__ == "__main__":
    sys.exit(main())
