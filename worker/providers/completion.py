"""A chat completion as OpenAI's services stream it: bytes in, parts out. No I/O."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from worker.providers.base import Finish, Part, Reasoning, Usage, content_text
from worker.providers.errors import Broken, Cut, ProviderError
from worker.providers.failures import kind_of, status_in
from worker.providers.loose_json import mapping_in, mappings_in, spoken_in, text_in, whole
from worker.providers.request import Request
from worker.providers.sse import EventStreamParser, ServerSentEvent
from worker.providers.tool_calls import ToolCalls

END_MARK = "[DONE]"

_MAX_SHOWN = 16 * 1024  # characters of an event that are looked through for what may be shown of it

_FAILED = frozenset({"error", "insufficient_system_resource"})
"""Finish reasons of an answer that was broken off: OpenRouter's, and DeepSeek's
(https://api-docs.deepseek.com/api/create-chat-completion)."""


class Completion:
    """What has come of one answer: bytes in, parts out."""

    __slots__ = (
        "_calls",
        "_has_held",
        "_has_refused",
        "_is_finished",
        "_parser",
        "_request",
        "_usage",
        "is_complete",
    )

    def __init__(self, request: Request) -> None:
        self.is_complete = False
        self._request = request
        self._parser = EventStreamParser()
        self._calls = ToolCalls()
        self._has_held = False
        self._has_refused = False
        self._usage: Usage | None = None
        self._is_finished = False

    def feed(self, data: bytes) -> Iterator[list[Part]]:
        """Yield the parts that ``data`` completes, up to the end mark, as one list; raise a failure only behind it.

        The list is empty where all that came is held until it is whole: also that is a sign of life.
        """
        parts: list[Part] = []
        failure: ProviderError | None = None
        self._has_held = False
        try:
            for event in self._parser.feed(data):
                self._read(event, parts)
                if self.is_complete:
                    break
        except ProviderError as error:
            failure = error
        if parts or self._has_held:
            yield parts
        if failure is not None:
            try:
                raise failure
            finally:
                del failure  # it holds this frame, and would be held by it

    def end(self) -> list[Part]:
        """Return what only the end makes complete.

        Raises:
            Cut: the end mark has not come.
        """
        if not self.is_complete and self._parser.unfinished().strip() != END_MARK:
            raise self._request.error(Cut, f"{self._request.host} ended its answer without {END_MARK}")
        parts: list[Part] = [*self._calls.take()]
        if self._usage is not None:
            parts.append(self._usage)
        return parts

    def _read(self, event: ServerSentEvent, parts: list[Part]) -> None:
        data = event.data.strip()
        if event.event == "error":
            raise self._failed(data, _error_in(data))
        if data == END_MARK:
            self.is_complete = True
        elif data:  # an empty event only keeps the connection alive
            chunk = self._decode(data)
            if text := _lone_text(chunk):
                parts.append(text)
            else:
                self._read_chunk(chunk, parts, data)

    def _decode(self, data: str) -> Mapping[str, Any]:
        try:
            chunk = orjson.loads(data)
        except (ValueError, RecursionError):
            chunk = self._decode_leniently(data)
        if not isinstance(chunk, dict):
            raise self._broken("sent an event that is not a JSON object", data)
        if error := chunk.get("error"):
            raise self._failed(data, error)
        return chunk

    def _decode_leniently(self, data: str) -> Any:
        # orjson refuses what the standard library takes, such as one half of a surrogate pair.
        try:
            return json.loads(data, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise self._broken("sent an event that is not JSON", data) from error

    def _broken(self, what: str, data: str) -> ProviderError:
        return self._request.error(
            Broken, f"{self._request.host} {what}: {self._request.summary(data[:_MAX_SHOWN])}"
        )

    def _failed(self, data: str, error: object) -> ProviderError:
        """Make the error for one that was reported inside the answer: it may say which status it would have had."""
        status = status_in(error)
        kind = Broken if status is None else kind_of(status, wait=None, error=error)
        text = f"{self._request.host} reported an error inside its answer: {self._request.summary(data[:_MAX_SHOWN])}"
        return self._request.error(kind, text)

    def _read_chunk(self, chunk: Mapping[str, Any], parts: list[Part], data: str) -> None:
        if chunk.get("object") == "error":  # as vLLM reported them before it named them `error`
            raise self._failed(data, chunk)
        if (counts := chunk.get("usage")) and (usage := _usage(counts)):
            self._usage = usage  # some services send a running count: the last one stands
        for choice in mappings_in(chunk.get("choices")):
            if choice.get("index") in (0, None):
                self._read_choice(choice, parts)
                if choice.get("error") or text_in(choice.get("finish_reason")) in _FAILED:
                    raise self._failed(data, choice.get("error"))

    def _read_choice(self, choice: Mapping[str, Any], parts: list[Part]) -> None:
        delta = mapping_in(choice.get("delta"))
        self._read_texts(delta, parts)
        if pieces := delta.get("tool_calls"):
            self._hold_calls(mappings_in(pieces))
        if call := mapping_in(delta.get("function_call")):  # what there was before tools, and is served still
            self._hold_calls([{"index": 0, "function": call}])
        if (
            (reason := text_in(choice.get("finish_reason")))
            and not self._is_finished
            and reason not in _FAILED
        ):
            self._is_finished = True
            parts += self._calls.take()
            parts.append(Finish("refusal" if self._has_refused and reason == "stop" else whole(reason)))

    def _read_texts(self, delta: Mapping[str, Any], parts: list[Part]) -> None:
        # A surrogate pair that the service split between two deltas comes out as two lone halves;
        # whoever joins chunks joins them, a provider does not hold text back.
        content = delta.get("content")
        reasoning = spoken_in(delta.get("reasoning_content")) or spoken_in(delta.get("reasoning"))
        if reasoning := reasoning or _thinking_in(content):
            parts.append(Reasoning(reasoning))
        if text := spoken_in(content) or content_text(content):
            parts.append(text)
        if refusal := text_in(delta.get("refusal")):
            self._has_refused = True
            parts.append(refusal)

    def _hold_calls(self, pieces: list[Mapping[str, Any]]) -> None:
        self._calls.add(pieces)
        self._has_held = self._has_held or bool(pieces)
        if self._calls.are_without_end:
            raise self._request.error(Broken, f"{self._request.host} sent tool calls without end")


def _lone_text(chunk: Mapping[str, Any]) -> str:
    """Return the text of a chunk that carries text and nothing else, as nearly all do; '' for any other.

    It is a short cut: `Completion._read_chunk` would find the same, at four times the cost.
    """
    choices = chunk.get("choices")
    if chunk.get("usage") or not isinstance(choices, list) or len(choices) != 1:
        return ""
    choice = choices[0]
    if not isinstance(choice, dict) or choice.get("index") not in (0, None):
        return ""
    if choice.get("finish_reason") or choice.get("error"):
        return ""
    delta = choice.get("delta")
    if not isinstance(delta, dict) or len(delta) != 1:
        return ""
    return text_in(delta.get("content"))


def _thinking_in(content: object) -> str:
    """Return the reasoning that stands among the parts of a content, where Mistral puts it."""
    parts = [part for part in mappings_in(content) if part.get("type") == "thinking"]
    return "".join(content_text(part.get("thinking")) for part in parts)


def _error_in(data: str) -> object:
    try:
        value = mapping_in(orjson.loads(data))
    except (ValueError, RecursionError):
        return None
    return value.get("error") or value


def _usage(value: object) -> Usage | None:
    # Through JSON once more, so that neither a lone surrogate nor a number of any length hides in what nobody
    # looks into.
    try:
        counts = json.loads(whole(json.dumps(mapping_in(value), ensure_ascii=False)), parse_int=_integer)
    except RecursionError:  # orjson goes deeper than the standard library
        return None
    given, made = counts.pop("prompt_tokens", None), counts.pop("completion_tokens", None)
    if not isinstance(given, int) and not isinstance(made, int):
        return None
    return Usage(_count(given), _count(made), counts)


def _count(value: object) -> int:
    return max(value, 0) if isinstance(value, int) else 0


def _integer(digits: str) -> int | float:
    # A number that no counter reaches would not fit into an event.
    return int(digits) if len(digits) <= 18 else float(digits)
