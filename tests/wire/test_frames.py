"""Frames: the bytes of events, made and read, and what no reader would accept."""

import math
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from producer.wire import codec, frames
from producer.wire.codec import WireError, pack
from producer.wire.events import (
    MAX_TEXT_CHARS,
    Chunk,
    Done,
    Event,
    EventId,
    Failed,
    Queued,
    Started,
    ToolCall,
    Unknown,
    Usage,
    Waiting,
)
from producer.wire.frames import MAX_FRAME_BYTES, Frame, decode_frame, encode, encode_chunk, encode_started
from tests.wire.strategies import anything, attempts, event_ids, hostile, mutated_chunks, read, text


def joined(events: list[Event]) -> bytes:
    return b"".join(encode(event) for event in events)


# -- frames ----------------------------------------------------------------------------------------------------


@given(attempts())
def test_events_joined_are_a_frame_that_reads_as_them(events: list[Event]) -> None:
    frame = decode_frame(joined(events))
    first = EventId.parse(events[0].id)
    assert frame == Frame(first.attempt, first.seq, tuple(events))
    assert str(frame.last) == events[-1].id


@given(attempts(min_size=2), st.data())
def test_a_frame_may_be_cut_between_any_two_events(events: list[Event], data: st.DataObject) -> None:
    cut = data.draw(st.integers(1, len(events) - 1))
    first, second = decode_frame(joined(events[:cut])), decode_frame(joined(events[cut:]))
    assert first.events + second.events == tuple(events)
    assert second.first_seq == first.last.seq + 1


@given(attempts(min_size=3), st.data())
def test_a_frame_with_a_hole_is_refused(events: list[Event], data: st.DataObject) -> None:
    del events[data.draw(st.integers(1, len(events) - 2))]
    with pytest.raises(WireError, match="stands where"):
        decode_frame(joined(events))


@given(attempts(min_size=2))
def test_a_frame_whose_events_change_places_is_refused(events: list[Event]) -> None:
    with pytest.raises(WireError, match="stands where"):
        decode_frame(joined(events[::-1]))


@given(attempts(), attempts())
def test_frames_of_two_attempts_do_not_join(one: list[Event], other: list[Event]) -> None:
    if EventId.parse(one[0].id).attempt != EventId.parse(other[0].id).attempt:
        with pytest.raises(WireError, match="stands where"):
            decode_frame(joined([*one, *other]))


@given(attempts(), event_ids)
def test_after_a_cursor_come_exactly_the_events_above_it(events: list[Event], cursor: EventId) -> None:
    assert decode_frame(joined(events)).after(cursor) == _above(cursor, events)


@given(attempts(), st.integers(-2, 8))
def test_a_cursor_inside_the_frame_cuts_it_there(events: list[Event], place: int) -> None:
    first = EventId.parse(events[0].id)
    cursor = EventId(first.attempt, max(0, first.seq + place))
    assert decode_frame(joined(events)).after(cursor) == _above(cursor, events)


def _above(cursor: EventId, events: list[Event]) -> tuple[Event, ...]:
    return tuple(event for event in events if EventId.parse(event.id) > cursor)


@given(hostile)
@settings(max_examples=500, deadline=timedelta(seconds=5))
def test_hostile_bytes_raise_nothing_but_a_wire_error_with_a_short_text(data: bytes) -> None:
    frame = read(decode_frame, data)
    assert frame is None or frame == decode_frame(joined(list(frame.events)))


@given(hostile | mutated_chunks())
@settings(max_examples=1000, deadline=timedelta(seconds=5))
def test_the_short_way_of_a_chunk_reads_and_refuses_what_the_long_one_does(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "_is_flat", lambda _: False)
        patch.setattr(frames, "_read", frames._event)
        by_the_long_way = outcome(data)
    assert outcome(data) == by_the_long_way


def outcome(data: bytes) -> Frame | str:
    """What the bytes are, or why they are nothing."""
    return outcome_of(lambda: decode_frame(data))


def outcome_of(step: Callable[[], Frame]) -> Frame | str:
    try:
        return step()
    except WireError as error:
        return str(error)


def test_the_longest_text_of_the_widest_characters_fits_into_a_frame() -> None:
    event = Chunk("1-1", "\U0001f600" * MAX_TEXT_CHARS)
    assert decode_frame(encode(event)).events == (event,)


def test_a_frame_of_the_largest_size_is_read_and_one_byte_more_is_not() -> None:
    overhead = len(encode(Chunk("1-1", "x" * 100_000))) - 100_000
    largest = encode(Chunk("1-1", "x" * (MAX_FRAME_BYTES - overhead)))
    assert len(largest) == MAX_FRAME_BYTES
    assert decode_frame(largest).last == EventId(1, 1)
    with pytest.raises(WireError, match="the limit is 8,388,608"):
        encode(Chunk("1-1", "x" * (MAX_FRAME_BYTES - overhead + 1)))


def test_a_reason_does_not_repeat_a_long_id_or_type() -> None:
    for second in (
        Unknown("9" * 100_000, {"type": "x"}).body(),
        {"id": "1-1", "type": 5, "x": "y" * 100_000},
    ):
        with pytest.raises(WireError) as raised:
            decode_frame(encode(Chunk("1-0", "")) + pack(second))
        assert len(str(raised.value)) < 200


# -- events ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "event",
    [
        Usage("1-1", -1, 0),
        Usage("1-1", 1, 1, {"cost": math.inf}),
        Usage("1-1", 1, 1, {"raw": b"x"}),
        Done("1-1", "stop", 5, {"of": 2**70}),
        ToolCall("1-1", {"arguments": "\ud83d"}),
        ToolCall("1-1", {"arguments": "x" * (MAX_FRAME_BYTES + 1)}),
        Failed("1-1", "cut", "half \udc00", 1),
        Queued("zero", "default"),
        Unknown("1-1", {}),
    ],
    ids=lambda event: type(event).__name__,
)
def test_what_no_reader_would_accept_is_not_written(event: Event) -> None:
    with pytest.raises(WireError):
        encode(event)


@given(
    st.builds(Done, st.just("1-1"), text, st.integers(-1, 2), anything)
    | st.builds(Waiting, st.just("1-1") | text, st.integers(-1, 2**64) | st.floats() | st.booleans(), text)
    | st.builds(Unknown, st.just("1-1"), anything | st.builds(lambda more: {"type": "x", **more}, anything))
)
@settings(max_examples=500, deadline=timedelta(seconds=5))
def test_an_event_is_written_if_and_only_if_it_can_be_read(event: Event) -> None:
    assert outcome_of(lambda: decode_frame(encode(event))) == outcome_of(
        lambda: decode_frame(pack(event.body()))
    )


def test_what_could_not_be_written_leaves_nothing_behind_for_the_next_event() -> None:
    data = encode(Done("1-1", "stop", 5))
    with pytest.raises(WireError):
        encode(Done("1-1", "half \ud83d", 5))
    assert encode(Done("1-1", "stop", 5)) == data


@given(st.integers(1, 100), text, text, st.none() | text, st.integers(0, 2**40), text)
def test_what_is_encoded_without_an_event_is_the_same_bytes(
    number: int, provider: str, worker: str, model: str | None, keeps: int, said: str
) -> None:
    started = (number, provider, worker, model, keeps)
    assert encode_started("7-0", *started) == encode(Started("7-0", *started))
    assert encode_chunk("7-1", said) == encode(Chunk("7-1", said))
    for encoded in (
        lambda: encode_started("7-0", 1, "a", "half \ud83d", None, 0),
        lambda: encode_chunk("7-1", "\ud83d"),
    ):
        with pytest.raises(WireError, match="surrogate"):
            encoded()


def test_an_event_of_a_later_release_keeps_all_that_it_carries() -> None:
    body = {"id": "1-1", "type": "citation", "url": "https://example.org", "spans": [[0, 4]]}
    (event,) = decode_frame(encode(Unknown("1-1", {k: v for k, v in body.items() if k != "id"}))).events
    assert (event.type, event.terminal, event.body()) == ("unknown", False, body)


def test_what_a_later_release_adds_to_a_known_event_is_left_aside() -> None:
    data = pack({**Waiting("1-1", 5, "retry").body(), "provider": "groq"})
    assert decode_frame(data).events == (Waiting("1-1", 5, "retry"),)
