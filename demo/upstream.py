"""An LLM service on loopback: it speaks each provider's protocol, streams with pauses, and keeps what it sent."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self, TypeVar

from aiohttp import web

from demo.questions import Answer

T = TypeVar("T", str, bytes)

_TEXT_PIECE = 4  # characters in an event
_BYTES_PIECE = 7  # bytes of plain text sent at once: cuts through the middle of many a character
_FIRST = 6  # pauses before the first piece, as a model that has to read the question


@dataclass(slots=True)
class Sent:
    """The bytes of an answer that went out."""

    text: bytearray = field(default_factory=bytearray)
    reasoning: bytearray = field(default_factory=bytearray)


class Upstream:
    """Answers what it knows. ``async with`` it; then it is at ``url``.

    Args:
        answers: what it says, by the question, which is the last message of the user.
        keys: the key that a service's caller has to show, by the first part of the path; absent: none.
        pause: seconds between two pieces.
    """

    def __init__(
        self, answers: Mapping[str, Answer], keys: Mapping[str, str], *, pause: float = 0.05
    ) -> None:
        self.sent: dict[str, Sent] = {}
        """For every question: what was sent, the last time that it was asked."""
        self.url = ""
        self._answers = answers
        self._keys = keys
        self._pause = pause

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/{service}/v1/chat/completions", self._openai)
        app.router.add_post("/api/completions", self._acytoo)
        app.router.add_post("/v1/chat/gpt/", self._chatanywhere)
        # Whoever still reads at the end is cut off.
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._runner.cleanup()

    def begin(self, question: str) -> Sent:
        """Open a new record of what is sent to ``question``."""
        self.sent[question] = Sent()
        return self.sent[question]

    # -- one handler for each protocol ---------------------------------------------------------------------

    async def _openai(self, request: web.Request) -> web.StreamResponse:
        key = self._keys.get(request.match_info["service"])
        if request.headers.get("Authorization") != (key and f"Bearer {key}"):
            return _refusal(401, "this key is not known here")
        body = await request.json()
        question = _last_question(body["messages"])
        if question not in self._answers:
            return _refusal(404, "no answer to this question")
        return await self._stream_events(request, body["model"], question)

    async def _acytoo(self, request: web.Request) -> web.StreamResponse:
        return await self._stream_text(request, (await request.json())["messages"])

    async def _chatanywhere(self, request: web.Request) -> web.StreamResponse:
        return await self._stream_text(request, (await request.json())["list"])

    # -- two ways to stream --------------------------------------------------------------------------------

    async def _stream_events(self, request: web.Request, model: str, question: str) -> web.StreamResponse:
        answer, sent = self._answers[question], self.begin(question)
        headers = {"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        async with _response(request, headers) as response:
            await response.write(b": the model reads the question\n\n")
            await response.write(_event(model, role="assistant", content=""))
            await self._wait(_FIRST)
            for piece in _cut(answer.reasoning, _TEXT_PIECE):
                await response.write(_event(model, reasoning_content=piece))
                sent.reasoning += piece.encode()
                await self._wait()
            for piece in _cut(answer.text, _TEXT_PIECE):
                await response.write(_event(model, content=piece))
                sent.text += piece.encode()
                await self._wait()
            await response.write(_event(model, finish_reason="stop"))
            await response.write(_usage(model, question, answer))
            await response.write(b"data: [DONE]\n\n")
        return response

    async def _stream_text(self, request: web.Request, messages: Any) -> web.StreamResponse:
        question = _last_question(messages)
        if question not in self._answers:
            return _refusal(404, "no answer to this question")
        data, sent = self._answers[question].text.encode(), self.begin(question)
        async with _response(request, {"Content-Type": "text/plain; charset=utf-8"}) as response:
            await self._wait(_FIRST)
            for piece in _cut(data, _BYTES_PIECE):
                await response.write(piece)
                sent.text += piece
                await self._wait()
        return response

    async def _wait(self, pauses: int = 1) -> None:
        await asyncio.sleep(pauses * self._pause)


@contextlib.asynccontextmanager
async def _response(request: web.Request, headers: Mapping[str, str]) -> AsyncIterator[web.StreamResponse]:
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    with contextlib.suppress(ConnectionResetError):  # the worker hung up: there is nobody left to tell
        yield response
        await response.write_eof()


def _last_question(messages: Sequence[Mapping[str, Any]]) -> str:
    return str(next(message["content"] for message in reversed(messages) if message["role"] == "user"))


def _cut(whole: T, size: int) -> Iterator[T]:
    for start in range(0, len(whole), size):
        yield whole[start : start + size]


def _event(model: str, *, finish_reason: str | None = None, **delta: str) -> bytes:
    return _chunk(model, choices=[{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def _usage(model: str, question: str, answer: Answer) -> bytes:
    # One token a word; a real service counts in a way of its own.
    prompt, completion = len(question.split()), len(f"{answer.reasoning} {answer.text}".split())
    usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return _chunk(model, choices=[], usage=usage)


def _chunk(model: str, **fields: Any) -> bytes:
    chunk = {"id": "chatcmpl-demo", "object": "chat.completion.chunk", "created": 0, "model": model, **fields}
    return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()


def _refusal(status: int, message: str) -> web.Response:
    return web.json_response({"error": {"message": message}}, status=status)
