"""Echo: says back what it was told. No network, no key: for first steps, demos and tests."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from worker.providers.base import AsyncGeneratorProvider, Finish, Messages, Part, content_text, refuse_options
from worker.providers.errors import BadRequest

MAX_CHUNK_SIZE = 1_048_576  # characters
MAX_DELAY = 60.0  # seconds


class Echo(AsyncGeneratorProvider):
    """Answers with the text of the last user message, in pieces."""

    working = True
    supports_message_history = True
    models = ("echo",)

    @classmethod
    async def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: float = 120,
        temperature: float = 0.5,
        *,
        chunk_size: int = 4,
        delay: float = 0,
        **options: Any,
    ) -> AsyncGenerator[Part]:
        """Yield pieces of ``chunk_size`` characters, ``delay`` seconds apart, then ``Finish("stop")``."""
        refuse_options(cls.__name__, options)
        if not _is_number(chunk_size, int) or not 1 <= chunk_size <= MAX_CHUNK_SIZE:
            raise BadRequest(f"Echo: chunk_size must be a whole number from 1 to {MAX_CHUNK_SIZE}")
        if not _is_number(delay, int, float) or not 0 <= delay <= MAX_DELAY:
            raise BadRequest(f"Echo: delay must be a number of seconds from 0 to {MAX_DELAY:g}")
        text = _last_user_text(messages)
        for start in range(0, len(text), chunk_size):
            if start:
                await asyncio.sleep(delay)
            yield text[start : start + chunk_size]
        yield Finish("stop")


def _is_number(value: object, *kinds: type) -> bool:
    return isinstance(value, kinds) and not isinstance(value, bool)


def _last_user_text(messages: Messages) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return content_text(message.get("content"))
    raise BadRequest("Echo: there is no message with the role user")
