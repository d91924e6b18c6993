"""How attempts end, and what follows. Pure: values and a table, no I/O."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

from producer.wire.events import Cancelled, Done, Event, Failed, Waiting


class Follow(Enum):
    """What a failed call of a provider asks for."""

    RETRY = "retry"
    """Another attempt, after a pause, as long as there are any left."""
    WAIT = "wait"
    """To be left alone for a while; this burns no attempt."""
    FAIL = "fail"
    """Nothing: the job itself is at fault, and would fail again."""
    BURY = "bury"
    """An operator, who may mend what is wrong and let the job run again."""


@dataclass(frozen=True, slots=True)
class Answered:
    """The answer is whole."""

    finish_reason: str
    chars: int
    usage: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The attempt failed; ``code`` is for programs, ``message`` for people.

    As an outcome it is the job's end, and the job is buried unless it is itself at fault. ``retry_after``: seconds
    for which the provider asked to be left alone.
    """

    code: str
    message: str
    follow: Follow = Follow.FAIL
    retry_after: float | None = None


@dataclass(frozen=True, slots=True)
class PutOff:
    """The attempt ended and the job did not: it goes on at ``until_ms``, by Redis' clock.

    ``reason``: ``retry`` or ``rate_limited``. ``counts``: whether the attempt counts against ``max_attempts``.
    """

    until_ms: int
    reason: str
    counts: bool
    failure: Failure | None = None


@dataclass(frozen=True, slots=True)
class TooEarly:
    """The job waits for an instant, in ms by Redis' clock, that has not come."""

    due_ms: int


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
    """Another attempt, or another worker, owns the job; nothing may be written and nothing settled."""


@dataclass(frozen=True, slots=True)
class NothingToDo:
    """The job had ended before, or another entry stands for it."""


@dataclass(frozen=True, slots=True)
class Unburied:
    """The job had failed before, and whoever wrote that died before it could bury it. ``letter``: its dead letter."""

    letter: bytes


@dataclass(frozen=True, slots=True)
class Undecodable:
    """The entry's bytes are no job."""

    reason: str


Outcome = (
    Answered
    | Failure
    | PutOff
    | TooEarly
    | CancelAsked
    | Released
    | Lost
    | NothingToDo
    | Unburied
    | Undecodable
)


class Verb(Enum):
    """What happens to the entry."""

    SETTLE = "settle"
    RELEASE = "release"
    DEFER = "defer"
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


_WHOLE = Ending("done", Verb.SETTLE)

_ENDINGS: Mapping[type[Outcome], Ending] = {
    Answered: _WHOLE,
    Failure: Ending("failed", Verb.BURY),
    Undecodable: Ending("failed", Verb.BURY),
    CancelAsked: Ending("cancelled", Verb.SETTLE),
    PutOff: Ending("waiting", Verb.DEFER),
    Released: Ending("waiting", Verb.RELEASE, counts=False),
    TooEarly: Ending(None, Verb.DEFER),
    NothingToDo: Ending(None, Verb.SETTLE),
    Unburied: Ending(None, Verb.BURY),
    Lost: Ending(None, Verb.NOTHING),
}


def ending_of(outcome: Outcome) -> Ending:
    """Return what follows from ``outcome``."""
    match outcome:
        case Answered():
            return _WHOLE
        case Failure(follow=Follow.FAIL):  # there is nothing that an operator could mend
            return Ending("failed", Verb.SETTLE)
        case PutOff(counts=False):
            return Ending("waiting", Verb.DEFER, counts=False)
    return _ENDINGS[type(outcome)]


_MAX_CHARS = 2000


def fit(text: str, max_chars: int = _MAX_CHARS) -> str:
    """Make whatever somebody else said fit to be read: bounded, and without halves of surrogate pairs."""
    return text[:max_chars].encode(errors="replace").decode()


def event_of(outcome: Outcome, event_id: str, *, attempts: int, now_ms: int) -> Event:
    """Return the event that an attempt ends with; only for outcomes whose ending has a status."""
    match outcome:
        case Answered(finish_reason, chars, usage):
            return Done(event_id, finish_reason, chars, usage)
        case Failure(code, message):
            return Failed(event_id, code, fit(message), attempts)
        case Undecodable(reason):
            return Failed(event_id, "invalid_job", fit(reason), attempts)
        case CancelAsked(reason, upstream_closed):
            return Cancelled(event_id, fit(reason), upstream_closed)
        case PutOff(until_ms, reason):
            return Waiting(event_id, until_ms, reason)
        case Released():
            return Waiting(event_id, now_ms, "released")
    raise AssertionError(f"{outcome} writes no event")
