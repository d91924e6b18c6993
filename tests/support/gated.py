"""Providers of the gpt4free shape whose pace the test decides."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from worker.providers.provider import Provider, Timeouts
from worker.providers.registry import Registry


class Gate:
    """What a test knows of, and decides about, the calls to one provider."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.calls = 0
        self.closed = 0
        self.open_calls = 0
        self.called = asyncio.Event()
        self.first_chunk_out = asyncio.Event()


def gated_registry(gate: Gate, *, name: str = "gated", timeouts: Timeouts | None = None) -> Registry:
    """Return a registry with one provider: it yields ``one``, waits for the gate, then yields ``two``."""

    class Gated:
        url = "http://gated"
        working = True
        models = ("gated-model",)

        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> AsyncIterator[str]:
            gate.calls += 1
            gate.open_calls += 1
            gate.called.set()
            try:
                yield "one "
                gate.first_chunk_out.set()
                await gate.open.wait()
                yield "two"
            finally:
                gate.open_calls -= 1
                gate.closed += 1

    provider = Provider(name, "gated", Gated, Gated.url, True, Gated.models, timeouts=timeouts or Timeouts())
    return Registry([provider])
