"""What is taken down of a run: when chunks came, and whether the logs are exact."""

import pytest

from benchmarks.delays import Delays
from benchmarks.plan import Plan, stamped
from benchmarks.stand import NotExact, check_log
from benchmarks.tap import Tap
from producer.wire.events import Chunk, Done, Event, Failed, Queued, Started, Waiting
from producer.wire.frames import encode

MS = 1_000_000


def test_delays_count_from_the_upstreams_write_and_only_in_the_window() -> None:
    delays = Delays()
    for sent_at, took in (
        (10 * MS, 500 * MS),
        (1000 * MS, 1 * MS),
        (2000 * MS, 3 * MS),
        (3000 * MS, 2 * MS),
        (4000 * MS, 0),
    ):
        delays.chunk("stream", sent_at, sent_at + took)
    told = delays.report(since=1000 * MS, last_sent_at=3000 * MS, handed={"stream": 8 * MS})
    assert told["delay"] == {"p50": 2.0, "p99": 3.0, "max": 3.0}
    assert told["first"]["p50"] == 502.0
    assert told["chunks"] == 5
    assert told["in_time"] == 1.0


def test_what_comes_long_after_the_last_write_did_not_keep_up() -> None:
    delays = Delays()
    delays.chunk("stream", 1000 * MS, 1001 * MS)
    delays.chunk("stream", 1000 * MS, 1900 * MS)
    assert delays.report(since=0, last_sent_at=1000 * MS, handed={})["in_time"] == 0.5


def test_the_tap_sees_stamps_and_ends_in_frames_of_any_size() -> None:
    tap = Tap()
    chunks = [encode(Chunk(f"7-{seq}", stamped(seq, seq).decode())) for seq in range(1, 4)]
    publish(tap, chunks[0])
    publish(tap, b"".join(chunks[1:]) + encode(Done("7-4", "stop", 60)))
    told = tap.delays.report(since=0, last_sent_at=3, handed={})
    assert (told["chunks"], tap.delays.ends, tap.delays.failures) == (3, 1, 0)
    publish(tap, encode(Failed("7-5", "cut", "the answer was cut", 1)))
    assert (tap.delays.ends, tap.delays.failures) == (2, 1)


def publish(tap: Tap, frame: bytes) -> None:
    """A message as it comes from the server."""
    parts = (b"message", b"chat:{j}:events", frame)
    tap.data_received(b"*3\r\n" + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts))


# -- logs ------------------------------------------------------------------------------------------------------

PLAN = Plan(3)


def events() -> list[Event]:
    texts = [PLAN.fast_text(seq) for seq in range(3)]
    chunks = [Chunk(f"7-{seq}", text) for seq, text in enumerate(texts, 1)]
    return [Queued("0-1", "default"), Started("7-0", 1, "upstream", "w"), *chunks, Done("7-4", "stop", 60)]


def test_a_log_with_every_chunk_in_its_place_is_exact_however_it_is_framed() -> None:
    frames = [encode(event) for event in events()]
    check_log(PLAN, "j", frames)
    check_log(PLAN, "j", [frames[0], b"".join(frames[1:4]), b"".join(frames[4:])])


@pytest.mark.parametrize("spoilt", ["lost", "swapped", "failed", "hole", "empty", "tried twice"])
def test_a_log_that_is_not_what_the_upstream_sent_is_an_error(spoilt: str) -> None:
    wrong = events()
    match spoilt:
        case "lost":
            wrong[3:] = [Chunk("7-2", PLAN.fast_text(2)), Done("7-3", "stop", 40)]
        case "swapped":
            wrong[2:4] = [Chunk("7-1", PLAN.fast_text(1)), Chunk("7-2", PLAN.fast_text(0))]
        case "failed":
            wrong[-1] = Failed("7-4", "cut", "the answer was cut", 1)
        case "hole":
            wrong[-1] = Done("7-5", "stop", 60)
        case "empty":
            wrong = wrong[:1]
        case "tried twice":
            wrong[1:1] = [Started("6-0", 1, "upstream", "w"), Waiting("6-1", 7, "retry")]
    with pytest.raises(NotExact, match="j: "):
        check_log(PLAN, "j", [encode(event) for event in wrong])
