"""Every outcome, what follows from it, and what its readers are told: a table, without Redis."""

import typing

import pytest

from producer.wire.events import Cancelled, Done, Event, Failed, Waiting
from producer.wire.frames import decode_frame, encode
from worker.outcome import (
    Answered,
    CancelAsked,
    Ending,
    Failure,
    Follow,
    Lost,
    NothingToDo,
    Outcome,
    PutOff,
    Released,
    TooEarly,
    Unburied,
    Undecodable,
    Verb,
    ending_of,
    event_of,
)

USAGE = {"input_tokens": 3, "output_tokens": 5}

TABLE: list[tuple[Outcome, Ending, Event | None]] = [
    (
        Answered("stop", 12, USAGE),
        Ending("done", Verb.SETTLE, counts=True),
        Done("7-4", "stop", 12, USAGE),
    ),
    (Answered("length", 0), Ending("done", Verb.SETTLE, counts=True), Done("7-4", "length", 0, None)),
    (
        Failure("bad_request", "no such option", Follow.FAIL),
        Ending("failed", Verb.SETTLE, counts=True),
        Failed("7-4", "bad_request", "no such option", 2),
    ),
    *(
        (
            Failure("cut", "the end is missing", follow, retry_after=3.0),
            Ending("failed", Verb.BURY, counts=True),
            Failed("7-4", "cut", "the end is missing", 2),
        )
        for follow in (Follow.RETRY, Follow.WAIT, Follow.BURY)
    ),
    (
        PutOff(5000, "retry", counts=True, failure=Failure("cut", "x", Follow.RETRY)),
        Ending("waiting", Verb.DEFER, counts=True),
        Waiting("7-4", 5000, "retry"),
    ),
    (
        PutOff(5000, "rate_limited", counts=False),
        Ending("waiting", Verb.DEFER, counts=False),
        Waiting("7-4", 5000, "rate_limited"),
    ),
    (TooEarly(5000), Ending(None, Verb.DEFER), None),
    (Unburied(b"letter"), Ending(None, Verb.BURY), None),
    (
        CancelAsked("user left"),
        Ending("cancelled", Verb.SETTLE, counts=True),
        Cancelled("7-4", "user left", upstream_closed=True),
    ),
    (
        Released(),
        Ending("waiting", Verb.RELEASE, counts=False),
        Waiting("7-4", 1000, "released"),
    ),
    (
        Undecodable("id: missing"),
        Ending("failed", Verb.BURY, counts=True),
        Failed("7-4", "invalid_job", "id: missing", 2),
    ),
    (Lost(), Ending(None, Verb.NOTHING), None),
    (NothingToDo(), Ending(None, Verb.SETTLE), None),
]

IDS = [repr(outcome) for outcome, _, _ in TABLE]


def test_every_outcome_stands_in_the_table() -> None:
    assert {type(outcome) for outcome, _, _ in TABLE} == set(typing.get_args(Outcome))


@pytest.mark.parametrize(("outcome", "ending", "event"), TABLE, ids=IDS)
def test_what_follows_from_an_outcome(outcome: Outcome, ending: Ending, event: Event | None) -> None:
    assert ending_of(outcome) == ending


@pytest.mark.parametrize(("outcome", "ending", "event"), TABLE, ids=IDS)
def test_what_the_readers_are_told(outcome: Outcome, ending: Ending, event: Event | None) -> None:
    if event is None:
        with pytest.raises(AssertionError):
            event_of(outcome, "7-4", attempts=2, now_ms=1000)
        return
    told = event_of(outcome, "7-4", attempts=2, now_ms=1000)
    assert told == event
    assert decode_frame(encode(told)).events == (event,)


@pytest.mark.parametrize(("outcome", "ending", "event"), TABLE, ids=IDS)
def test_a_status_and_an_event_of_its_name_come_together(
    outcome: Outcome, ending: Ending, event: Event | None
) -> None:
    assert ending.status == (event and event.type)


def test_a_job_that_ends_leaves_its_queue_and_no_other_does() -> None:
    told = [(ending, event) for _, ending, event in TABLE if event is not None]
    assert {event.terminal for _, event in told} == {True, False}
    for ending, event in told:
        assert event.terminal == (ending.verb in {Verb.SETTLE, Verb.BURY})


def test_only_a_lost_job_is_left_alone() -> None:
    assert [outcome for outcome, ending, _ in TABLE if ending.verb is Verb.NOTHING] == [Lost()]
