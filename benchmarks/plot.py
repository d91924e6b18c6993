"""Reports as pictures: one PNG beside each JSON. Needs matplotlib (the extra ``bench``); without it, says so.

python -m benchmarks.plot benchmarks/results
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import RESULTS, Report, Row, described, number

_COLUMNS = 3
_MISSING = "no plots: matplotlib is not installed (pip install 'chatrelay[bench]')"


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else RESULTS
    for path in draw_all(sorted(folder.glob("*.json"))):
        print(path)


def draw_all(paths: Sequence[Path]) -> list[Path]:
    """Draw the reports that were written to ``paths``; return the pictures' paths, none without matplotlib."""
    try:
        import matplotlib as mpl
    except ImportError:
        print(_MISSING)
        return []
    mpl.use("Agg")
    return [draw(path) for path in paths]


def draw(path: Path) -> Path:
    """Draw one report: a panel for each measure, a bar for each setting and side."""
    from matplotlib import pyplot as plt

    report = Report.load(path)
    panels = _panels(report)
    lines = -(-len(panels) // _COLUMNS)
    tallest = max(len(rows) for rows in panels.values())
    figure, axes = plt.subplots(
        lines, _COLUMNS, figsize=(6.5 * _COLUMNS, lines * (1.2 + 0.24 * tallest)), squeeze=False
    )
    colours = {side: f"C{index}" for index, side in enumerate(dict.fromkeys(row.side for row in report.rows))}
    for axis, (measure, rows) in zip(axes.flat, panels.items(), strict=False):
        _bars(axis, measure, rows, colours)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    figure.suptitle(f"{report.asked}\n{described(report.about)}", fontsize=8)
    figure.tight_layout()
    picture = path.with_suffix(".png")
    figure.savefig(picture, dpi=80)
    plt.close(figure)
    return picture


def _panels(report: Report) -> dict[str, list[Row]]:
    found: dict[str, list[Row]] = {}
    for row in report.rows:
        found.setdefault(f"{row.measure}, {row.unit}", []).append(row)
    return found


def _bars(axis: Any, title: str, rows: Sequence[Row], colours: Mapping[str, str]) -> None:
    places = range(len(rows))
    medians = [row.median for row in rows]
    errors = (
        [row.median - row.low for row in rows],
        [row.high - row.median for row in rows],
    )
    axis.barh(places, medians, xerr=errors, color=[colours[row.side] for row in rows], ecolor="0.4")
    axis.set_yticks(places, [f"{row.setting} · {row.side}" for row in rows], fontsize=7)
    axis.invert_yaxis()
    axis.margins(x=0.15)  # room for the figures
    axis.set_title(title, fontsize=9)
    if min(medians) > 0 and max(medians) / min(medians) > 50:
        axis.set_xscale("log")
    for place, row in zip(places, rows, strict=True):
        axis.annotate(
            f" {number(row.median)}", (row.high, place), fontsize=7, va="center", annotation_clip=False
        )


if __name__ == "__main__":
    main()
