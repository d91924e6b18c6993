"""Stops one running answer, once, for one reason."""

import asyncio
from typing import Any

from worker.outcome import CancelAsked, Failure, Lost, Released

_CANCEL_AGAIN = 0.3  # seconds that a provider has to close its call
_CLOSE_TIMEOUT = 0.8  # seconds: a cancelled job is to be terminal within one

Reason = CancelAsked | Released | Lost | Failure


class Stop:
    """A running answer's way to be stopped, and the reason it was."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.reason: Reason | None = None
        self._turned: asyncio.Future[None] = loop.create_future()

    def now(self, reason: Reason) -> None:
        """Stop the answer, if it has not ended; the first reason counts."""
        if not self._turned.done():
            self.reason = reason
            self._turned.set_result(None)

    def ended(self, _: object = None) -> None:
        """Take notice of the answer's end: there is nothing to stop any more."""
        if not self._turned.done():
            self._turned.set_result(None)

    async def wait(self, task: "asyncio.Task[Any]") -> bool:
        """Wait for the end of the answer's task, stopping it when that is asked; False if it would not be stopped."""
        await self._turned
        return task.done() or await _end(task)


async def _end(task: "asyncio.Task[Any]") -> bool:
    # Again and again: a provider, or a library below it, may swallow a cancel.
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + _CLOSE_TIMEOUT
    while not task.done() and loop.time() < give_up_at:
        task.cancel()
        await asyncio.wait([task], timeout=_CANCEL_AGAIN)
    return task.done()
