"""Events become frames: merged while a write is on its way, bounded, and whole whatever the pace."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import Cancelled, Chunk, Done, Producer, Started
from producer.connection import Call
from producer.wire.events import MAX_TEXT_CHARS
from producer.wire.frames import decode_frame
from producer.wire.keys import Keys
from worker import scripts
from worker.attempt import MAX_MERGED_BYTES, Attempt, LeaseLost
from worker.event_log import MAX_WAITING_BYTES, PATIENCE, End, EventLog
from worker.pending import Asked, Pending


class SlowWriter:
    """Takes calls; the test sends and answers them."""

    def __init__(self) -> None:
        self.announced: list[Pending] = []
        self.sent: list[tuple[Call, Pending]] = []
        self.loop = asyncio.get_running_loop()

    def submit(self, call: Call) -> "asyncio.Future[bytes]":
        asked = Asked(call, self.loop, remembered=True, repeated=True)
        self.add(asked)
        return asked.future

    def add(self, pending: Pending) -> None:
        self.announced.append(pending)

    def send(self) -> int:
        """Put a pipeline together, and return how many calls it holds."""
        announced, self.announced = self.announced, []
        calls = [(call, pending) for pending in announced if (call := pending.prepare()) is not None]
        self.sent += calls
        return len(calls)

    async def answer(self, result: Any = b"written") -> list[str]:
        """Answer the oldest call; return the ids of the events that its frame held."""
        if not self.sent:
            self.send()
        call, pending = self.sent.pop(0)
        pending.tell(result)
        await asyncio.sleep(0)  # lets those go on who waited for it
        frame = call.args[2] if call.script is scripts.FINISH else call.args[1]
        assert isinstance(frame, bytes)
        return [event.id for event in decode_frame(frame).events]

    @property
    def has_more(self) -> bool:
        self.send()
        return bool(self.sent)


@pytest.fixture
async def slow() -> SlowWriter:
    return SlowWriter()


@pytest.fixture
def slow_log(slow: SlowWriter) -> EventLog:
    return EventLog(slow, Keys())  # type: ignore[arg-type]


def append(log: EventLog, attempt: Attempt, text: str = "x") -> None:
    log.append(attempt, Chunk(attempt.next_id(), text))


async def test_an_idle_log_writes_one_event_at_once(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    assert slow.send() == 1
    assert await slow.answer() == ["5-0"]


async def test_what_comes_before_the_pipeline_is_put_together_is_one_frame(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    for _ in range(3):
        append(slow_log, attempt)
    assert slow.send() == 1
    assert await slow.answer() == ["5-0", "5-1", "5-2"]
    assert slow.send() == 0


async def test_what_comes_while_a_write_is_on_its_way_is_one_frame(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    assert slow.send() == 1
    for _ in range(4):
        append(slow_log, attempt)
    assert slow.send() == 0  # no two frames of an attempt are on their way
    assert await slow.answer() == ["5-0"]
    assert await slow.answer() == ["5-1", "5-2", "5-3", "5-4"]


async def test_a_beginning_goes_with_what_the_same_step_brings(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    slow_log.begin(attempt, "a", "w", None)
    assert slow.send() == 0
    end = End(Done(attempt.next_id(), "stop", 0), "done", 1000)
    finishing = asyncio.ensure_future(slow_log.finish(attempt, end))
    await asyncio.sleep(0)  # it has begun
    assert await slow.answer() == ["5-0", "5-1"]
    await finishing
    assert not slow.has_more


async def test_a_beginning_goes_with_a_chunk_that_comes_soon(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    slow_log.begin(attempt, "a", "w", None)
    await asyncio.sleep(0)
    append(slow_log, attempt)
    assert await slow.answer() == ["5-0", "5-1"]


async def test_a_beginning_goes_alone_where_nothing_comes(slow: SlowWriter, slow_log: EventLog) -> None:
    attempts = [Attempt("j", 5, 1), Attempt("k", 6, 1)]
    for attempt in attempts:
        slow_log.begin(attempt, "a", "w", None)
        assert slow.send() == 0
    async with asyncio.timeout(5):
        while len(slow.announced) < len(attempts):  # noqa: ASYNC110 - it is the clock that is waited for
            await asyncio.sleep(0.001)
    assert await slow.answer() == ["5-0"]
    assert await slow.answer() == ["6-0"]


async def test_an_attempt_that_ends_in_the_step_after_its_beginning_is_one_call(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    slow_log.begin(attempt, "a", "w", None)
    ending = asyncio.create_task(slow_log.finish(attempt, End(Done("5-1", "stop", 0), "done", 1000)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(slow.announced) == 1
    assert slow.send() == 1
    (call, pending), *_ = slow.sent
    assert [event.id for event in decode_frame(call.args[2]).events] == ["5-0", "5-1"]
    pending.tell(b"written")
    assert await ending is None


async def test_a_beginning_that_went_with_the_end_does_not_go_again(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    slow_log.begin(attempt, "a", "w", None)
    ending = asyncio.create_task(slow_log.finish(attempt, End(Done("5-1", "stop", 0), "done", 1000)))
    await asyncio.sleep(0)  # it has begun
    assert await slow.answer([b"cancel", b"no more"]) == ["5-0", "5-1"]
    assert await ending == "no more"
    cancelled = End(Cancelled("5-1", "no more", True), "cancelled", 1000)
    ending = asyncio.create_task(slow_log.finish(attempt, cancelled))
    await asyncio.sleep(0)
    assert await slow.answer() == ["5-0", "5-1"]
    assert await ending is None
    await asyncio.sleep(2 * PATIENCE)  # timers ring in the order of their instants: its own has rung
    await asyncio.sleep(0)
    assert not slow.has_more


async def test_attempts_do_not_wait_for_each_other(slow: SlowWriter, slow_log: EventLog) -> None:
    for attempt in (Attempt("j", 5, 1), Attempt("k", 6, 1)):
        append(slow_log, attempt)
    assert slow.send() == 2


async def test_a_frame_grows_no_larger_than_its_bound(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    for _ in range(7):
        append(slow_log, attempt, "x" * (MAX_MERGED_BYTES // 3))
    sizes = []
    while slow.has_more:
        sizes.append(len(await slow.answer()))
    assert sizes == [2, 2, 2, 1]


async def test_a_large_event_is_a_frame_of_its_own(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    for text in ("a", "x" * MAX_TEXT_CHARS, "b"):
        append(slow_log, attempt, text)
    assert [await slow.answer() for _ in range(3)] == [["5-0"], ["5-1"], ["5-2"]]


async def test_the_reader_of_the_provider_is_told_when_too_much_waits(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    appended = 0
    while not slow_log.is_full(attempt):
        append(slow_log, attempt, "x" * 100_000)
        appended += 100_000
    assert appended <= MAX_WAITING_BYTES + 300_000
    flushing = asyncio.create_task(slow_log.flush(attempt))
    while slow.has_more:
        await slow.answer()
    await flushing
    assert not slow_log.is_full(attempt)


async def test_a_refused_frame_drops_what_waits_and_is_told(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    slow.send()
    append(slow_log, attempt)
    flushing = asyncio.create_task(slow_log.flush(attempt))
    await slow.answer(b"lost")
    with pytest.raises(LeaseLost):
        await flushing
    with pytest.raises(LeaseLost):
        append(slow_log, attempt)
    assert not slow.has_more


def end_of(attempt: Attempt) -> End:
    return End(Done(attempt.next_id(), "stop", 2), "done", 1000)


async def test_the_end_is_written_with_what_waits_and_after_what_is_on_its_way(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    slow.send()
    append(slow_log, attempt)
    finishing = asyncio.create_task(slow_log.finish(attempt, end_of(attempt)))
    await asyncio.sleep(0)
    assert slow.send() == 0
    assert await slow.answer() == ["5-0"]
    assert slow.send() == 1
    assert await slow.answer() == ["5-1", "5-2"]
    assert await finishing is None


async def test_an_answer_that_is_whole_before_anything_was_sent_is_one_frame(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    finishing = asyncio.create_task(slow_log.finish(attempt, end_of(attempt)))
    await asyncio.sleep(0)
    assert slow.send() == 1
    assert await slow.answer() == ["5-0", "5-1"]
    assert await finishing is None


async def test_the_last_frame_is_no_larger_than_its_bound(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    for _ in range(3):
        append(slow_log, attempt, "x" * (MAX_MERGED_BYTES // 2 - 100))
    finishing = asyncio.create_task(slow_log.finish(attempt, end_of(attempt)))
    await asyncio.sleep(0)
    assert await slow.answer() == ["5-0", "5-1"]
    assert await slow.answer() == ["5-2", "5-3"]
    assert await finishing is None


async def test_what_waited_goes_with_the_cancelled_event_where_a_cancel_won(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    end = end_of(attempt)
    finishing = asyncio.create_task(slow_log.finish(attempt, end))
    await asyncio.sleep(0)
    assert await slow.answer([b"cancel", b"enough"]) == ["5-0", "5-1"]
    assert await finishing == "enough"
    cancelled = End(Cancelled(end.event.id, "enough", upstream_closed=True), "cancelled", 1000)
    finishing = asyncio.create_task(slow_log.finish(attempt, cancelled))
    await asyncio.sleep(0)
    assert await slow.answer() == ["5-0", "5-1"]
    assert await finishing is None


async def test_nothing_is_taken_after_the_end(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    finishing = asyncio.create_task(slow_log.finish(attempt, end_of(attempt)))
    await asyncio.sleep(0)
    with pytest.raises(LeaseLost):
        append(slow_log, attempt)
    assert await slow.answer() == ["5-0"]
    await finishing


async def test_many_attempts_at_any_pace_are_whole_in_the_log(
    producer: Producer, log: EventLog, redis: Redis, keys: Keys
) -> None:
    async def write(number: int) -> None:
        job = await producer.enqueue("x", provider="echo")
        attempt = Attempt(job.id, 1000 + number, 1)
        log.append(attempt, Started(attempt.next_id(), 1, "echo", "w"))
        for i in range(number):
            append(log, attempt, f"{i} ")
            if i % 7 == 0:
                await asyncio.sleep(0)
        await log.flush(attempt)
        entries = await redis.xrange(keys.log(job.id))
        frames = [decode_frame(fields[b"f"]) for _, fields in entries[1:]]
        assert [str(frame.last).encode() for frame in frames] == [entry_id for entry_id, _ in entries[1:]]
        texts = [event.text for frame in frames for event in frame.events if isinstance(event, Chunk)]
        assert texts == [f"{i} " for i in range(number)]

    await asyncio.gather(*(write(number) for number in range(0, 60, 3)))
