"""Where a key stands in a TOML text: the standard parser tells no lines."""

import tomllib
from collections.abc import Sequence
from typing import Any

Path = tuple[str, ...]


def line_of(text: str, path: Sequence[str]) -> int:
    """Return the line, counted from 1, of the key at ``path``, or of the nearest table above it that is written."""
    best_line, best_depth = 1, 0
    table: Path = ()
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("["):
            table = here = _path_in(line)
        else:
            key = _path_in(f"{line.partition('=')[0]} = 0") if "=" in line else ()
            here = (*table, *key) if key else ()
        if len(here) > best_depth and here == tuple(path[: len(here)]):
            best_line, best_depth = number, len(here)
    return best_line


def _path_in(line: str) -> Path:
    """Return the path that a line opens, read by the parser itself; empty for a line within a longer value."""
    try:
        value: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while isinstance(value, dict) and len(value) == 1:
        ((key, value),) = value.items()
        path.append(key)
        if isinstance(value, list):  # [[an array of tables]]
            value = value[0]
    return tuple(path)
