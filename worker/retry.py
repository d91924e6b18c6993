"""What follows from a failed attempt: a table from error class to retry, wait, fail or bury. Pure."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from worker.outcome import Failure, Follow, PutOff
from worker.providers.errors import (
    BadRequest,
    Broken,
    Cut,
    Endless,
    NotAStream,
    Overloaded,
    ProviderError,
    RateLimited,
    Refused,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from worker.providers.retry_after import usable

FOLLOWS: Mapping[type[ProviderError], Follow] = {
    Unreachable: Follow.RETRY,
    TimedOut: Follow.RETRY,
    Broken: Follow.RETRY,
    NotAStream: Follow.RETRY,
    Cut: Follow.RETRY,
    RateLimited: Follow.WAIT,
    Overloaded: Follow.WAIT,
    Refused: Follow.FAIL,
    BadRequest: Follow.FAIL,
    Unauthorized: Follow.BURY,
    Endless: Follow.BURY,
    ProviderError: Follow.RETRY,
}
"""The nearest class counts. What a class that is not ours raises besides these is retried as well."""

_SPREAD, _MAX_SPREAD_MS = 0.2, 10_000  # of the time for which a provider is left alone

# Of several providers that failed, the one that gives the most hope decides.
_HOPE = (Follow.RETRY, Follow.WAIT, Follow.BURY, Follow.FAIL)


@dataclass(frozen=True, slots=True)
class Backoff:
    """Pauses before retries, in seconds: the longest before the first one, and the longest of all."""

    first: float
    longest: float

    def pause(self, number: int) -> float:
        """Return how long to wait after the attempt of this number: exponential, with full jitter.

        Any part of the pause is as likely as any other, so that jobs which failed together do not return together
        (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/).
        """
        return random.uniform(0.0, min(self.longest, self.first * 2 ** min(number - 1, 60)))

    def pause_after(self, seconds: float) -> float:
        """Return how long to wait once more, for so many seconds in vain so far, which no attempt was counted for.

        It grows with what was waited already, wherever that was; the first is at least half of the longest first one.
        """
        return random.uniform(0.5, 1.0) * min(self.longest, max(self.first, seconds))


@dataclass(frozen=True, slots=True)
class Situation:
    """What the decision depends on besides the failure. Instants are ms by Redis' clock.

    ``number``: the attempt's, counted from 1. ``has_output``: readers were given a part of the answer.
    ``wait_no_longer_than``: when a job that is put off again and again has been patient enough.
    """

    number: int
    max_attempts: int
    has_output: bool
    on_retry: str
    deadline: int | None
    wait_no_longer_than: int
    now: int


def failure_of(error: ProviderError) -> Failure:
    """Return the failure that an error stands for. What a class that is not ours raises may carry anything."""
    follow = next(FOLLOWS[cls] for cls in type(error).__mro__ if cls in FOLLOWS)
    message, wait = getattr(error, "message", error), getattr(error, "retry_after", None)
    seconds = usable(wait) if isinstance(wait, (int, float)) else None
    return Failure(str(error.code), str(message), follow, seconds)


def most_hopeful(failures: Sequence[Failure]) -> Failure:
    """Return the one that decides; of several of a kind the last."""
    return min(reversed(failures), key=lambda failure: _HOPE.index(failure.follow))


def decide(failure: Failure, situation: Situation, until: int) -> Failure | PutOff:
    """Return whether the job ends with this failure, or is put off ``until`` then, in ms."""
    if failure.follow in (Follow.FAIL, Follow.BURY):
        return failure
    waits = failure.follow is Follow.WAIT
    if not waits and situation.number >= situation.max_attempts:
        return failure
    if situation.has_output and situation.on_retry == "fail":
        return failure
    if waits and until > situation.wait_no_longer_than:
        return failure
    if situation.deadline is not None and until >= situation.deadline:
        return too_late(f"{failure.message}; another attempt would come too late", situation.deadline)
    return PutOff(until, "rate_limited" if waits else "retry", counts=not waits, failure=failure)


def spread(until_ms: int, now_ms: int) -> int:
    """Return an instant a little later, another one for each job, so that they do not all come back at once."""
    return until_ms + round(random.uniform(0.0, min(_MAX_SPREAD_MS, _SPREAD * (until_ms - now_ms))))


def too_late(what: str, deadline: int) -> Failure:
    """Return the failure of a job whose deadline is over, or will be."""
    return Failure("deadline_exceeded", f"the deadline ({deadline} ms since 1970) is over: {what}")
