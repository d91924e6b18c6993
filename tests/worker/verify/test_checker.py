"""A check that cannot fail is a defect: every kind of violation is forged here, and must be found."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from producer.wire.events import Cancelled, Chunk, Done, Event, Failed, Queued, Started, Waiting
from worker.verify.checker import check_job, check_leftovers
from worker.verify.facts import Call, JobFacts, Kept, Leftovers, Transcript


def started(attempt: int, number: int, keeps: int = 0) -> Started:
    return Started(f"{attempt}-0", number, "trial", f"w{number}", "m", keeps)


QUEUED = Queued("0-1", "default")
FIRST: tuple[Event, ...] = (started(100, 1), Chunk("100-1", "a1 "), Chunk("100-2", "a2 "))
SECOND: tuple[Event, ...] = (
    started(200, 2),
    Chunk("200-1", "b1 "),
    Chunk("200-2", "b2 "),
    Done("200-3", "stop", 6),
)
LOG: tuple[Event, ...] = (QUEUED, *FIRST, *SECOND)
CALLS = (Call(1, "a1 a2 a3 ", is_whole=False), Call(2, "b1 b2 ", is_whole=True))


def read_by(events: Sequence[Event], reader: str = "early", **fields: Any) -> Transcript:
    return Transcript(reader, events, **fields)


SOUND = JobFacts("j", LOG, CALLS, (read_by(LOG), read_by(LOG[3:], after="100-1")), status="done")


def with_log(*log: Event, **fields: Any) -> JobFacts:
    """The sound job with another log, which its reader got as it stands."""
    return replace(SOUND, log=log, transcripts=(read_by(log),), **fields)


def test_a_job_that_was_taken_over_and_answered_is_sound() -> None:
    assert check_job(SOUND) == []


def test_an_answer_that_goes_on_from_text_that_stands_is_sound() -> None:
    log = (QUEUED, *FIRST, started(200, 2, keeps=3), Chunk("200-1", "b1 "), Done("200-2", "stop", 6))
    calls = (CALLS[0], Call(2, "b1 ", is_whole=True))
    assert check_job(with_log(*log, calls=calls)) == []


def test_attempts_that_do_not_count_keep_their_number() -> None:
    log = (QUEUED, started(100, 1), Waiting("100-1", 5, "released"), started(200, 1), *SECOND[1:])
    assert check_job(with_log(*log)) == []


FORGED: dict[str, tuple[Callable[[], JobFacts], str]] = {
    "a log that is gone": (lambda: replace(SOUND, log=None), "it is lost"),
    "a log that cannot be read": (lambda: replace(SOUND, log=None, problem="bytes"), "cannot be read: bytes"),
    "no queued": (lambda: with_log(*LOG[1:]), "does not begin with `queued`"),
    "an empty log": (lambda: with_log(), "does not begin with `queued`"),
    "no end": (lambda: with_log(*LOG[:-1]), "it has no end"),
    "two ends": (lambda: with_log(*LOG, Failed("200-4", "x", "y", 1)), "it has 2 ends"),
    "an event after the end": (lambda: with_log(*LOG, Chunk("200-4", "c")), "stands after its end"),
    "a hole": (lambda: with_log(*LOG[:-2], *LOG[-1:]), "a hole: 200-3 follows 200-1"),
    "an attempt without its beginning": (
        lambda: with_log(QUEUED, *FIRST, *SECOND[1:]),
        "a hole: attempt 200 begins at 200-1",
    ),
    "an attempt that does not start": (
        lambda: with_log(QUEUED, *FIRST, Chunk("200-0", "b1 "), Done("200-1", "stop", 9)),
        "begins with `chunk`",
    ),
    "a second start": (
        lambda: with_log(QUEUED, *FIRST, started(200, 2), replace(started(200, 2), id="200-1"), *SECOND[1:]),
        "starts again",
    ),
    "an event twice": (lambda: with_log(*LOG[:3], LOG[2], *LOG[3:]), "stands twice"),
    "an old attempt after a new one": (
        lambda: with_log(*LOG[:5], Chunk("100-3", "a3 "), *LOG[5:]),
        "event 100-3 of an old attempt stands after 200-0",
    ),
    "text after waiting": (
        lambda: with_log(
            QUEUED, started(100, 1), Waiting("100-1", 5, "retry"), Chunk("100-2", "a1 "), *SECOND
        ),
        "goes on after its `waiting`",
    ),
    "a failure instead of an answer": (
        lambda: with_log(*LOG[:-1], Failed("200-3", "cut", "why", 2), status="failed"),
        "it ended as 'failed' (why), expected: done",
    ),
    "an answer in spite of a promised cancel": (
        lambda: replace(SOUND, cancel_promised=True),
        "a cancel was promised, and it ended as 'done'",
    ),
    "a cancel that nobody asked for": (
        lambda: with_log(*LOG[:-1], Cancelled("200-3", "r", upstream_closed=True), status="cancelled"),
        "it ended as 'cancelled'",
    ),
    "a record that lags behind": (lambda: replace(SOUND, status="running"), "its record says 'running'"),
    "an attempt that was not counted": (
        lambda: with_log(QUEUED, *FIRST, started(200, 1), *SECOND[1:]),
        "attempt 200-0 has number 1, and 1 counted before it",
    ),
    "an attempt that counted and must not": (
        lambda: replace(SOUND, highest_number=1),
        "something counted that must not",
    ),
    "a wrong number of characters": (
        lambda: with_log(*LOG[:-1], Done("200-3", "stop", 5)),
        "`done` says 5 characters, the log holds 6",
    ),
    "text that nobody sent": (
        lambda: with_log(*LOG[:-2], Chunk("200-2", "xx "), LOG[-1]),
        "an attempt's text is no beginning of any one call's",
    ),
    "text of two calls in one attempt": (
        lambda: with_log(*LOG[:-2], Chunk("200-2", "a2 "), LOG[-1]),
        "an attempt's text is no beginning of any one call's",
    ),
    "one call's text in two attempts": (
        lambda: with_log(QUEUED, started(100, 1), Chunk("100-1", "b1 "), *SECOND),
        "call 2's text stands in two attempts",
    ),
    "an answer that was cut and passed for whole": (
        lambda: replace(SOUND, calls=(CALLS[0], replace(CALLS[1], is_whole=False))),
        "no call was whole",
    ),
    "an answer without its last words": (
        lambda: replace(SOUND, calls=(CALLS[0], replace(CALLS[1], text="b1 b2 b3 "))),
        "no call was whole and sent these 6 characters",
    ),
    "more text kept than there was": (
        lambda: with_log(QUEUED, *FIRST, started(200, 2, keeps=7), *SECOND[1:]),
        "keeps 7 characters of 6",
    ),
    "a call left open": (
        lambda: replace(SOUND, calls=(replace(CALLS[0], is_closed=False), CALLS[1])),
        "call 1 to the provider is still open",
    ),
    "a reader who missed one": (
        lambda: replace(SOUND, transcripts=(read_by((*LOG[:3], *LOG[4:])),)),
        "at place 3 started 200-0 for chunk 100-2",
    ),
    "a reader who got one twice": (
        lambda: replace(SOUND, transcripts=(read_by((*LOG[:3], *LOG[2:])),)),
        "reader early got something else",
    ),
    "a reader who got other words": (
        lambda: replace(SOUND, transcripts=(read_by((*LOG[:2], Chunk("100-1", "A1 "), *LOG[3:])),)),
        "at place 2 chunk 100-1 for chunk 100-1",
    ),
    "a reader who was not told the end": (
        lambda: replace(SOUND, transcripts=(read_by(LOG[:-1]),)),
        "it stops after 7 of 8 events",
    ),
    "a reader who got more than the end": (
        lambda: replace(SOUND, transcripts=(read_by((*LOG, Chunk("200-4", "c"))),)),
        "1 events too many",
    ),
    "a reader who came back and missed one": (
        lambda: replace(SOUND, transcripts=(read_by(LOG[4:], "rejoining", after="100-1"),)),
        "reader rejoining got something else",
    ),
    "a reader who was sent away": (
        lambda: replace(SOUND, transcripts=(read_by(LOG, error="Unavailable: gone"),)),
        "ended with an error: Unavailable: gone",
    ),
}


@pytest.mark.parametrize("forged", FORGED, ids=str)
def test_the_checker_finds(forged: str) -> None:
    facts, violation = FORGED[forged]
    found = check_job(facts())
    assert any(violation in one for one in found), found
    assert all(one.startswith("job j: ") for one in found)


# -- when Redis lost something -------------------------------------------------------------------------------


def test_what_redis_forgot_of_a_superseded_attempt_may_stand_in_a_transcript() -> None:
    log = (*LOG[:3], *LOG[4:])
    assert check_job(replace(SOUND, log=log, transcripts=(read_by(LOG),), kept=Kept.MOST)) == []
    assert check_job(replace(SOUND, log=log, transcripts=(read_by(LOG),))) != []


def test_what_redis_forgot_of_the_last_attempt_may_not() -> None:
    read = (*LOG[:-1], Chunk("200-3", "b3 "), Done("200-4", "stop", 9))
    (found,) = check_job(replace(SOUND, transcripts=(read_by(read),), kept=Kept.MOST))[:1]
    assert "got something else than the log" in found or "which is not in the log" in found


def test_a_reader_who_misses_what_redis_kept_is_found_even_then() -> None:
    found = check_job(replace(SOUND, transcripts=(read_by(LOG[:-2]),), kept=Kept.MOST))
    assert found == ["job j: reader early got something else than the log: it stops after 6 of 8 events"]


def test_a_reader_of_a_job_that_redis_lost_is_told_so() -> None:
    lost = replace(SOUND, log=None, kept=Kept.NOTHING)
    told = replace(lost, transcripts=(read_by(LOG[:3], error="JobNotFound: …"),))
    assert check_job(told) == []
    left = replace(lost, transcripts=(read_by(LOG[:3]),))
    assert check_job(left) == ["job j: reader early was left without an end and without an error"]


# -- leftovers -----------------------------------------------------------------------------------------------


def test_nothing_left_is_nothing_to_complain_of() -> None:
    assert check_leftovers(Leftovers(consumers=("w1:ab", "w10:cd"), stopped_workers=("w2",))) == []


@pytest.mark.parametrize(
    ("left", "violation"),
    [
        (Leftovers(pending=2), "2 entries are still pending"),
        (Leftovers(waiting=1), "1 entries are still in the jobs stream"),
        (Leftovers(later=3), "3 jobs are still put off"),
        (Leftovers(consumers=("w1:ab", "w2:cd"), stopped_workers=("w2",)), "consumer w2:cd was left"),
        (Leftovers(slots=("s",)), "slot s was not given back"),
        (Leftovers(keys_without_ttl=("k",)), "key k has no TTL"),
        (Leftovers(expected_dead=frozenset({"j"})), "job j failed for good and is not among the dead"),
        (Leftovers(dead=frozenset({"j"})), "job j is among the dead, and should not be"),
        (Leftovers(open_calls=("call 1",)), "the upstream still serves call 1"),
        (Leftovers(connections=("c",)), "connection c was left open"),
        (Leftovers(tasks=("t",)), "task t was left running"),
        (Leftovers(complaints=("Traceback",)), "a worker wrote: Traceback"),
        (Leftovers(exit_statuses={"w1": 0, "w2": 1}), "worker w2 ended with status 1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_checker_finds_what_is_left(left: Leftovers, violation: str) -> None:
    (found,) = check_leftovers(left)
    assert violation in found
