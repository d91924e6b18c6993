"""The options that all the scripts here share."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import servers
from benchmarks.report import RESULTS

REPEATS = 3


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with ``--quick``, ``--repeats``, ``--server``, ``--only`` and ``--out``."""
    made = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(
        "--quick", action="store_true", help="a look in less than a minute; no figures to quote"
    )
    made.add_argument("--repeats", type=int, default=None, help=f"default {REPEATS}, with --quick 1")
    made.add_argument(
        "--server",
        action="append",
        choices=servers.available(),
        default=None,
        help="repeatable; default: all that this machine has, with --quick the first",
    )
    made.add_argument("--only", default="", metavar="TEXT", help="the parts whose names contain this")
    made.add_argument(
        "--out",
        type=Path,
        default=None,
        metavar="DIR",
        help="where the JSON goes; default: benchmarks/results, with --quick a new temporary folder",
    )
    return made


def parse(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line, with the defaults that depend on each other filled in."""
    given = made.parse_args(arguments)
    given.repeats = given.repeats or (1 if given.quick else REPEATS)
    given.server = given.server or servers.available()[: 1 if given.quick else None]
    given.out = given.out or (Path(tempfile.mkdtemp(prefix="benchmarks-")) if given.quick else RESULTS)
    return given


def again(given: argparse.Namespace) -> list[str]:
    """Return the arguments that say the same to another script."""
    quick = ["--quick"] if given.quick else []
    on = [part for name in given.server for part in ("--server", name)]
    return [*quick, "--repeats", str(given.repeats), *on, "--only", given.only, "--out", str(given.out)]
