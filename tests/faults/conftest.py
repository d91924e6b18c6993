"""The table of the matrix, at the end of the run: how long it took to recover is a figure, not a test."""

import pytest

from worker.verify import table
from worker.verify.matrix import Result

RESULTS: list[Result] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if RESULTS:
        terminalreporter.section("faults")
        for line in (table.head(), *map(table.row, RESULTS)):
            terminalreporter.write_line(line)
