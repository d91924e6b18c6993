"""What is shown at a terminal: text from elsewhere that does nothing to it, and columns."""

import io
import sys
from collections.abc import Sequence

_CONTROLS = [*range(0x20), *range(0x7F, 0xA0)]
_HARMLESS = {ord("\n"), ord("\t")}
_SHOWN = {code: "\N{REPLACEMENT CHARACTER}" for code in _CONTROLS if code not in _HARMLESS} | {
    ord("\r"): None
}
_ESCAPED = {code: f"\\u{code:04x}" for code in range(0x7F, 0xA0)}


def take_any_text() -> None:
    """Let standard output take characters that its encoding lacks: as escapes, which is better than to break off."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def harmless(text: str) -> str:
    """Return what a model said as it may go to standard output.

    A terminal is not to take it for commands: to set its title, to fill the clipboard. A file or a pipe gets all of it.
    """
    return text.translate(_SHOWN) if sys.stdout.isatty() else text


def in_one_line(text: str) -> str:
    """Return text from elsewhere in one line, without what a terminal takes for commands."""
    return "".join(char if char.isprintable() else " " for char in text)


def escaped(json_text: str) -> str:
    """Return JSON without the control characters that it may hold as they are."""
    return json_text.translate(_ESCAPED)


def columns(*rows: Sequence[str]) -> str:
    """Return rows of cells below each other. No cell is cut: whoever is shown an id wants to copy it."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    return "\n".join(lines)
