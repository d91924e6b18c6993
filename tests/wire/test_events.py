"""Events and their ids."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer.wire.codec import WireError
from producer.wire.events import QUEUED_ID, Event, EventId, Started
from tests.wire.strategies import event_ids, read, text


@given(event_ids)
def test_an_id_reads_as_it_is_written(event_id: EventId) -> None:
    assert EventId.parse(str(event_id)) == event_id


def test_ids_are_ordered_as_numbers_not_as_text() -> None:
    shuffled = ["10-9", "0-1", "10-10", "9-10", "10-0"]
    assert sorted(shuffled, key=EventId.parse) == ["0-1", "9-10", "10-0", "10-9", "10-10"]


@given(st.text("0123456789-", max_size=25) | text)
def test_a_text_is_an_id_only_in_its_one_form(text: str) -> None:
    event_id = read(lambda data: EventId.parse(data.decode()), text.encode())
    assert event_id is None or str(event_id) == text


def test_a_long_text_is_not_repeated_in_the_reason() -> None:
    with pytest.raises(WireError) as raised:
        EventId.parse("9" * 1_000_000)
    assert len(str(raised.value)) < 150


def test_a_job_begins_at_the_lowest_id_that_a_stream_can_hold() -> None:
    assert str(QUEUED_ID) == "0-1"


def test_three_types_end_a_job_and_no_other_does() -> None:
    def kinds(kind: type[Event]) -> set[type[Event]]:
        return {kind}.union(*(kinds(inner) for inner in kind.__subclasses__()))

    assert {kind.type for kind in kinds(Event) if kind.terminal} == {"done", "failed", "cancelled"}


def test_unset_fields_are_left_out() -> None:
    assert Started("1-0", 1, "echo", "w1").body() == {
        "id": "1-0",
        "type": "started",
        "number": 1,
        "provider": "echo",
        "worker": "w1",
        "keeps": 0,
    }
