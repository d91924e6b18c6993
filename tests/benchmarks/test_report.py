import json
import re
from pathlib import Path

import pytest

from benchmarks import page
from benchmarks.figures import percentile
from benchmarks.report import RESULTS, Bound, Report, number


@pytest.fixture
def report() -> Report:
    made = Report("relay", "What does it cost?", servers=["a server"], notes=["a note"])
    made.add("fast", "naive", "chunks", "1/s", [10, 30, 20])
    made.add("fast", "chatrelay", "chunks", "1/s", [200, 300, 800])
    return made


def test_a_row_has_the_median_and_what_the_repeats_spread_over(report: Report) -> None:
    row = report.rows[0]
    assert (row.median, row.low, row.high, row.repeats, row.unit) == (20, 10, 30, 3, "1/s")


def test_a_ratio_is_taken_repeat_by_repeat(report: Report) -> None:
    report.ratio("fast", "chunks", "chatrelay", "naive")
    ratio = report.comparisons[0]
    assert (ratio.side, ratio.median, ratio.low, ratio.high) == ("chatrelay / naive", 20, 10, 40)


def test_a_difference_keeps_its_unit(report: Report) -> None:
    report.difference("fast", "chunks", "chatrelay", "naive")
    assert (report.comparisons[0].median, report.comparisons[0].unit) == (270, "1/s")


def test_sides_with_unlike_repeats_cannot_be_paired(report: Report) -> None:
    report.add("fast", "drop", "chunks", "1/s", [1])
    with pytest.raises(ValueError, match="zip"):
        report.ratio("fast", "chunks", "chatrelay", "drop")


def test_a_measure_without_values_is_refused(report: Report) -> None:
    with pytest.raises(ValueError, match="fast, drop, chunks: no values"):
        report.add("fast", "drop", "chunks", "1/s", [])


@pytest.mark.parametrize(
    ("bound", "value", "verdict"),
    [
        (Bound(">=", 15, 28), 28, "stretch"),
        (Bound(">=", 15, 28), 27.9, "met"),
        (Bound(">=", 15, 28), 14.9, "missed"),
        (Bound("<=", 10, 5), 5, "stretch"),
        (Bound("<=", 10, 5), 10, "met"),
        (Bound("<=", 10, 5), 10.1, "missed"),
        (Bound("<=", 10), 1, "met"),
    ],
)
def test_a_bound_says_how_a_figure_stands_to_it(bound: Bound, value: float, verdict: str) -> None:
    assert bound.verdict(value) == verdict


def test_a_missed_bound_is_shown(report: Report) -> None:
    report.hold("fast", "chunks", "chatrelay", Bound(">=", 1000))
    assert any(line.endswith("≥ 1000: missed") for line in report.lines())


def test_a_report_is_read_as_it_was_written(
    report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report.ratio("fast", "chunks", "chatrelay", "naive", Bound(">=", 15, 28))
    path = report.finish(tmp_path)
    read = Report.load(path)
    assert (read.rows, read.comparisons, read.about) == (report.rows, report.comparisons, report.about)
    assert capsys.readouterr().out == "\n".join(read.lines()) + "\n"
    assert json.loads(path.read_text())["comparisons"][0]["verdict"] == "met"


def test_a_report_says_how_fast_python_was_there(report: Report, tmp_path: Path) -> None:
    report.finish(tmp_path)
    assert re.fullmatch(r"Python [\d.]+\S*, yardstick [1-9]\d* ns", report.about["python"])


@pytest.mark.parametrize(
    ("value", "shown"), [(0, "0"), (12_345.6, "12,346"), (42.06, "42.1"), (1.234, "1.23"), (0.0123, "0.012")]
)
def test_figures_are_shown_with_the_digits_that_count(value: float, shown: str) -> None:
    assert number(value) == shown


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2), (0.99, 4), (0.0, 1), (1.0, 4)])
def test_a_percentile_is_a_value_that_was_measured(share: float, expected: float) -> None:
    assert percentile([4, 2, 1, 3], share) == expected


# -- the page --------------------------------------------------------------------------------------------------


def test_the_page_shows_what_the_committed_results_give() -> None:
    text = page.PAGE.read_text(encoding="utf-8")
    assert page.renewed(text, RESULTS) == text, "run python -m benchmarks.page"


def test_what_is_written_by_hand_stays_and_what_was_generated_goes(report: Report, tmp_path: Path) -> None:
    report.ratio("fast", "chunks", "chatrelay", "naive", Bound(">=", 15, 28))
    report.finish(tmp_path)
    renewed = page.renewed(f"# By hand\n{page.BEGIN}\nold\n{page.END}\nthe end\n", tmp_path)
    assert renewed.startswith("# By hand\n")
    assert renewed.endswith("\nthe end\n")
    assert "old" not in renewed
    assert (
        "| fast | chunks | chatrelay / naive | 20.0 × | 10.0 … 40.0 | ≥ 15 / ≥ 28 | met |"
        in renewed.splitlines()
    )
    assert "| fast | 20.0 (10.0 … 30.0) | 300 (200 … 800) |" in renewed.splitlines()
    assert page.renewed(renewed, tmp_path) == renewed


def test_a_page_without_its_marks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no part between"):
        page.renewed("# By hand\n", tmp_path)
