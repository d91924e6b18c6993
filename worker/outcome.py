"""How attempts end, and what follows. Pure: values and a table, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from producer.wire.events import Cancelled, Done, Event, Failed, Waiting


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole."""

    finish_reason: str
    chars: int
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The job cannot be answered; ``code`` is for programs, ``message`` for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """Somebody cancelled the job. ``upstream_closed``: no call to the provider is open any more."""

    reason: str = "requested"
    upstream_closed: bool = True


@dataclass(frozen=True, slots=True)
class Released:
    """The worker stops before the answer is whole; another one takes over."""


@dataclass(frozen=True, slots=True)
class Lost:
    """Another attempt owns the job; nothing may be written and nothing settled."""


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """The job had ended before, or another entry runs it."""


@dataclass(frozen=True, slots=True)
class Undecodable:
    """The entry's bytes are no job."""

    reason: str


Outcome = Answered | Failure | CancelAsked | Released | Lost | NothingToDo | Undecodable


class Verb(Enum):
    """What happens to the entry."""

    SETTLE = "settle"
    RELEASE = "release"
    BURY = "bury"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Ending:
    """What follows from an outcome.

    ``status``: the job's new status, with an event of the same name; None where none is written.
    ``counts``: whether the attempt counts against ``max_attempts``.
    """

    status: str | None
    verb: Verb
    counts: bool = True


def ending_of(outcome: Outcome) -> Ending:
    """Return what follows from ``outcome``."""
    match outcome:
        case Answered():
            return Ending("done", Verb.SETTLE)
        case Failure():
            return Ending("failed", Verb.SETTLE)
        case CancelAsked():
            return Ending("cancelled", Verb.SETTLE)
        case Released():
            return Ending("waiting", Verb.RELEASE, counts=False)
        case NothingToDo():
            return Ending(None, Verb.SETTLE)
        case Undecodable():
            return Ending("failed", Verb.BURY)
        case Lost():
            return Ending(None, Verb.NOTHING)


_MAX_CHARS = 2000


def _fit(text: str) -> str:
    """Make whatever somebody else said fit to be read: bounded, and without halves of surrogate pairs."""
    return text[:_MAX_CHARS].encode(errors="replace").decode()


def event_of(outcome: Outcome, event_id: str, *, attempts: int, now_ms: int) -> Event:
    """Return the event that an attempt ends with; only for outcomes whose ending has a status."""
    match outcome:
        case Answered(finish_reason, chars, usage):
            return Done(event_id, finish_reason, chars, usage)
        case Failure(code, message):
            return Failed(event_id, code, _fit(message), attempts)
        case Undecodable(reason):
            return Failed(event_id, "invalid_job", _fit(reason), attempts)
        case CancelAsked(reason, upstream_closed):
            return Cancelled(event_id, _fit(reason), upstream_closed)
        case Released():
            return Waiting(event_id, now_ms, "released")
    raise AssertionError(f"{outcome} writes no event")
