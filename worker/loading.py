"""Loading packages, when a process starts: only what is needed, and nothing else meanwhile."""

import gc
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

_COLLECTED_AFTER = (20_000, 20, 50)
"""Thresholds of the garbage collector. Nearly all that a job needs is freed without it, and a full collection beside
500 running streams stands still for 40 ms; so it looks less often than for every 700 objects more."""

_NEEDED = ("aiohttp", "structlog", "typer")


def check_packages() -> None:
    """Look for what a worker is made of before anything is done: much of it is loaded only when it is needed.

    Raises:
        ModuleNotFoundError: names the package that is not installed.
    """
    for package in _NEEDED:
        if find_spec(package) is None:
            raise ModuleNotFoundError(f"{package} is not installed", name=package)


@contextmanager
def quickly() -> Iterator[None]:
    """Load what is imported within in less time.

    Modules, classes and functions stay for good: the garbage collector would go through ever more of them and find
    nothing, which takes an eighth of the time. From here on it leaves them alone.
    """
    gc.disable()
    try:
        _load_structlog()
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*_COLLECTED_AFTER)
        gc.enable()


def _load_structlog() -> None:
    """Load structlog as if there were no rich.

    It would load that to draw tracebacks, which are plain text in our log lines: a tenth of a worker's start, and
    5 MB. Others find it as ever.
    """
    if {"rich", "structlog"} & sys.modules.keys():
        return
    sys.modules["rich"] = None  # type: ignore[assignment]  # an import is told by this that there is none
    try:
        importlib.import_module("structlog")
    finally:
        del sys.modules["rich"]
