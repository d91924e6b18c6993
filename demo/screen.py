"""What the demo shows: at a terminal all answers side by side as they stream, elsewhere plain lines."""

import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from demo.comparison import shorten, trouble_of
from demo.jobs import Track
from demo.upstream import Sent
from producer import Chunk, Done, Event, Queued, Started

_REFRESHES = 12  # a second
_PLAIN_WIDTH = 110  # columns, where there is no terminal
_BESIDES = 42  # columns that the live view needs besides the answers


class Screen:
    """Writes to ``file``; ``live`` where that is a terminal that can move its cursor."""

    def __init__(self, file: TextIO) -> None:
        terminal = file.isatty()
        # Variables such as FORCE_COLOR must not bring escape codes into a pipe, so nothing is left to guess.
        self._console = _Console(
            file=file,
            force_terminal=terminal,
            force_jupyter=False,
            color_system="auto" if terminal else None,
            width=None if terminal else _PLAIN_WIDTH,
            highlight=False,
            markup=False,
            emoji=False,
        )
        self.live = terminal and not self._console.is_dumb_terminal

    def say(self, line: str) -> None:
        """Print a line, however long."""
        self._console.print(_printable(line), soft_wrap=True)

    @contextlib.contextmanager
    def watching(self, tracks: Sequence[Track]) -> Iterator[None]:
        """Show the tracks while they change."""
        if not self.live:
            yield
            return
        with Live(
            get_renderable=lambda: self._side_by_side(tracks),
            console=self._console,
            refresh_per_second=_REFRESHES,
        ):
            yield

    def observe(self, track: Track, event: Event) -> None:
        """Without a live view: tell what happened, but not every chunk."""
        if self.live:
            return
        if what := _told(track, event):
            self.say(f"{track.age():5.2f} s  {track.question.provider:12}  {what}")

    def summary(self, tracks: Sequence[Track], sent: Mapping[str, Sent]) -> None:
        """Print the table of all jobs."""
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("PROVIDER")
        for heading in ("CHUNKS", "FIRST CHUNK", "TOTAL"):
            table.add_column(heading, justify="right")
        table.add_column("WORKER")
        table.add_column("TEXT")
        for track in tracks:
            times = (_seconds(track.first_chunk), _seconds(track.total))
            result = _result(track, sent.get(track.question.text))
            table.add_row(track.question.provider, str(track.chunks), *times, track.worker or "-", result)
        self.say("")
        self._console.print(table)
        self.say("")

    def _side_by_side(self, tracks: Sequence[Track]) -> Table:
        width = max(self._console.width - _BESIDES, 10)
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        table.add_column("", width=1)
        table.add_column("PROVIDER", width=12, no_wrap=True)
        table.add_column("WORKER", width=8, no_wrap=True)
        table.add_column("CHUNKS", width=6, justify="right")
        table.add_column("ANSWER", width=width, no_wrap=True)
        for track in tracks:
            mark, style = _mark(track)
            newest = (
                Text(tail(track.text, width)) if track.text else Text(tail(track.reasoning, width), "dim")
            )
            cells = (track.question.provider, track.worker, str(track.chunks))
            table.add_row(Text(mark, style), *cells, newest)
        return table


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Go on without a word when the reader has gone: the exit status still tells."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


def screen_on_stdout() -> Screen:
    """Return a screen on standard output, which may not know every character that the answers hold."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    return Screen(sys.stdout)


def tail(text: str, width: int) -> str:
    """Return the end of ``text`` that fits on one line of ``width`` columns."""
    # No character is wider than two columns nor, joined with others, than all of them: this is enough to look at.
    line = _printable(text[-4 * width :])
    while cell_len(line) > width:
        line = line[1:]
    return line


def _printable(text: str) -> str:
    """Keep what comes from outside from steering the terminal."""
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)


def _mark(track: Track) -> tuple[str, str]:
    if track.trouble is not None:
        return "✗", "red"
    if track.total is not None:
        return "✓", "green"
    return ("▸", "cyan") if track.worker else ("·", "dim")


def _told(track: Track, event: Event) -> str | None:
    match event:
        case Queued():
            return f"queued: {shorten(track.question.text)}"
        case Started(worker=worker, model=model):
            return f"started by {worker}" + (f", model {model}" if model else "")
        case Chunk() if track.chunks == 1:
            return "first chunk"
        case Done(finish_reason=reason):
            return f"done ({reason}): {track.chunks} chunks, {len(track.text)} characters"
    return track.trouble if event.terminal else None


def _result(track: Track, sent: Sent | None) -> str:
    if track.trouble is not None:
        return "failed"
    if track.total is None:
        return "not ended"
    if not track.question.compared:
        return "not compared"
    return "same as sent" if trouble_of(track, sent) is None else "DIFFERS"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"
