"""One timer for many futures that are given up after the same length of time.

``asyncio.timeout`` sets a timer for each call and cancels it again: that takes a producer as long as to encode a job.
"""

import asyncio
from collections import deque
from typing import Any


class SharedTimer:
    """Gives futures up ``seconds`` after they were handed over; one that is done by then is left alone.

    They are to become done in about the order in which they come, as replies do: those that are done are let go only
    from the beginning.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due: deque[tuple[float, asyncio.Future[Any]]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, future: "asyncio.Future[Any]") -> float:
        """Give it up in time; return when that will be, by the clock of its loop.

        Future raises:
            TimeoutError: its time was up.
        """
        self._let_go()
        loop = future.get_loop()
        due = loop.time() + self._seconds
        self._due.append((due, future))
        if self._timer is None:
            self._timer = loop.call_at(due, self._ring, loop)
        return due

    def _let_go(self) -> None:
        while self._due and self._due[0][1].done():
            self._due.popleft()

    def _ring(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        while self._due and (self._due[0][1].done() or self._due[0][0] <= now):
            _, future = self._due.popleft()
            if not future.done():
                future.set_exception(TimeoutError())
        self._timer = loop.call_at(self._due[0][0], self._ring, loop) if self._due else None
