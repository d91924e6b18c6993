"""A chat completion as OpenAI's services stream it: bytes in, parts out. No I/O."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from worker.providers.base import Finish, Part, Reasoning, ToolCall, Usage, content_text
from worker.providers.errors import Broken, Cut, ProviderError
from worker.providers.request import Request
from worker.providers.sse import EventStreamParser, ServerSentEvent

END_MARK = "[DONE]"
MAX_CALLS = 1000  # tool calls in one answer
MAX_CALLS_SIZE = 4 * 1024 * 1024  # characters in all of them


@dataclass(slots=True)
class _Call:
    """A tool call whose pieces are still coming. ``index``: its place among the calls of the answer."""

    index: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)

    def add(self, delta: Mapping[str, Any]) -> int:
        """Take one piece and return its size."""
        function = _mapping(delta.get("function"))
        # Some services repeat id and name in every piece; only the arguments are cut up.
        self.id = self.id or _string(delta.get("id"))
        self.name = self.name or _string(function.get("name"))
        self.arguments.append(_string(function.get("arguments")))
        return len(self.arguments[-1])

    def is_another(self, delta: Mapping[str, Any]) -> bool:
        """Whether a piece begins a call of its own: some services send whole calls, all at one place or at none."""
        id_ = _string(delta.get("id"))
        names_itself = bool(id_ and _string(_mapping(delta.get("function")).get("name")))
        return names_itself and bool(self.id) and id_ != self.id

    def complete(self) -> ToolCall:
        return ToolCall(_whole(self.id), _whole(self.name), _whole("".join(self.arguments)))


class Completion:
    """What has come of one answer: bytes in, parts out."""

    __slots__ = (
        "_calls",
        "_has_held",
        "_held",
        "_is_finished",
        "_open_calls",
        "_parser",
        "_request",
        "_usage",
        "is_complete",
    )

    def __init__(self, request: Request) -> None:
        self.is_complete = False
        self._request = request
        self._parser = EventStreamParser()
        self._calls: list[_Call] = []
        self._open_calls: dict[int, _Call] = {}  # the last one at each place
        self._held = 0  # characters in tool calls
        self._has_held = False
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
        parts: list[Part] = [*self._take_calls()]
        if self._usage is not None:
            parts.append(self._usage)
        return parts

    def _read(self, event: ServerSentEvent, parts: list[Part]) -> None:
        data = event.data.strip()
        if event.event == "error":
            raise self._broken("reported an error inside its answer", data)
        if data == END_MARK:
            self.is_complete = True
        elif data:  # an empty event only keeps the connection alive
            chunk = self._decode(data)
            if text := _lone_text(chunk):
                parts.append(text)
            else:
                self._read_chunk(chunk, parts)

    def _decode(self, data: str) -> Mapping[str, Any]:
        try:
            chunk = orjson.loads(data)
        except (ValueError, RecursionError):
            chunk = self._decode_leniently(data)
        if not isinstance(chunk, dict):
            raise self._broken("sent an event that is not a JSON object", data)
        if chunk.get("error"):
            raise self._broken("reported an error inside its answer", data)
        return chunk

    def _decode_leniently(self, data: str) -> Any:
        # orjson refuses what the standard library takes, such as one half of a surrogate pair.
        try:
            return json.loads(data, parse_int=_integer)
        except (ValueError, RecursionError) as error:
            raise self._broken("sent an event that is not JSON", data) from error

    def _broken(self, what: str, data: str) -> ProviderError:
        return self._request.error(Broken, f"{self._request.host} {what}: {self._request.summary(data)}")

    def _read_chunk(self, chunk: Mapping[str, Any], parts: list[Part]) -> None:
        if (counts := chunk.get("usage")) and (usage := _usage(counts)):
            self._usage = usage  # some services send a running count: the last one stands
        for choice in _items(chunk.get("choices")):
            if choice.get("index") in (0, None):
                self._read_choice(choice, parts)

    def _read_choice(self, choice: Mapping[str, Any], parts: list[Part]) -> None:
        delta = _mapping(choice.get("delta"))
        # A surrogate pair that the service split between two deltas comes out as two lone halves;
        # whoever joins chunks joins them, a provider does not hold text back.
        if reasoning := _string(delta.get("reasoning_content")) or _string(delta.get("reasoning")):
            parts.append(Reasoning(reasoning))
        if text := content_text(delta.get("content")):
            parts.append(text)
        if pieces := delta.get("tool_calls"):
            self._hold_calls(_items(pieces))
        if (reason := _string(choice.get("finish_reason"))) and not self._is_finished:
            self._is_finished = True
            parts += self._take_calls()
            parts.append(Finish(_whole(reason)))

    def _hold_calls(self, pieces: Iterable[Mapping[str, Any]]) -> None:
        for position, piece in enumerate(pieces):
            given = piece.get("index")
            index = given if isinstance(given, int) else position
            call = self._open_calls.get(index)
            if call is None or call.is_another(piece):
                call = self._open_calls[index] = _Call(index)
                self._calls.append(call)
            self._held += call.add(piece)
            self._has_held = True
        if self._held > MAX_CALLS_SIZE or len(self._calls) > MAX_CALLS:
            raise self._request.error(Broken, f"{self._request.host} sent tool calls without end")

    def _take_calls(self) -> list[ToolCall]:
        calls, self._calls, self._open_calls = self._calls, [], {}
        return [call.complete() for call in sorted(calls, key=_place)]


def _place(call: _Call) -> int:
    return call.index


def _lone_text(chunk: Mapping[str, Any]) -> str:
    """Return the text of a chunk that carries text and nothing else, as nearly all do; '' for any other.

    It is a short cut: `Completion._read_chunk` would find the same, at four times the cost.
    """
    choices = chunk.get("choices")
    if chunk.get("usage") or not isinstance(choices, list) or len(choices) != 1:
        return ""
    choice = choices[0]
    if not isinstance(choice, dict) or choice.get("index") not in (0, None) or choice.get("finish_reason"):
        return ""
    delta = choice.get("delta")
    if not isinstance(delta, dict) or len(delta) != 1:
        return ""
    return _string(delta.get("content"))


def _usage(value: object) -> Usage | None:
    # Through JSON once more, so that neither a lone surrogate nor a number of any length hides in what nobody
    # looks into.
    try:
        counts = json.loads(_whole(json.dumps(_mapping(value), ensure_ascii=False)), parse_int=_integer)
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


def _whole(text: str) -> str:
    """Join split surrogate pairs; a half without its other half becomes U+FFFD."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Mapping[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []
