from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.providers.errors import Broken
from worker.providers.sse import EventStreamParser, ServerSentEvent, text_decoder


def parse(*pieces: bytes) -> list[ServerSentEvent]:
    parser = EventStreamParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def data(*texts: str) -> list[ServerSentEvent]:
    return [ServerSentEvent(text) for text in texts]


STREAMS = {
    "LF": (b"data: a\n\ndata: b\n\n", data("a", "b")),
    "CRLF": (b"data: a\r\n\r\ndata: b\r\n\r\n", data("a", "b")),
    "CR": (b"data: a\r\rdata: b\r\r", data("a", "b")),
    "line ends mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\r\n\rdata: d\n\n", data("a", "b", "c", "d")),
    "CR then LF is one line end": (b"data: a\r\ndata: b\r\n\r\n", data("a\nb")),
    "several data lines": (b"data: a\ndata:\ndata: b\n\n", data("a\n\nb")),
    "only the first space goes": (b"data:  a \n\ndata:b\n\n", data(" a ", "b")),
    "colons stay in the value": (b"data: a: b:c\n\n", data("a: b:c")),
    "a field without a colon": (b"data\n\ndata\ndata\n\n", data("", "\n")),
    "comments": (b": ping\n\n:\n: data: x\ndata: a\n: in between\ndata: b\n\n", data("a\nb")),
    "unknown fields": (b"id: 7\nretry: 10\ndatas: x\n data: x\ndata: a\n\n", data("a")),
    "an event's name": (
        b"event: error\ndata: a\n\ndata: b\n\n",
        [ServerSentEvent("a", "error"), ServerSentEvent("b")],
    ),
    "a name without data is no event": (b"event: error\n\ndata: a\n\n", data("a")),
    "a BOM at the start": (b"\xef\xbb\xbfdata: a\n\n", data("a")),
    "a BOM later is a character": (b"\n\xef\xbb\xbfdata: a\n\ndata: b\n\n", data("b")),
    "a BOM after an event is a character": (b"data: a\n\n\xef\xbb\xbfdata: b\n\ndata: c\n\n", data("a", "c")),
    "every length of UTF-8": ("data: aß€🙂\n\ndata: שלום\n\n".encode(), data("aß€🙂", "שלום")),
    "bytes that are no UTF-8": (b"data: a\xffb\xe2\x82\n\n", data("a\ufffdb\ufffd")),
    "other line separators are text": (
        "data: a\u2028b\x0b\x0c\x85c\n\n".encode(),
        data("a\u2028b\x0b\x0c\x85c"),
    ),
    "plain events and others": (
        b"data: a\n\ndata:b\n\n: ping\n\ndata: c\n\ndata: d\nevent: x\n\ndata:  e\n\n",
        [*data("a", "b", "c"), ServerSentEvent("d", "x"), *data(" e")],
    ),
    "plain events with a CR inside": (b"data: a\n\ndata: b\rdata: c\n\n", data("a", "b\nc")),
    "plain events that end in CRLF, but for one": (
        b"data: a\r\n\r\ndata: b\n\ndata: c\r\n\r\n",
        data("a", "b", "c"),
    ),
    "an event that is not ended": (b"data: a\n\ndata: b\n", data("a")),
    "nothing": (b"", []),
}

each_stream = pytest.mark.parametrize(("stream", "events"), STREAMS.values(), ids=STREAMS.keys())


@each_stream
def test_a_stream_gives_its_events(stream: bytes, events: list[ServerSentEvent]) -> None:
    assert parse(stream) == events


@each_stream
def test_two_splits_anywhere_change_nothing(stream: bytes, events: list[ServerSentEvent]) -> None:
    for i in range(len(stream) + 1):
        for j in range(i, len(stream) + 1):
            assert parse(stream[:i], stream[i:j], stream[j:]) == events


@each_stream
def test_single_bytes_change_nothing(stream: bytes, events: list[ServerSentEvent]) -> None:
    assert parse(*(bytes([byte]) for byte in stream)) == events


PIECES = (
    *(
        b"data: a\n\n",
        b"data:b\n\n",
        b"data: c\r\n\r\n",
        b"data: a\ndata: b\n\n",
        b"data: \xe2\x82\n\n",
        b"data: x\n",
    ),
    *(
        b"event: error\n",
        b"event:\n",
        b"id: 1\n",
        b": ping\n",
        b"data",
        b"\n",
        b"\r",
        b"\r\n",
        b" ",
        b"\xef\xbb\xbf",
    ),
)


@settings(max_examples=500, deadline=timedelta(seconds=5))
@given(st.lists(st.sampled_from(PIECES), max_size=12).map(b"".join), st.sets(st.integers(0, 100), max_size=3))
def test_whole_reads_give_what_single_bytes_give(stream: bytes, splits: set[int]) -> None:
    cuts = [0, *sorted(splits), len(stream)]
    reads = [stream[begin:end] for begin, end in pairwise(cuts)]
    assert parse(*reads) == parse(*(bytes([byte]) for byte in stream))


def test_an_event_ended_by_cr_does_not_wait_for_the_next_byte() -> None:
    assert parse(b"data: a\r\r") == data("a")


@pytest.mark.parametrize("stream", [b"data: 123456789", b"data: 1\n" * 2 + b"da", b": 9876543210987654"])
def test_an_event_larger_than_the_limit_is_an_error(stream: bytes) -> None:
    with pytest.raises(Broken, match="larger than 15 bytes"):
        list(EventStreamParser(max_event_bytes=15).feed(stream + b"x"))


def test_an_event_that_comes_whole_is_held_to_the_limit_as_well() -> None:
    parser = EventStreamParser(max_event_bytes=15)
    assert list(parser.feed(b"data: 123456789\n\n" * 2)) == data("123456789", "123456789")
    with pytest.raises(Broken, match="larger than 15 bytes"):
        list(parser.feed(b"data: 1234567890\n\n"))


def test_small_events_and_comments_without_end_do_not_reach_the_limit() -> None:
    parser = EventStreamParser(max_event_bytes=15)
    for _ in range(100):
        assert list(parser.feed(b"data: 1\n\n: ping\n: ping\n: ping\n")) == data("1")


@pytest.mark.parametrize(
    ("stream", "rest"),
    [(b"data: a\n\ndata: b", "b"), (b"data: a\ndata: b\n", "a\nb"), (b"data: a\n\n: b", ""), (b"", "")],
)
def test_the_data_of_an_unfinished_event_can_be_looked_at(stream: bytes, rest: str) -> None:
    parser = EventStreamParser()
    list(parser.feed(stream))
    assert parser.unfinished() == rest


def test_text_split_between_bytes_is_joined() -> None:
    text = "aß€🙂שלום"
    decoder = text_decoder()
    pieces = [decoder.decode(bytes([byte])) for byte in text.encode()]
    assert "".join(pieces) + decoder.decode(b"", final=True) == text
    assert "\ufffd" not in "".join(pieces)


def test_text_that_ends_inside_a_character_ends_with_the_replacement_character() -> None:
    decoder = text_decoder()
    assert decoder.decode("a🙂".encode()[:-1]) == "a"
    assert decoder.decode(b"", final=True) == "\ufffd"
