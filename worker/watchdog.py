"""Tells when the event loop is blocked: then no lease is renewed, and other workers take this one's jobs.

A thread asks the loop for a sign of life, and looks some times per limit whether it has come. Where the loop's
thread stands while it has not come is the place to blame. Three troubles look alike from inside and are told apart:

- The thread was on time and the loop was not: the loop is **blocked**.
- The thread was late itself, and the process used no CPU: it **stood still**, stopped by a signal, by a machine that
  slept, or by one that had no time for it. No line of code is to blame.
- The thread was late itself, and the process was busy: native code **held the interpreter**, so that not even this
  thread could run.
"""

import asyncio
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from types import FrameType

import structlog

logger = structlog.get_logger("chatrelay.watchdog")

LOOKS = 5  # per limit: a blockage is told after at most 7/5 of it
FRAMES = 5  # of the loop's thread, the innermost ones
PATIENCE = 1.0  # seconds that the thread has to end: it may be writing to a log that nobody reads


@dataclass(frozen=True, slots=True)
class Blocked:
    """The loop gives no sign, for ``seconds`` by now."""

    seconds: float


@dataclass(frozen=True, slots=True)
class WasBlocked:
    """The loop runs again, after ``seconds``. ``told``: that it did not was told before."""

    seconds: float
    told: bool


@dataclass(frozen=True, slots=True)
class StoodStill:
    """Nothing of the process ran for ``seconds``."""

    seconds: float


@dataclass(frozen=True, slots=True)
class InterpreterHeld:
    """One thread let no other run for ``seconds``."""

    seconds: float


Finding = Blocked | WasBlocked | StoodStill | InterpreterHeld


class Watch:
    """What the looks of a thread at a loop add up to. Pure: it is told the time.

    ``now`` and ``answered_at`` are in seconds of a clock that never goes back, ``cpu`` is the seconds of processor
    time that the process has used.
    """

    def __init__(self, limit: float, *, now: float, cpu: float) -> None:
        self._limit = limit
        self._looked_at, self._cpu = now, cpu
        self._ask(now)

    def look(self, now: float, cpu: float, *, answered_at: float | None) -> Sequence[Finding]:
        """Return what is to be told now.

        ``answered_at`` is when the loop gave the sign that was asked for last, None if it has not yet. Once it has,
        the next one is asked for with this look.
        """
        gap, used = now - self._looked_at, cpu - self._cpu
        self._looked_at, self._cpu = now, cpu
        stood_still = used < gap / 2
        if stood_still:  # what the process missed as a whole, the loop is not to blame for
            self._missed += max(gap - self._limit / LOOKS, 0)
        own = self._own_absence(gap, stood_still=stood_still)
        loops = self._waits(now, own) if answered_at is None else self._answered(now, answered_at, own)
        return [finding for finding in (own, loops) if finding is not None]

    def _ask(self, now: float) -> None:
        self._asked_at = now
        self._missed = 0.0  # seconds since then in which the whole process stood still
        self._told = False

    def _own_absence(self, gap: float, *, stood_still: bool) -> Finding | None:
        if gap < self._limit:
            return None
        return StoodStill(gap) if stood_still else InterpreterHeld(gap)

    def _waits(self, now: float, own: Finding | None) -> Finding | None:
        self._told = self._told or isinstance(own, InterpreterHeld)
        seconds = now - self._asked_at
        if self._told or seconds - self._missed < self._limit:
            return None
        self._told = True
        return Blocked(seconds)

    def _answered(self, now: float, answered_at: float, own: Finding | None) -> Finding | None:
        seconds, missed, told = answered_at - self._asked_at, self._missed, self._told
        self._ask(now)
        was_blocked = told or (own is None and seconds - missed >= self._limit)
        return WasBlocked(seconds, told) if was_blocked else None


@asynccontextmanager
async def watch_the_loop(limit: float) -> AsyncGenerator[None]:
    """Log a warning whenever this event loop is blocked for ``limit`` seconds, as long as the context lasts."""
    watchdog = _Watchdog(limit, asyncio.get_running_loop())
    watchdog.start()
    try:
        yield
    finally:
        watchdog.stop()


class _Watchdog:
    def __init__(self, limit: float, loop: asyncio.AbstractEventLoop) -> None:
        self._limit = limit
        self._loop = loop
        self._loops_thread = threading.get_ident()
        self._answered_at: float | None = None
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chatrelay-watchdog", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE)

    def _run(self) -> None:
        watch = Watch(self._limit, now=_clock(), cpu=time.process_time())
        with suppress(RuntimeError):  # the loop was closed without this context being left
            self._loop.call_soon_threadsafe(self._answer)
            while not self._stopped.wait(self._limit / LOOKS):
                answered_at = self._answered_at
                for finding in watch.look(_clock(), time.process_time(), answered_at=answered_at):
                    self._tell(finding)
                if answered_at is not None:  # and not before: an answer on its way must not be lost
                    self._answered_at = None
                    self._loop.call_soon_threadsafe(self._answer)

    def _answer(self) -> None:
        self._answered_at = _clock()

    def _tell(self, finding: Finding) -> None:
        seconds = round(finding.seconds, 3)
        match finding:
            case Blocked():
                logger.warning("the event loop is blocked", seconds=seconds, where=self._place())
            case WasBlocked(told=True):
                logger.info("the event loop runs again", seconds=seconds)
            case WasBlocked():
                logger.warning("the event loop was blocked", seconds=seconds)
            case StoodStill():
                logger.warning("the whole process stood still", seconds=seconds)
            case InterpreterHeld():
                # The loop's thread is the likely holder, and stands just behind the call that held it.
                logger.warning("native code held the interpreter", seconds=seconds, where=self._place())

    def _place(self) -> list[str]:
        # There is no public way to another thread's frames; faulthandler writes them to a file only.
        frame = sys._current_frames().get(self._loops_thread)  # noqa: SLF001
        return [_named(inner) for inner in islice(_outwards(frame), FRAMES)]


def _outwards(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _named(frame: FrameType) -> str:
    """Name a place without its source text and its variables, which may hold secrets."""
    return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"


def _clock() -> float:
    # CLOCK_MONOTONIC leaves out the time in which the machine slept: the lease does not.
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()
