"""The verdict: only what came out exactly as it was sent passes."""

from dataclasses import replace

import pytest

from demo.comparison import trouble_of, troubles
from demo.jobs import Track
from demo.questions import Answer, Question
from demo.upstream import Sent
from producer import Cancelled, Chunk, Done, Failed, Reasoning, Started

ASKED = Question("groq", "What is sent?", Answer("All of it. 🍁", "Think."))


def sent(text: str, reasoning: str = "") -> Sent:
    return Sent(bytearray(text.encode()), bytearray(reasoning.encode()))


def ended(question: Question = ASKED, text: str = "All of it. 🍁", reasoning: str = "Think.") -> Track:
    return Track(question, text=text, reasoning=reasoning, total=1.0)


def test_the_same_text_is_no_trouble() -> None:
    assert troubles([ended()], {"What is sent?": sent("All of it. 🍁", "Think.")}) == []


@pytest.mark.parametrize(
    ("text", "place"),
    [("All of it. ", 11), ("All of it. 🍁!", 12), ("all of it. 🍁", 0), ("All of it.  🍁", 11), ("", 0)],
)
def test_a_text_that_differs_is_told_with_its_place(text: str, place: int) -> None:
    (line,) = troubles([ended(text=text)], {"What is sent?": sent("All of it. 🍁", "Think.")})
    assert line.startswith(f"groq: 'What is sent?' the text differs from character {place} on: ")


def test_reasoning_is_compared_as_well() -> None:
    trouble = trouble_of(ended(reasoning="Thick."), sent("All of it. 🍁", "Think."))
    assert trouble == (
        "the reasoning differs from character 3 on: sent 'nk.' (6 characters in all), read 'ck.' (6)"
    )


def test_an_answer_that_nobody_sent_is_trouble() -> None:
    assert trouble_of(ended(), None) == "the upstream was never asked"


def test_echo_is_compared_with_what_was_sent_in() -> None:
    question = replace(ASKED, provider="echo", answer=None)
    assert trouble_of(ended(question, "What is sent?"), None) is None
    assert "differs" in str(trouble_of(ended(question, "What is sent"), None))


def test_a_real_service_only_has_to_answer() -> None:
    question = replace(ASKED, provider="openai", answer=None, compared=False)
    assert trouble_of(ended(question, "whatever"), None) is None
    assert trouble_of(Track(question), None) == "has not ended"


def test_a_job_that_does_not_end_with_done_is_trouble() -> None:
    whole = sent("All of it. 🍁", "Think.")
    assert trouble_of(Track(ASKED, text="All of it. 🍁", reasoning="Think."), whole) == "has not ended"
    failed, cancelled = Track(ASKED), Track(ASKED)
    failed.see(Failed("1-1", "cut", "it was cut", 1))
    cancelled.see(Cancelled("1-1", "requested", True))
    assert trouble_of(failed, whole) == "failed (cut): it was cut"
    assert trouble_of(cancelled, whole) == "was cancelled: requested"


def test_what_an_attempt_wrote_counts_only_as_far_as_the_next_one_keeps_it() -> None:
    track = Track(ASKED)
    track.see(Started("5-0", 1, "groq", "worker-1"))
    track.see(Reasoning("5-1", "Hm"))
    track.see(Chunk("5-2", "All on"))
    track.see(Started("6-0", 2, "groq", "worker-2", keeps=4))
    track.see(Reasoning("6-1", "Think."))
    track.see(Chunk("6-2", "of it. 🍁"))
    track.see(Done("6-3", "stop", 12))
    assert trouble_of(track, sent("All of it. 🍁", "Think.")) is None
    assert track.worker == "worker-2"
