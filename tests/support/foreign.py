"""Provider classes that this project did not write: they import nothing of ours and derive from nothing."""

import asyncio
import os
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Messages = Sequence[Mapping[str, Any]]


class Reciter:
    """An async generator, the way most of them are written."""

    url = "https://verses.example"
    working = True
    supports_message_history = True
    models = ("verses", "verses-*")

    @classmethod
    async def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: int = 30,
        **kwargs: Any,
    ) -> AsyncGenerator[str]:
        for word in (model, messages[-1]["content"], str(kwargs.get("mood", "plain"))):
            yield f"{word} "


class _Pieces:
    """An async iterator and nothing more: it cannot be closed."""

    def __init__(self, pieces: Iterable[str]) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> "_Pieces":
        return self

    async def __anext__(self) -> str:
        for piece in self._pieces:
            return piece
        raise StopAsyncIteration


class Unclosable:
    """Returns an iterator that has no ``aclose``."""

    url = "https://pieces.example"
    working = True
    models = ("pieces",)

    @classmethod
    def create_async_generator(cls, model: str, messages: Messages, **kwargs: Any) -> _Pieces:
        return _Pieces(["one ", "two ", "three"])


class Resting:
    """Marked as not working, as many of them are after a while."""

    url = "https://resting.example"
    working = False
    models = ("rest",)

    @classmethod
    async def create_async_generator(
        cls, model: str, messages: Messages, **kwargs: Any
    ) -> AsyncGenerator[str]:
        yield "awake"


class Bare:
    """The one classmethod and no attribute."""

    @classmethod
    async def create_async_generator(
        cls, model: str, messages: Messages, **kwargs: Any
    ) -> AsyncGenerator[str]:
        yield "bare"


class Gated:
    """Says ``first``, waits at the gate that ``TEST_GATE`` names, then says ``second``.

    The gate is a FIFO that opens when the test opens it, or ``closed``, which never opens.
    """

    url = "https://gated.example"
    working = True
    models = ("gated",)

    @classmethod
    async def create_async_generator(
        cls, model: str, messages: Messages, **kwargs: Any
    ) -> AsyncGenerator[str]:
        yield "first "
        gate = os.environ.get("TEST_GATE", "")
        if gate == "closed":
            await asyncio.Event().wait()
        elif gate:
            await asyncio.to_thread(Path(gate).read_bytes)
        yield "second"


class Leaky:
    """Breaks with a secret in its words."""

    url = "https://leaky.example"
    working = True
    models = ("leaky",)

    @classmethod
    async def create_async_generator(
        cls, model: str, messages: Messages, **kwargs: Any
    ) -> AsyncGenerator[str]:
        yield "half an "
        raise RuntimeError("could not log in with hunter2")


class NoProvider:
    """Has not the shape of a provider."""


class Nowhere:
    """Knows no URL until it is told one."""

    url = None
    working = True
    models = ("nowhere",)

    @classmethod
    async def create_async_generator(
        cls, model: str, messages: Messages, base_url: str = "http://default", **_: Any
    ) -> AsyncGenerator[str]:
        yield base_url
