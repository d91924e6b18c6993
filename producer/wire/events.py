"""What happened in a job: events, and their ids. `producer.wire.frames` has the bytes that carry them.

An event's id is ``<attempt>-<seq>``. The attempt is the Redis server's time in ms at the claim; seq counts
0, 1, 2 … without a hole.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, ClassVar, NamedTuple

from producer.wire.codec import WireError

MAX_TEXT_CHARS = 1024 * 1024
"""The longest text of one event; a provider's longer chunk becomes several events."""

_ID = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})")


class EventId(NamedTuple):
    """An event id as numbers, in the order in which events happen."""

    attempt: int
    seq: int

    @classmethod
    def parse(cls, text: str) -> "EventId":
        """Read ``<attempt>-<seq>``.

        Raises:
            WireError: the text is not of that form.
        """
        match = _ID.fullmatch(text)
        if match is None:
            raise WireError(f"event id {text[:50]!r} is not of the form <attempt>-<seq>")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.attempt}-{self.seq}"


QUEUED_ID = EventId(0, 1)
"""The id of every job's first event; Redis streams cannot hold 0-0."""


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened in a job."""

    type: ClassVar[str] = ""
    terminal: ClassVar[bool] = False
    id: str

    def body(self) -> dict[str, Any]:
        """The event as the map that is packed, in field order; unset fields are left out."""
        body: dict[str, Any] = {"id": self.id, "type": self.type}
        for name in _field_names(type(self)):  # type: ignore[arg-type]
            value = getattr(self, name)
            if value is not None:
                body[name] = value
        return body


@cache
def _field_names(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind)[1:])


@dataclass(frozen=True, slots=True)
class Queued(Event):
    """The job was accepted; always the first event."""

    type: ClassVar[str] = "queued"
    queue: str


@dataclass(frozen=True, slots=True)
class Started(Event):
    """An attempt began. The first ``keeps`` characters of earlier text stand; 0 means it starts afresh."""

    type: ClassVar[str] = "started"
    number: int
    provider: str
    worker: str
    model: str | None = None
    keeps: int = 0


@dataclass(frozen=True, slots=True)
class Chunk(Event):
    """One decoded piece of the answer."""

    type: ClassVar[str] = "chunk"
    text: str


@dataclass(frozen=True, slots=True)
class Reasoning(Event):
    """One piece of the model's reasoning, which is not part of the answer's text."""

    type: ClassVar[str] = "reasoning"
    text: str


@dataclass(frozen=True, slots=True)
class ToolCall(Event):
    """The model asks for a tool; ``call`` holds ``id``, ``name`` and ``arguments`` (JSON text)."""

    type: ClassVar[str] = "tool_call"
    call: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Usage(Event):
    """Tokens counted by the provider; ``other`` holds what else it counts."""

    type: ClassVar[str] = "usage"
    input_tokens: int
    output_tokens: int
    other: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Waiting(Event):
    """The attempt ended, the job did not: it goes on after ``until`` (ms since 1970)."""

    type: ClassVar[str] = "waiting"
    until: int
    reason: str


@dataclass(frozen=True, slots=True)
class Done(Event):
    """The answer is whole. ``chars`` is the length of its text."""

    type: ClassVar[str] = "done"
    terminal: ClassVar[bool] = True
    finish_reason: str
    chars: int
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failed(Event):
    """The job ended without a whole answer."""

    type: ClassVar[str] = "failed"
    terminal: ClassVar[bool] = True
    code: str
    message: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Cancelled(Event):
    """The job was cancelled. ``upstream_closed``: no call to the provider is open any more."""

    type: ClassVar[str] = "cancelled"
    terminal: ClassVar[bool] = True
    reason: str
    upstream_closed: bool


@dataclass(frozen=True, slots=True)
class Unknown(Event):
    """An event of a type that this release does not know; ``fields`` is all that it carries."""

    type: ClassVar[str] = "unknown"
    fields: Mapping[str, Any] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The map as it was read."""
        return {"id": self.id, **self.fields}
