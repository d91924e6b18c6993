"""Results as lines of text."""

from collections.abc import Sequence

from worker.verify.matrix import Result

_HEAD = ("FAULT", "WORKERS", "JOBS", "RESULT", "RECOVERED AFTER")
_WIDTHS = (42, 8, 5, 18, 15)
_SHOWN = 5
"""Violations of one cell that are shown."""


def head() -> str:
    """Return the table's first line."""
    return _line(_HEAD)


def row(result: Result) -> str:
    """Return a cell's line, and below it what was violated."""
    count = len(result.violations)
    verdict = "ok" if not count else f"{count} violation{'s' if count > 1 else ''}"
    recovery = "-" if result.recovery is None else f"{result.recovery:.2f} s"
    cells = (result.fault, str(result.workers), str(result.jobs), verdict, recovery)
    return "\n".join([_line(cells), *(f"    {violation}" for violation in _shown(result.violations))])


def _shown(violations: Sequence[str]) -> list[str]:
    more = len(violations) - _SHOWN
    return [*violations[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]


def _line(cells: Sequence[str]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, _WIDTHS, strict=True)).rstrip()
