"""What follows from a failed attempt: tables, without Redis."""

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from worker import retry
from worker.outcome import Failure, Follow, PutOff
from worker.providers import errors
from worker.providers.errors import ProviderError
from worker.providers.retry_after import LONGEST
from worker.retry import Backoff, Situation, decide, failure_of, most_hopeful, too_late

FOLLOWS = {
    errors.ProviderError: Follow.RETRY,
    errors.Unreachable: Follow.RETRY,
    errors.TimedOut: Follow.RETRY,
    errors.Refused: Follow.FAIL,
    errors.RateLimited: Follow.WAIT,
    errors.Unauthorized: Follow.BURY,
    errors.Endless: Follow.BURY,
    errors.Broken: Follow.RETRY,
    errors.Overloaded: Follow.WAIT,
    errors.NotAStream: Follow.RETRY,
    errors.Cut: Follow.RETRY,
    errors.BadRequest: Follow.FAIL,
}


def family(cls: type[ProviderError]) -> Iterator[type[ProviderError]]:
    """The class and all below it that the project itself defines."""
    yield cls
    for below in cls.__subclasses__():
        if below.__module__ == errors.__name__:
            yield from family(below)


def test_for_every_error_of_a_provider_it_is_decided_what_follows() -> None:
    assert set(family(ProviderError)) == set(FOLLOWS)


@pytest.mark.parametrize("cls", FOLLOWS)
def test_what_follows_from_an_error(cls: type[ProviderError]) -> None:
    error = cls("the service said no", status=400, retry_after=2.5)
    assert failure_of(error) == Failure(cls.code, "the service said no", FOLLOWS[cls], 2.5)


@pytest.mark.parametrize("cls", FOLLOWS)
def test_an_error_that_somebody_else_derives_is_treated_as_its_nearest_kin(cls: type[ProviderError]) -> None:
    class Theirs(cls):  # type: ignore[misc, valid-type]
        code = "theirs"

    assert failure_of(Theirs("x")) == Failure("theirs", "x", FOLLOWS[cls], None)


class Bare(errors.RateLimited):
    """One whose class leaves out what ours sets."""

    def __init__(self) -> None:
        Exception.__init__(self, "its words")


ODD = {
    "a number for a message": (errors.Broken(503), "503", None),  # type: ignore[arg-type]
    "an error for a message": (errors.Broken(ValueError("why")), "why", None),  # type: ignore[arg-type]
    "nothing at all": (Bare(), "its words", None),
    "a text for seconds": (errors.RateLimited("x", retry_after="3"), "x", None),  # type: ignore[arg-type]
    "no number": (errors.RateLimited("x", retry_after=float("nan")), "x", None),
    "below zero": (errors.RateLimited("x", retry_after=-1.0), "x", None),
    "for ever": (errors.RateLimited("x", retry_after=float("inf")), "x", LONGEST),
    "nearly for ever": (errors.RateLimited("x", retry_after=1e300), "x", LONGEST),
    "more than a float holds": (errors.RateLimited("x", retry_after=10**400), "x", LONGEST),
}


@pytest.mark.parametrize(("error", "message", "seconds"), ODD.values(), ids=ODD)
def test_what_an_error_carries_is_fit_to_be_gone_by(
    error: ProviderError, message: str, seconds: float | None
) -> None:
    failure = failure_of(error)
    assert (failure.message, failure.retry_after) == (message, seconds)


# -- backoff ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("longest_pauses")
def test_the_longest_pause_doubles_up_to_the_bound() -> None:
    backoff = Backoff(first=0.5, longest=3.0)
    assert [backoff.pause(number) for number in range(1, 7)] == [0.5, 1.0, 2.0, 3.0, 3.0, 3.0]


@pytest.mark.usefixtures("longest_pauses")
def test_what_no_attempt_is_counted_for_is_waited_for_longer_the_longer_it_was_in_vain() -> None:
    backoff = Backoff(first=0.5, longest=60.0)
    assert [backoff.pause_after(seconds) for seconds in (0.0, 0.2, 3.0, 59.0, 3600.0)] == [
        0.5,
        0.5,
        3.0,
        59.0,
        60.0,
    ]


def test_any_part_of_the_longest_pause_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Full jitter: jobs that failed together do not come back together."""
    asked: list[tuple[float, float]] = []
    monkeypatch.setattr(retry.random, "uniform", lambda *bounds: asked.append(bounds) or 0.0)
    for number in (1, 2, 9):
        Backoff(first=1.0, longest=60.0).pause(number)
    assert asked == [(0.0, 1.0), (0.0, 2.0), (0.0, 60.0)]


@pytest.mark.parametrize("number", [1, 61, 62, 1100, 10**9, 10**30])
@pytest.mark.parametrize(
    ("first", "longest"), [(0.0, 0.0), (0.0, 60.0), (1.0, 60.0), (5e-324, 1.0), (1e308, 7.0)]
)
def test_no_number_is_too_large_for_a_pause(number: int, first: float, longest: float) -> None:
    assert 0.0 <= Backoff(first, longest).pause(number) <= longest


# -- of several, the one that decides --------------------------------------------------------------------------

BY_HOPE = [
    Failure(follow.value, "x", follow) for follow in (Follow.RETRY, Follow.WAIT, Follow.BURY, Follow.FAIL)
]


@pytest.mark.parametrize(
    "several", [some for n in (1, 2, 3, 4) for some in itertools.permutations(BY_HOPE, n)]
)
def test_the_failure_that_gives_the_most_hope_decides(several: tuple[Failure, ...]) -> None:
    assert most_hopeful(several) == min(several, key=BY_HOPE.index)


@pytest.mark.parametrize("follow", Follow)
def test_of_several_failures_of_a_kind_the_last_decides(follow: Follow) -> None:
    first, last = Failure("first", "x", follow), Failure("last", "x", follow)
    assert most_hopeful([first, last]) == last


# -- the decision ----------------------------------------------------------------------------------------------

FRESH = Situation(
    number=1,
    max_attempts=3,
    has_output=False,
    on_retry="restart",
    deadline=None,
    wait_no_longer_than=9_000,
    now=1_000,
)
CUT = Failure("cut", "the end mark is missing", Follow.RETRY)
BUSY = Failure("rate_limited", "too many calls", Follow.WAIT, 2.0)
NO_KEY = Failure("unauthorized", "no such key", Follow.BURY)
WRONG = Failure("bad_request", "no such option", Follow.FAIL)
UNTIL = 2_000

AGAIN = PutOff(UNTIL, "retry", counts=True, failure=CUT)
PATIENT = PutOff(UNTIL, "rate_limited", counts=False, failure=BUSY)


def late(failure: Failure, deadline: int) -> Failure:
    return too_late(f"{failure.message}; another attempt would come too late", deadline)


LAST = replace(FRESH, number=3)
SPOKEN = replace(FRESH, has_output=True)

DECISIONS = {
    "a first failure is retried": (CUT, FRESH, AGAIN),
    "and the second": (CUT, replace(FRESH, number=2), AGAIN),
    "after the last attempt it is over": (CUT, LAST, CUT),
    "and after a number above it": (CUT, replace(FRESH, number=4), CUT),
    "a job with one attempt has one": (CUT, replace(FRESH, max_attempts=1), CUT),
    "the job's own fault ends it": (WRONG, FRESH, WRONG),
    "even where text is out": (WRONG, replace(SPOKEN, on_retry="continue"), WRONG),
    "what an operator must mend is not tried again": (NO_KEY, FRESH, NO_KEY),
    "a busy provider is waited for": (BUSY, FRESH, PATIENT),
    "and that burns no attempt": (BUSY, LAST, PATIENT),
    "to the end of the patience": (BUSY, replace(FRESH, wait_no_longer_than=UNTIL), PATIENT),
    "and no longer": (BUSY, replace(FRESH, wait_no_longer_than=UNTIL - 1), BUSY),
    "patience is for waiting, not for retries": (CUT, replace(FRESH, wait_no_longer_than=0), AGAIN),
    "text is out, and the answer restarts": (CUT, SPOKEN, AGAIN),
    "text is out, and the answer goes on": (CUT, replace(SPOKEN, on_retry="continue"), AGAIN),
    "text is out, and the job fails": (CUT, replace(SPOKEN, on_retry="fail"), CUT),
    "text is out, and the job does not even wait": (BUSY, replace(SPOKEN, on_retry="fail"), BUSY),
    "no text is out, so nothing is lost by a retry": (CUT, replace(FRESH, on_retry="fail"), AGAIN),
    "nor by waiting": (BUSY, replace(FRESH, on_retry="fail"), PATIENT),
    "in time before the deadline": (CUT, replace(FRESH, deadline=UNTIL + 1), AGAIN),
    "too late for the deadline": (CUT, replace(FRESH, deadline=UNTIL), late(CUT, UNTIL)),
    "waiting past the deadline": (BUSY, replace(FRESH, deadline=UNTIL), late(BUSY, UNTIL)),
    "the last failure is told rather than the deadline": (CUT, replace(LAST, deadline=UNTIL), CUT),
    "and so is one that ends the job": (NO_KEY, replace(FRESH, deadline=UNTIL), NO_KEY),
}


@pytest.mark.parametrize(("failure", "situation", "expected"), DECISIONS.values(), ids=DECISIONS)
def test_what_is_decided(failure: Failure, situation: Situation, expected: Failure | PutOff) -> None:
    assert decide(failure, situation, UNTIL) == expected


def test_what_comes_too_late_ends_with_the_deadline_and_says_what_had_failed() -> None:
    failure = decide(CUT, replace(FRESH, deadline=UNTIL), UNTIL)
    assert isinstance(failure, Failure)
    assert (failure.code, failure.follow) == ("deadline_exceeded", Follow.FAIL)
    assert CUT.message in failure.message
    assert str(UNTIL) in failure.message
