"""What the scripts here have in common: how figures are taken and shown."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path


def percentile(seconds: Sequence[float], share: float) -> float:
    """Return the value that this share of all does not exceed."""
    ordered = sorted(seconds)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def quantile(values: Sequence[float], percent: int) -> float:
    """Return the value that so many percent of all do not exceed, interpolated between the two next to it."""
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def spread(seconds: Sequence[float]) -> str:
    """Return median, p99 and maximum, in milliseconds."""
    shown = (percentile(seconds, 0.5), percentile(seconds, 0.99), max(seconds))
    return "p50 {:.0f} ms, p99 {:.0f} ms, max {:.0f} ms".format(*(1000 * value for value in shown))


def memory(pid: int | str = "self") -> float:
    """Return what a process holds in memory at this moment, in MB (Linux)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"process {pid} tells nothing of its memory")


def verdict(violations: Sequence[str]) -> int:
    """Print what the checker found, and return the exit status."""
    print(f"violations: {len(violations)}")
    for violation in violations[:20]:
        print(f"    {violation}")
    return 1 if violations else 0
