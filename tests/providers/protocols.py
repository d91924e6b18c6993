"""What differs between the providers, so that one suite can hold them all to the same promises."""

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from worker.providers.acytoo import Acytoo
from worker.providers.base import AsyncGeneratorProvider, Messages, Part
from worker.providers.chatanywhere import ChatAnywhere
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.part_stream import PartStream

from .upstream import LAST_CHUNK, PATIENCE, chunk, head

QUESTION: Messages = [{"role": "user", "content": "Say something."}]


@dataclass(frozen=True)
class Protocol:
    """How one provider's service wraps an answer's text in bytes."""

    provider: type[AsyncGeneratorProvider]
    path: str
    content_type: str
    encode: Callable[[Sequence[str]], bytes]
    """The body of a complete answer, whose text came in these pieces."""

    def head(self, **headers: str) -> bytes:
        return head(content_type=self.content_type, **headers)

    def chunked(self, pieces: Iterable[bytes]) -> list[bytes]:
        """A response with every piece in an HTTP chunk, and a TCP segment, of its own."""
        return [self.head(transfer_encoding="chunked"), *map(chunk, pieces), LAST_CHUNK]

    def ask(self, base_url: str, **more: Any) -> AsyncGenerator[Part]:
        answer = self.provider.create_async_generator("any-model", QUESTION, base_url=base_url, **more)
        assert isinstance(answer, AsyncGenerator)
        return answer


def _plain(texts: Sequence[str]) -> bytes:
    return "".join(texts).encode()


def sse(*payloads: object) -> bytes:
    """Events with a payload each: a string as it is, anything else as JSON with its characters unescaped."""
    texts = (p if isinstance(p, str) else json.dumps(p, ensure_ascii=False) for p in payloads)
    return "".join(f"data: {text}\n\n" for text in texts).encode()


def delta(content: object = None, finish_reason: str | None = None, **more: object) -> dict[str, Any]:
    return {
        "choices": [{"index": 0, "delta": {"content": content, **more}, "finish_reason": finish_reason}],
    }


def _openai(texts: Sequence[str]) -> bytes:
    return sse(*map(delta, texts), delta(finish_reason="stop"), "[DONE]")


OPENAI = Protocol(OpenAICompatible, "/chat/completions", "text/event-stream", _openai)
ACYTOO = Protocol(Acytoo, "/api/completions", "text/plain; charset=utf-8", _plain)
CHATANYWHERE = Protocol(ChatAnywhere, "/v1/chat/gpt/", "text/plain", _plain)

OVER_HTTP = (OPENAI, ACYTOO, CHATANYWHERE)


is_poured = False
"""Whether `collect` lets the parts be handed over as they come, as a worker does."""


async def collect(answer: AsyncGenerator[Part]) -> list[Part]:
    async with asyncio.timeout(PATIENCE):
        if is_poured and isinstance(answer, PartStream):
            return await poured(answer)
        return [part async for part in answer]


async def poured(answer: PartStream, *, stops: int = 0) -> list[Part]:
    """Let all parts be handed over; no more are wanted for a moment, the first ``stops`` times that some are."""
    parts: list[Part] = []
    times = 0

    def take(some: list[Part]) -> bool:
        nonlocal times
        times += 1
        parts.extend(some)
        return times > stops

    try:
        while not await answer.pour(take):
            pass
    finally:
        await answer.aclose()
    return parts


def text_of(parts: Iterable[Part]) -> str:
    return "".join(part for part in parts if isinstance(part, str))
