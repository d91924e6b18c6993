"""Ending what talks to Redis: a task, or a step that lasts too long."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

_AGAIN_AFTER = 0.05  # seconds


async def end(*tasks: "asyncio.Task[Any]") -> None:
    """Cancel the tasks until they have ended; what they raise is theirs.

    Once may not be enough: before Python 3.12, ``asyncio.wait_for`` swallows a cancel that comes in the very step in
    which what it waits for completes (https://bugs.python.org/issue42130), and a library below may use it.
    """
    while running := [task for task in tasks if not task.done()]:
        for task in running:
            task.cancel()
        await asyncio.wait(running, timeout=_AGAIN_AFTER)
    await asyncio.gather(*tasks, return_exceptions=True)  # marks their exceptions as seen


async def within(seconds: float, step: Awaitable[T]) -> T:
    """Take a step that may last for so long. `asyncio.wait_for` may lose a cancel (Python 3.11).

    Raises:
        TimeoutError: it lasted longer.
    """
    async with asyncio.timeout(seconds):
        return await step
