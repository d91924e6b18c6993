"""The bytes that carry events: made, and read.

A frame is one or more events of one attempt, back to back, and is logged and published as the same bytes.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from producer.wire.codec import NOT_UNICODE, SHARED_PACKER, WireError, is_plain_map, pack, unpack_maps
from producer.wire.events import (
    QUEUED_ID,
    Cancelled,
    Chunk,
    Done,
    Event,
    EventId,
    Failed,
    Queued,
    Reasoning,
    Started,
    ToolCall,
    Unknown,
    Usage,
    Waiting,
)

MAX_FRAME_BYTES = 8 * 1024 * 1024
"""No reader accepts a larger frame."""


@dataclass(frozen=True, slots=True)
class Frame:
    """Events of one attempt with rising ids and no hole between them."""

    attempt: int
    first_seq: int
    events: tuple[Event, ...]
    last: EventId = field(init=False, compare=False, repr=False)
    """The id of the last event, which is the id of the frame's log entry."""

    def __post_init__(self) -> None:
        # Once for all the readers that a frame is handed to.
        object.__setattr__(self, "last", EventId(self.attempt, self.first_seq + len(self.events) - 1))

    def follows(self, seen: EventId) -> bool:
        """Whether nothing is missing in a log between what was seen and this, the next frame of it."""
        return self.first_seq <= (seen.seq + 1 if self.attempt == seen.attempt else 0)

    def after(self, cursor: EventId) -> tuple[Event, ...]:
        """The events that a reader at ``cursor`` has not seen."""
        if self.attempt != cursor.attempt:
            return self.events if self.attempt > cursor.attempt else ()
        return self.events[max(0, cursor.seq + 1 - self.first_seq) :]


def encode(event: Event) -> bytes:
    """Return a frame of this one event. Frames of one attempt can be joined by joining their bytes.

    Raises:
        WireError: the event breaks the contract, so that no reader would accept it.
    """
    body = event.body()
    is_bare = isinstance(event, (Chunk, Reasoning)) or (isinstance(event, Done) and event.usage is None)
    data = pack(body, packer=SHARED_PACKER if is_bare else None)
    if len(data) > MAX_FRAME_BYTES or not is_bare:
        # A log that cannot be read is worse than an error here; texts and numbers of our own always can.
        _check_readable(body, data)
    return data


def _check_readable(body: dict[str, Any], data: bytes) -> None:
    if len(data) > MAX_FRAME_BYTES or not is_plain_map(body):
        decode_frame(data)
    else:  # a plain map is what would be unpacked
        EventId.parse(_event(body).id)


@lru_cache(maxsize=256)
def encode_queued(queue: str) -> bytes:
    """Return the frame of a job's first event; many jobs have the same one."""
    return encode(Queued(str(QUEUED_ID), queue))


# What every answer has is encoded without an event, which takes longer to make than to pack.


def encode_chunk(id_: str, text: str) -> bytes:
    """Return what `encode` returns for a `Chunk`.

    Raises:
        WireError: the text is not Unicode text.
    """
    try:
        packed: bytes = SHARED_PACKER.pack({"id": id_, "type": "chunk", "text": text})
    except UnicodeEncodeError as error:
        raise WireError(NOT_UNICODE) from error
    return packed


def encode_started(id_: str, number: int, provider: str, worker: str, model: str | None, keeps: int) -> bytes:
    """Return what `encode` returns for a `Started`.

    Raises:
        WireError: one of the names is not Unicode text.
    """
    body = {"id": id_, "type": "started", "number": number, "provider": provider, "worker": worker}
    if model is not None:
        body["model"] = model
    body["keeps"] = keeps
    return pack(body, packer=SHARED_PACKER)


def decode_frame(data: bytes) -> Frame:
    """Read a frame.

    Raises:
        WireError: it breaks the contract; the message says how.
    """
    events = tuple([_read(body) for body in unpack_maps(data, max_bytes=MAX_FRAME_BYTES)])
    if not events:
        raise WireError("a frame without events")
    first = EventId.parse(events[0].id)
    if len(events) > 1:
        _check_succession(first, events)
        EventId.parse(events[-1].id)  # counting on may have made it longer than an id can be
    return Frame(first.attempt, first.seq, events)


def _check_succession(first: EventId, events: Iterable[Event]) -> None:
    attempt = f"{first.attempt}-"
    for seq, event in enumerate(events, first.seq):
        if event.id != f"{attempt}{seq}":
            raise WireError(f"event {event.id[:50]!r} stands where {attempt}{seq} is due")


def _read(body: dict[str, Any]) -> Event:
    if body.get("type") == "chunk":  # most are, and nearly always nothing is wrong with them
        id_, text = body.get("id"), body.get("text")
        if type(id_) is str and type(text) is str:
            return Chunk(id_, text)
    return _event(body)


def _event(body: dict[str, Any]) -> Event:
    event_type = _text(body, "type")
    read = _READERS.get(event_type)
    if read is None:
        return Unknown(_text(body, "id"), {key: value for key, value in body.items() if key != "id"})
    return read(_text(body, "id"), body)


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise _wrong(body, key, "text")
    return value


def _count(body: Mapping[str, Any], key: str) -> int:
    value = body.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _wrong(body, key, "a whole number of at least 0")
    return value


def _map(body: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = body.get(key)
    if not isinstance(value, dict):
        raise _wrong(body, key, "a map")
    return value


def _flag(body: Mapping[str, Any], key: str) -> bool:
    value = body.get(key)
    if not isinstance(value, bool):
        raise _wrong(body, key, "true or false")
    return value


def _wrong(body: Mapping[str, Any], key: str, wanted: str) -> WireError:
    state = "is missing" if key not in body else f"is not {wanted}"
    return WireError(f"event of type {str(body.get('type'))[:50]!r}: {key!r} {state}")


def _started(id_: str, body: dict[str, Any]) -> Event:
    model = _text(body, "model") if "model" in body else None
    keeps = _count(body, "keeps")
    return Started(id_, _count(body, "number"), _text(body, "provider"), _text(body, "worker"), model, keeps)


def _usage(id_: str, body: dict[str, Any]) -> Event:
    other = _map(body, "other") if "other" in body else None
    return Usage(id_, _count(body, "input_tokens"), _count(body, "output_tokens"), other)


def _done(id_: str, body: dict[str, Any]) -> Event:
    usage = _map(body, "usage") if "usage" in body else None
    return Done(id_, _text(body, "finish_reason"), _count(body, "chars"), usage)


def _failed(id_: str, body: dict[str, Any]) -> Event:
    return Failed(id_, _text(body, "code"), _text(body, "message"), _count(body, "attempts"))


_READERS: Mapping[str, Callable[[str, dict[str, Any]], Event]] = {
    "chunk": lambda id_, body: Chunk(id_, _text(body, "text")),
    "reasoning": lambda id_, body: Reasoning(id_, _text(body, "text")),
    "queued": lambda id_, body: Queued(id_, _text(body, "queue")),
    "started": _started,
    "tool_call": lambda id_, body: ToolCall(id_, _map(body, "call")),
    "usage": _usage,
    "waiting": lambda id_, body: Waiting(id_, _count(body, "until"), _text(body, "reason")),
    "done": _done,
    "failed": _failed,
    "cancelled": lambda id_, body: Cancelled(id_, _text(body, "reason"), _flag(body, "upstream_closed")),
}
