"""A pipe that tells the workers that their supervisor is gone, however it went.

The supervisor holds the end to write to, and never writes; each worker has the other one as its standard input. When
the supervisor ends, be it by kill -9, the system closes its end, and the workers read the end of their input. A
signal at the parent's death would do the same on Linux alone, would miss a parent that died before the child
asked for it, and comes already when the thread that started the child ends.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

MARGIN = 20.0
"""Seconds beyond the grace time in which a worker hands back and takes its leave, Redis there or not."""


class Lifeline:
    """The supervisor's side: open for as long as it lives. No process that it starts inherits the end to write to."""

    def __init__(self) -> None:
        self.end, self._kept = os.pipe()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _: type[BaseException] | None, __: BaseException | None, ___: TracebackType | None
    ) -> None:
        os.close(self.end)
        os.close(self._kept)


def end_within(seconds: float) -> None:
    """Let this process end so many seconds from now at the latest, whatever still runs in it."""
    end = threading.Timer(seconds, _end)
    end.daemon = True
    end.start()


def before_a_forced_end(step: Callable[[], object]) -> None:
    """Take a step where `end_within` has to end the process, and no ``finally`` is met: what it started would stay."""
    _last_steps.append(step)


_last_steps: list[Callable[[], object]] = []


def _end() -> None:
    try:
        for step in _last_steps:
            step()
    finally:
        os._exit(1)


def when_cut(callback: Callable[[], None], leave_within: float) -> None:
    """Call ``callback``, once, in the running loop, when standard input ends: the worker's side.

    Nobody is left then who would kill a worker that does not stop, such as one whose provider keeps a thread waiting.
    So the process ends by itself ``leave_within`` seconds later, whatever still runs.
    """
    loop, fd = asyncio.get_running_loop(), sys.stdin.fileno()

    def look() -> None:
        if not os.read(fd, 1024):
            loop.remove_reader(fd)
            end_within(leave_within)
            callback()

    loop.add_reader(fd, look)
