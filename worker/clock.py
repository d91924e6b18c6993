"""The limits on an answer's time. A chunk only leaves its instant behind, and what is over soon sets no timer."""

import asyncio
import contextlib
from collections.abc import Iterator
from functools import cached_property
from typing import Self

from worker.providers.errors import TimedOut
from worker.providers.provider import Timeouts

_CANCEL_AGAIN = 0.3  # seconds after which a task that did not heed its cancel is cancelled again
_SHORTEST_LOOK = 0.05  # seconds between two looks at the time: a limit may be passed by as much
_SOON = 0.02
"""Seconds: no clock waits longer for its timer, and one that may have to ring earlier gets it at once."""


class Clocks:
    """The clocks of a worker. They get their timers together, a moment after they started, if they still run by then.

    To set a timer and to cancel it takes longer than all else about a clock.
    """

    def __init__(self) -> None:
        self._new: list[Clock] = []

    @cached_property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop in which all of them run; asked for once, because that takes a system call (Python 3.11)."""
        return asyncio.get_running_loop()

    def of(self, timeouts: Timeouts) -> "Clock":
        """Return a clock for an answer that begins now."""
        return Clock(timeouts, self)

    def set_later(self, clock: "Clock") -> None:
        """Set its timer in a moment, if it still runs by then."""
        if not self._new:
            self.loop.call_later(_SOON, self._set_all)
        self._new.append(clock)

    def _set_all(self) -> None:
        clocks, self._new = self._new, []
        for clock in clocks:
            clock.set()


class Clock:
    """The limits on an answer: until its first chunk, between chunks, in all. Inside, the task is in time.

    A chunk only leaves its instant behind; the one timer looks at it when it rings, and is set again where there is
    time left. Setting it anew for each chunk would cost more than the chunk does. A task that swallows the cancel is
    cancelled again until it leaves.

    Raises, on leaving:
        TimedOut: time was up.
    """

    __slots__ = (
        "_cancelled_by_others",
        "_clocks",
        "_end",
        "_loop",
        "_runs",
        "_started",
        "_task",
        "_timeouts",
        "_timer",
        "_times_rung",
        "_waits_since",
    )

    def __init__(self, timeouts: Timeouts, clocks: Clocks) -> None:
        self._timeouts = timeouts
        self._clocks = clocks
        self._loop = clocks.loop
        self._waits_since = self._loop.time()
        self._end = self._waits_since + timeouts.total
        self._started = False
        self._runs = False
        self._timer: asyncio.TimerHandle | None = None
        self._times_rung = 0

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        assert task is not None, "a coroutine runs in a task"
        self._task = task
        self._cancelled_by_others = task.cancelling()
        self._runs = True
        if self._timeouts.first_chunk < _SOON or self._timeouts.total < _SOON:
            self.set()
        else:
            self._clocks.set_later(self)
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._unset()
        for _cancel in range(self._times_rung):
            left = self._task.uncancel()
        # Whoever else cancelled the task meanwhile is to be heard. An answer that ends without a word when its time
        # is up, because its provider swallowed the cancel, is cut.
        if self._times_rung and left <= self._cancelled_by_others and kind in (asyncio.CancelledError, None):
            raise TimedOut(self._what_took_too_long())

    def expect_next(self) -> None:
        """Note that something came, and begin to wait for what comes next.

        Raises:
            TimedOut: time was up, and the task did not heed it.
        """
        if self._times_rung:
            raise TimedOut(self._what_took_too_long())
        self._started = True
        self._waits_since = self._loop.time()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """While inside, no time passes."""
        since = self._loop.time()
        self._unset()
        yield
        stood_for = self._loop.time() - since
        self._end += stood_for
        self._waits_since += stood_for
        self._runs = True
        self.set()

    def of_its_own(self, seconds: float) -> "Clock":
        """Return another clock, for a step that may take so long."""
        return Clock(Timeouts(seconds, seconds, seconds, seconds), self._clocks)

    def set(self) -> None:
        """Set the timer, if the clock runs and has none."""
        if self._runs and self._timer is None:
            self._set()

    @property
    def _due(self) -> float:
        most = self._timeouts.between_chunks if self._started else self._timeouts.first_chunk
        return min(self._waits_since + most, self._end)

    def _set(self) -> None:
        # No later than it may have to: whatever comes before then moves the instant, and not the timer. A job may name
        # a gap of no length: looking as often would leave the loop no rest until the first chunk.
        soonest = min(self._due, self._loop.time() + max(self._timeouts.between_chunks, _SHORTEST_LOOK))
        self._timer = self._loop.call_at(soonest, self._ring)

    def _unset(self) -> None:
        self._runs = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _ring(self) -> None:
        if self._loop.time() < self._due:
            self._set()
            return
        self._times_rung += 1
        self._task.cancel()
        self._timer = self._loop.call_later(_CANCEL_AGAIN, self._ring)

    def _what_took_too_long(self) -> str:
        if self._loop.time() >= self._end:
            return f"the answer was not whole within {self._timeouts.total:g} s"
        if self._started:
            return f"no further chunk came within {self._timeouts.between_chunks:g} s"
        return f"no first chunk came within {self._timeouts.first_chunk:g} s"
