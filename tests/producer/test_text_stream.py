"""G4: text is never doubled. A plain reader is told when what it was handed no longer stands."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from producer import (
    AnswerRestarted,
    Cancelled,
    Chunk,
    CorruptLog,
    Done,
    Event,
    Failed,
    Job,
    JobCancelled,
    JobFailed,
    Producer,
    Queued,
    Reasoning,
    Started,
    TextStream,
    ToolCall,
    Waiting,
)
from producer.answer import Answer
from tests.conftest import StartWorker
from tests.support.gated import Gate, gated_registry

A_JOB = Job(id="j", queue="q", messages=[{"role": "user", "content": "x"}], created_at=0)


class Scripted:
    """A subscription that hands out given batches; ``behind`` says whether the log is known to hold more."""

    job_id = A_JOB.id

    def __init__(self, *batches: tuple[Sequence[Event], bool]) -> None:
        self._batches = [
            ([_counted(event, batches) for event in events], behind) for events, behind in batches
        ]
        self.behind = True
        self.end: Event | None = None
        self.closed = False

    async def read(self) -> Sequence[Event]:
        if self.closed:
            return ()
        events, self.behind = self._batches.pop(0)
        self.end = events[-1] if events and events[-1].terminal else None
        return events

    async def aclose(self) -> None:
        self.closed = True


def _counted(event: Event, batches: Sequence[tuple[Sequence[Event], bool]]) -> Event:
    """An end says how many characters the answer has: here as many as stand by then."""
    if not isinstance(event, Done):
        return event
    answer = Answer()
    for events, _ in batches:
        answer.add(events)
    return replace(event, chars=len(answer.text))


def stream(subscription: Scripted, restarts: list[int] | None = None, *, goes_on: bool = False) -> TextStream:
    async def begin():  # type: ignore[no-untyped-def]
        return subscription

    return TextStream(begin, None if restarts is None else restarts.append, A_JOB, goes_on=goes_on)


def live(*events: Event) -> tuple[Sequence[Event], bool]:
    return events, False


def replayed(*events: Event) -> tuple[Sequence[Event], bool]:
    return events, True


def started(attempt: int, keeps: int = 0) -> Started:
    return Started(f"{attempt}-0", attempt, "echo", "w", keeps=keeps)


def chunk(text: str) -> Chunk:
    return Chunk("1-1", text)


DONE = Done("9-9", "stop", 0)


async def test_a_stream_that_was_left_before_it_began_begins_nothing() -> None:
    begun: list[object] = []

    async def begin():  # type: ignore[no-untyped-def]
        begun.append(None)

    reading = TextStream(begin)
    await reading.aclose()
    assert [text async for text in reading] == []
    assert begun == []


async def test_a_stream_that_is_left_while_it_begins_is_over() -> None:
    source = Scripted(live(started(1), chunk("abc")), live(DONE))
    begins, may_begin = asyncio.Event(), asyncio.Event()

    async def begin():  # type: ignore[no-untyped-def]
        begins.set()
        await may_begin.wait()
        return source

    reading = TextStream(begin)
    first = asyncio.ensure_future(reading.read())
    await begins.wait()
    await reading.aclose()
    may_begin.set()
    assert await first == ()
    assert source.closed


async def test_a_text_that_is_shorter_than_the_answer_was_is_no_answer() -> None:
    source = Scripted(live(started(1), chunk("abc")), live(DONE))
    source._batches[-1] = ([Done("9-9", "stop", 5)], False)
    reading = stream(source)
    assert await anext(reading) == "abc"
    with pytest.raises(CorruptLog, match="3 of the 5 characters"):
        await anext(reading)


async def test_text_comes_chunk_by_chunk() -> None:
    source = Scripted(
        live(Queued("0-1", "q")), live(started(1), chunk("a")), live(chunk("b"), chunk("c")), live(DONE)
    )
    assert [text async for text in stream(source)] == ["a", "b", "c"]


async def test_all_text_that_is_ready_is_read_at_once_until_the_end() -> None:
    source = Scripted(
        live(Queued("0-1", "q")), live(started(1), chunk("a"), chunk("b")), live(chunk("c"), DONE)
    )
    reading = stream(source)
    assert await reading.read() == ("a", "b")
    assert await anext(reading) == "c"
    assert [await reading.read(), await reading.read()] == [(), ()]
    assert [text async for text in reading] == []


async def test_reading_all_at_once_leaves_what_was_handed_out_counted() -> None:
    source = Scripted(live(started(1), chunk("abc"), chunk("d")), live(started(2, keeps=3), chunk("X"), DONE))
    restarts: list[int] = []
    reading = stream(source, restarts)
    assert [await anext(reading), await reading.read()] == ["abc", ("d",)]
    assert [await reading.read(), restarts] == [("X",), [3]]


async def test_reading_all_at_once_raises_the_failure_after_the_text_and_again() -> None:
    reading = stream(Scripted(live(started(1), chunk("abc"), Failed("1-2", "cut", "it was cut", 1))))
    assert await reading.read() == ("abc",)
    for _ in range(2):
        with pytest.raises(JobFailed, match="it was cut"):
            await reading.read()


async def test_reasoning_and_calls_are_not_text() -> None:
    source = Scripted(live(started(1), Reasoning("1-1", "hm"), ToolCall("1-2", {}), chunk("a"), DONE))
    assert [text async for text in stream(source)] == ["a"]


async def test_superseded_text_that_was_not_handed_out_is_skipped() -> None:
    source = Scripted(
        replayed(started(1), chunk("old")), replayed(chunk("er")), live(started(2), chunk("new")), live(DONE)
    )
    assert [text async for text in stream(source)] == ["new"]


async def test_a_fresh_start_after_text_was_handed_out_raises() -> None:
    source = Scripted(
        live(started(1), chunk("abc")), live(Waiting("1-2", 0, "retry"), started(2), chunk("x"))
    )
    reading = stream(source)
    assert await anext(reading) == "abc"
    with pytest.raises(AnswerRestarted) as caught:
        await anext(reading)
    assert (caught.value.job_id, caught.value.keeps) == ("j", 0)


async def test_on_restart_is_called_before_the_new_text() -> None:
    source = Scripted(live(started(1), chunk("abc")), live(started(2), chunk("x")), live(chunk("y"), DONE))
    restarts: list[int] = []
    reading = stream(source, restarts)
    assert await anext(reading) == "abc"
    assert await anext(reading) == "x"
    assert restarts == [0]
    assert [text async for text in reading] == ["y"]


async def test_text_that_stands_goes_on_without_a_word() -> None:
    source = Scripted(live(started(1), chunk("abc")), live(started(2, keeps=3), chunk("de")), live(DONE))
    assert [text async for text in stream(source)] == ["abc", "de"]


async def test_an_attempt_that_keeps_less_than_was_handed_out_is_a_restart() -> None:
    source = Scripted(live(started(1), chunk("abc")), live(started(2, keeps=2), chunk("X")), live(DONE))
    restarts: list[int] = []
    assert [text async for text in stream(source, restarts)] == ["abc", "X"]
    assert restarts == [2]


async def test_kept_text_that_was_not_handed_out_yet_is_cut_to_what_stands() -> None:
    source = Scripted(
        replayed(started(1), chunk("abc"), chunk("def")), live(started(2, keeps=4), chunk("X"), DONE)
    )
    assert "".join([text async for text in stream(source)]) == "abcdX"


async def test_what_came_unseen_before_an_attempt_that_goes_on_is_handed_out_behind_a_cursor() -> None:
    source = Scripted(replayed(chunk("abc")), live(started(2, keeps=13), chunk("d"), DONE))
    restarts: list[int] = []
    assert [text async for text in stream(source, restarts, goes_on=True)] == ["abc", "d"]
    assert restarts == []


async def test_whatever_starts_afresh_behind_a_cursor_is_a_restart() -> None:
    source = Scripted(replayed(chunk("abc")), live(started(2), chunk("x"), DONE))
    restarts: list[int] = []
    assert [text async for text in stream(source, restarts, goes_on=True)] == ["x"]
    assert restarts == [0]


async def test_two_restarts_that_were_missed_are_one() -> None:
    source = Scripted(
        live(started(1), chunk("abc")),
        replayed(started(2), chunk("no")),
        live(started(3), chunk("yes"), DONE),
    )
    restarts: list[int] = []
    assert [text async for text in stream(source, restarts)] == ["abc", "yes"]
    assert restarts == [0]


async def test_a_failure_is_raised_after_the_text_before_it() -> None:
    source = Scripted(live(started(1), chunk("abc"), Failed("1-2", "cut", "it was cut", 1)))
    reading = stream(source)
    assert await anext(reading) == "abc"
    with pytest.raises(JobFailed, match="it was cut") as caught:
        await anext(reading)
    assert (caught.value.code, caught.value.attempts) == ("cut", 1)


async def test_a_cancel_is_raised() -> None:
    with pytest.raises(JobCancelled, match="enough"):
        await anext(stream(Scripted(live(Cancelled("1-0", "enough", True)))))


async def test_closing_the_stream_leaves_the_subscription() -> None:
    source = Scripted(live(started(1), chunk("abc")))
    reading = stream(source)
    await anext(reading)
    await reading.aclose()
    assert source.closed


def test_an_answer_holds_what_stands() -> None:
    answer = Answer()
    answer.add([started(1), chunk("abc"), Reasoning("1-2", "hm"), ToolCall("1-3", {"name": "f"})])
    answer.add([started(2, keeps=2), chunk("X"), Reasoning("2-2", "so")])
    assert (answer.text, answer.reasoning, answer.tool_calls, answer.attempts) == ("abX", ["so"], [], 2)


async def test_a_step_that_is_cancelled_and_taken_again_loses_nothing() -> None:
    class Slow(Scripted):
        async def read(self) -> Sequence[Event]:
            await asyncio.sleep(0)
            return await super().read()

    for steps in range(12):
        source = Slow(
            replayed(started(1), chunk("a")), replayed(chunk("b")), replayed(chunk("c")), live(DONE)
        )
        reading = stream(source)
        cancelled = asyncio.ensure_future(anext(reading))
        for _ in range(steps):
            await asyncio.sleep(0)
        cancelled.cancel()
        first = [] if (await asyncio.wait([cancelled])) and cancelled.cancelled() else [cancelled.result()]
        assert [*first, *[text async for text in reading]] == ["a", "b", "c"]


# -- leaving ---------------------------------------------------------------------------------------------------


async def test_a_stream_that_is_left_inside_its_loop_is_over(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker(gated_registry(Gate()))
    reading, seen = producer.stream("x", provider="gated"), list[str]()
    async for text in reading:
        seen.append(text)
        await reading.aclose()
    assert seen == ["one "]
    assert await reading.read() == ()


async def test_a_stream_that_another_task_leaves_is_over(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker(gated_registry(Gate()))
    reading = producer.stream("x", provider="gated")
    assert await anext(reading) == "one "
    waiting = asyncio.create_task(anext(reading, "over"))
    await asyncio.sleep(0)
    await reading.aclose()
    assert await waiting == "over"
