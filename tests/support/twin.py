"""The blocking twin, seen from behind: what runs in its thread; and a small job to read through it."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from producer import Chunk, Done, Queued, Started
from producer.blocking import Producer
from tests.support.processes import PATIENCE

JOB = "job-1"
QUEUED = Queued("0-1", "default")
STARTED = Started("100-0", 1, "echo", "w1")
WHOLE = [QUEUED, STARTED, Chunk("100-1", "one "), Chunk("100-2", "two"), Done("100-3", "stop", 7)]

LISTENER = {"chatrelay-listener", "chatrelay-listener-speak", "chatrelay-listener-listen"}
"""The tasks that stay when nobody reads."""


def inside(blocking: Producer, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Await ``work()`` in the Producer's thread."""
    return blocking._session.thread.wait(work)


async def tasks() -> set[str]:
    """Return the names of the tasks in this loop, but for the caller's."""
    return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}


async def until(fact: Callable[[], object]) -> None:
    """Return once ``fact()`` holds: for what another thread does, which no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)
