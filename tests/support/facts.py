"""Waiting for a fact that nobody tells of: it is looked for until it is there."""

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

PATIENCE = 15.0  # seconds after which a fact that did not come is a failed test
_LOOK_INTERVAL = 0.005  # seconds


async def until(fact: Callable[[], Any]) -> Any:
    """Look until ``fact`` returns, or its awaitable becomes, something true; return that."""
    async with asyncio.timeout(PATIENCE):
        while True:
            found = fact()
            if inspect.isawaitable(found):
                found = await found
            if found:
                return found
            await asyncio.sleep(_LOOK_INTERVAL)
