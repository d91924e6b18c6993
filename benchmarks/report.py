"""What a benchmark found: rows of figures, comparisons of two sides, and the bounds that were asked for.

    report = Report("relay", "What does the queue cost?", servers=[server.described])
    report.add("fast, 50 streams", "naive", "chunks", "1/s", [13_400, 13_100, 13_900])
    report.add("fast, 50 streams", "chatrelay", "chunks", "1/s", [310_000, 298_000, 305_000])
    report.ratio("fast, 50 streams", "chunks", "chatrelay", "naive", Bound(">=", 15, 28))
    report.finish(out)  # prints the tables, writes out/relay.json

A missed bound is shown as missed and is no failure of the script: an exit status other than 0 means that something
was not measured, or was not exact.
"""

import json
import os
import platform
import statistics
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Self

from benchmarks.yardstick import nanoseconds_of_a_call
from worker.build import is_compiled

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("redis", "hiredis", "aiohttp", "msgpack", "uvloop", "pydantic")


@dataclass(frozen=True, slots=True)
class Bound:
    """What a figure must reach, and what would be fine. ``sense`` says on which side of it the figure has to be."""

    sense: Literal["<=", ">="]
    must: float
    stretch: float | None = None

    def verdict(self, value: float) -> str:
        """Return ``stretch``, ``met`` or ``missed``."""
        if self.stretch is not None and self._holds(value, self.stretch):
            return "stretch"
        return "met" if self._holds(value, self.must) else "missed"

    def _holds(self, value: float, limit: float) -> bool:
        return value <= limit if self.sense == "<=" else value >= limit

    def __str__(self) -> str:
        sign = "≤" if self.sense == "<=" else "≥"
        limits = [limit for limit in (self.must, self.stretch) if limit is not None]
        return " / ".join(f"{sign} {limit:g}" for limit in limits)


@dataclass(frozen=True, slots=True)
class Row:
    """One measure of one side in one setting, over all repeats."""

    setting: str
    side: str
    measure: str
    unit: str
    median: float
    low: float
    high: float
    repeats: int
    bound: Bound | None = None

    @property
    def verdict(self) -> str:
        """How the median stands to the bound; empty without one."""
        return "" if self.bound is None else self.bound.verdict(self.median)

    @classmethod
    def read(cls, data: dict[str, Any]) -> Self:
        """Read a row out of a report's JSON."""
        known = {name: value for name, value in data.items() if name not in ("bound", "verdict")}
        return cls(**known, bound=Bound(**data["bound"]) if data.get("bound") else None)

    def as_json(self) -> dict[str, Any]:
        """Return the row as it stands in a report's JSON."""
        return {**asdict(self), "verdict": self.verdict} if self.bound else asdict(self)


@dataclass
class Report:
    """The figures of one benchmark. ``name`` names the file, ``asked`` is the question that they answer."""

    name: str
    asked: str
    servers: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    comparisons: list[Row] = field(default_factory=list)
    packages: Sequence[str] = PACKAGES
    about: dict[str, Any] = field(default_factory=dict)
    """Machine, versions and date; filled in when the report is finished."""
    _values: dict[tuple[str, str, str], tuple[str, list[float]]] = field(default_factory=dict, repr=False)

    # -- adding ------------------------------------------------------------------------------------------------

    def add(self, setting: str, side: str, measure: str, unit: str, values: Iterable[float]) -> None:
        """Add what the repeats gave for one measure; the unit is part of what is shown, such as ``1/s`` or ``MB``."""
        taken = list(values)
        self._values[setting, side, measure] = (unit, taken)
        self.rows.append(_row(setting, side, measure, unit, taken))

    def ratio(self, setting: str, measure: str, ours: str, theirs: str, bound: Bound | None = None) -> None:
        """Compare two sides that were added: ours / theirs, repeat by repeat; infinite where theirs is not above 0."""
        _, pairs = self._pairs(setting, measure, ours, theirs)
        ratios = [our / their if their > 0 else float("inf") for our, their in pairs]
        self.comparisons.append(_row(setting, f"{ours} / {theirs}", measure, "×", ratios, bound))

    def difference(
        self, setting: str, measure: str, ours: str, theirs: str, bound: Bound | None = None
    ) -> None:
        """Compare two sides that were added: ours - theirs, repeat by repeat."""
        unit, pairs = self._pairs(setting, measure, ours, theirs)
        differences = [our - their for our, their in pairs]
        self.comparisons.append(_row(setting, f"{ours} - {theirs}", measure, unit, differences, bound))

    def hold(self, setting: str, measure: str, side: str, bound: Bound) -> None:
        """Hold one side that was added to a bound of its own."""
        unit, values = self._values[setting, side, measure]
        self.comparisons.append(_row(setting, side, measure, unit, values, bound))

    def _pairs(
        self, setting: str, measure: str, ours: str, theirs: str
    ) -> tuple[str, list[tuple[float, float]]]:
        unit, our_values = self._values[setting, ours, measure]
        _, their_values = self._values[setting, theirs, measure]
        return unit, list(zip(our_values, their_values, strict=True))

    # -- showing -----------------------------------------------------------------------------------------------

    def finish(self, out: Path) -> Path:
        """Print the tables, write ``NAME.json`` into ``out`` and return its path."""
        self.about = {**_machine(), "servers": list(self.servers), "packages": dict(_versions(self.packages))}
        print("\n".join(self.lines()), flush=True)
        out.mkdir(parents=True, exist_ok=True)
        path = out / f"{self.name}.json"
        path.write_text(json.dumps(self.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def as_json(self) -> dict[str, Any]:
        """Return what is written to the file."""
        return {
            "name": self.name,
            "asked": self.asked,
            "about": self.about,
            "notes": self.notes,
            "rows": [row.as_json() for row in self.rows],
            "comparisons": [row.as_json() for row in self.comparisons],
        }

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a report that was written."""
        data = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row.read(row) for row in data.pop("rows")]
        comparisons = [Row.read(row) for row in data.pop("comparisons")]
        return cls(**data, rows=rows, comparisons=comparisons)

    def lines(self) -> Iterator[str]:
        """Yield the report as lines for a terminal."""
        yield f"== {self.name}: {self.asked}"
        for setting in dict.fromkeys(row.setting for row in (*self.rows, *self.comparisons)):
            yield f"\n{setting}"
            yield from _table([row for row in self.rows if row.setting == setting])
            yield from _table([row for row in self.comparisons if row.setting == setting])
        yield ""
        yield from self.notes
        yield described(self.about)


def described(about: dict[str, Any]) -> str:
    """Return machine, versions and date in one line."""
    packages = ", ".join(f"{name} {number}" for name, number in about.get("packages", {}).items())
    parts = (
        *about.get("servers", ()),
        about.get("python"),
        about.get("build"),
        packages,
        about.get("machine"),
        about.get("date"),
    )
    return "; ".join(part for part in parts if part)


def number(value: float) -> str:
    """Return a figure with three digits that count, whole above a hundred."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.3f}"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        spread = f"{number(row.low)} .. {number(row.high)}"
        bound = f"{row.bound}: {row.verdict}" if row.bound else ""
        line = f"  {row.side:26} {row.measure:34} {number(row.median):>10} {row.unit:9} {spread:24} {bound}"
        yield line.rstrip()


def _row(
    setting: str, side: str, measure: str, unit: str, values: Sequence[float], bound: Bound | None = None
) -> Row:
    if not values:
        raise ValueError(f"{setting}, {side}, {measure}: no values")
    middle = statistics.median(values)
    return Row(setting, side, measure, unit, middle, min(values), max(values), len(values), bound)


def _machine() -> dict[str, str]:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        if line.startswith("model name")
    ]
    model = names[0] if names else platform.processor()
    return {
        "machine": f"{os.cpu_count()} CPUs, {model}, {platform.system()} {platform.release().partition('-')[0]}",
        "python": f"Python {platform.python_version()}, yardstick {nanoseconds_of_a_call():.0f} ns",
        "build": f"chatrelay {'compiled' if is_compiled() else 'as source'}",
        "date": datetime.now(UTC).date().isoformat(),
    }


def _versions(packages: Iterable[str]) -> Iterator[tuple[str, str]]:
    for name in packages:
        try:
            yield name, version(name)
        except PackageNotFoundError:
            continue
