"""What readers have of an answer when its job is claimed again: folded from events, read off the log."""

import pytest
from redis.asyncio import Redis

from producer import Producer
from producer.wire.events import Chunk, Done, Event, Queued, Reasoning, Started, ToolCall, Waiting
from producer.wire.keys import Keys
from tests.support.scribe import Scribe
from worker import standing as standing_module
from worker.standing import Standing, StandingReader
from worker.writer import Writer

CALL = {"id": "c1", "name": "look", "arguments": "{}"}


def started(keeps: int = 0) -> Started:
    return Started("5-0", 1, "a", "w1", "m", keeps)


def text(text: str) -> Chunk:
    return Chunk("5-1", text)


NOTHING = ("", True, False)

FOLDED: dict[str, tuple[list[Event], tuple[str, bool, bool]]] = {
    "nothing": ([], NOTHING),
    "accepted": ([Queued("0-1", "default")], NOTHING),
    "started": ([started()], NOTHING),
    "text": ([started(), text("one "), text("two")], ("one two", False, True)),
    "waiting changes nothing": ([started(), text("one"), Waiting("5-2", 9, "retry")], ("one", False, True)),
    "a fresh start forgets": ([started(), text("one"), started(), text("two")], ("two", False, True)),
    "a start that keeps": ([started(), text("one two"), started(4), text("2")], ("one 2", False, True)),
    "keeps what is in several pieces": ([started(), text("ab"), text("cd"), started(3)], ("abc", False, True)),
    "keeps twice": ([started(), text("ab"), started(2), text("cd"), started(4), text("e")], ("abcde", False, True)),
    "keeps code points": ([started(), text("a😀é"), started(2), text("!")], ("a😀!", False, True)),
    "reasoning alone": ([started(), Reasoning("5-1", "hm")], ("", False, False)),
    "reasoning, then text": ([started(), Reasoning("5-1", "hm"), text("one")], ("one", False, True)),
    "reasoning that is forgotten": ([started(), Reasoning("5-1", "hm"), started()], NOTHING),
    "a tool call alone": ([started(), ToolCall("5-1", CALL)], ("", False, False)),
    "a tool call after text": ([started(), text("one"), ToolCall("5-2", CALL)], ("one", False, False)),
    "a tool call that is forgotten": ([started(), ToolCall("5-1", CALL), started(), text("x")], ("x", False, True)),
}  # fmt: skip


@pytest.mark.parametrize(("events", "expected"), FOLDED.values(), ids=FOLDED)
def test_what_stands_after_some_events(events: list[Event], expected: tuple[str, bool, bool]) -> None:
    standing = Standing()
    for event in events:
        standing.add(event)
    assert (standing.text, standing.is_empty, standing.can_be_continued) == expected


@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7, 8])
async def test_it_is_read_off_the_whole_log_page_by_page(
    redis: Redis, writer: Writer, keys: Keys, producer: Producer, monkeypatch: pytest.MonkeyPatch, frames: int
) -> None:
    monkeypatch.setattr(standing_module, "_PAGE", 4)  # the first frame is `queued`
    job = await producer.enqueue("x", provider="a")
    scribe = Scribe(redis, keys, job.id)
    await scribe.log(Started("5-0", 1, "a", "w1", "m"), Chunk("5-1", "0"))
    for number in range(1, frames):
        await scribe.log(Chunk(f"5-{2 * number}", f"{number}"), Chunk(f"5-{2 * number + 1}", "."))
    expected = "0" + "".join(f"{number}." for number in range(1, frames))
    assert (await StandingReader(writer, keys).read(job.id)).text == expected


async def test_of_a_log_that_is_gone_nothing_stands(writer: Writer, keys: Keys) -> None:
    assert (await StandingReader(writer, keys).read("nobody")).is_empty


async def test_a_finished_answer_stands_whole(
    redis: Redis, writer: Writer, keys: Keys, producer: Producer
) -> None:
    job = await producer.enqueue("x", provider="a")
    await Scribe(redis, keys, job.id).log(
        Started("5-0", 1, "a", "w1", "m"), Chunk("5-1", "whole"), Done("5-2", "stop", 5)
    )
    assert (await StandingReader(writer, keys).read(job.id)).text == "whole"


@pytest.mark.parametrize(("keeps", "has_hole"), [(None, True), (3, True), (0, False)])
async def test_a_text_of_which_a_server_lost_a_part_is_not_gone_on_with(
    redis: Redis, writer: Writer, keys: Keys, producer: Producer, keeps: int | None, has_hole: bool
) -> None:
    """Readers may have the whole of it: they would be cut at the wrong place."""
    job = await producer.enqueue("x", provider="a")
    scribe = Scribe(redis, keys, job.id)
    await scribe.log(Started("5-0", 1, "a", "w1", "m"), Chunk("5-1", "one"))
    await scribe.log(Chunk("5-3", "three"))
    if keeps is not None:
        await scribe.log(Started("6-0", 2, "a", "w1", "m", keeps), Chunk("6-1", "four"))
    standing = await StandingReader(writer, keys).read(job.id)
    assert (standing.has_hole, standing.can_be_continued, standing.is_empty) == (
        has_hole,
        not has_hole,
        False,
    )
