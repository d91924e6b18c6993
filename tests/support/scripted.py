"""Providers of the gpt4free shape that do, call by call, what a test has written down."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from worker.providers.base import Part
from worker.providers.provider import Provider
from worker.providers.registry import Registry

Step = Part | BaseException | asyncio.Event
"""It is said, or raised, or waited for."""


@dataclass
class Call:
    """What one call was given, and whether it is over."""

    model: str
    messages: Sequence[Any]
    closed: bool = False


class Scripted:
    """One provider. Its first call takes the first line's steps, and so on; the last line is for all further calls."""

    def __init__(self, name: str, *lines: Sequence[Step], has_memory: bool = True, **settings: Any) -> None:
        """``has_memory``: it looks at the whole conversation. ``settings`` are those of a `Provider`."""
        self.name = name
        self.calls: list[Call] = []
        self.waits = asyncio.Event()
        """Set once a call has come to a step that it waits at."""
        self._lines = lines
        shape = {
            "working": True,
            "supports_message_history": has_memory,
            "create_async_generator": staticmethod(self._answer),
        }
        cls = type("Scripted", (), shape)
        self.provider = Provider(name, "scripted", cls, "", True, (f"{name}-model",), **settings)

    async def _answer(self, model: str, messages: Sequence[Any], **_: Any) -> AsyncIterator[Any]:
        line = self._lines[min(len(self.calls), len(self._lines) - 1)]
        call = Call(model, messages)
        self.calls.append(call)
        try:
            for step in line:
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    self.waits.set()
                    await step.wait()
                else:
                    yield step
        finally:
            call.closed = True


def registry(*providers: Scripted) -> Registry:
    """Return a registry of these."""
    return Registry([scripted.provider for scripted in providers])
