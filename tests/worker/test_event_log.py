"""Events become frames: merged while a write is on its way, bounded, and whole whatever the pace."""

import asyncio

import pytest
from redis.asyncio import Redis

from producer import Chunk, Done, Producer, Started
from producer.connection import Call
from producer.wire.events import MAX_TEXT_CHARS, decode_frame
from producer.wire.keys import Keys
from worker.event_log import MAX_MERGED_BYTES, MAX_WAITING_BYTES, Attempt, End, EventLog, LeaseLost


class SlowWriter:
    """Takes calls; the test answers them."""

    def __init__(self) -> None:
        self.calls: list[tuple[Call, asyncio.Future[bytes]]] = []

    def submit(self, call: Call, *, remember: bool = True) -> "asyncio.Future[bytes]":
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self.calls.append((call, future))
        return future

    async def answer(self, result: bytes = b"written") -> list[str]:
        """Answer the oldest open call; return the ids of the events that its frame held."""
        call, future = next((call, future) for call, future in self.calls if not future.done())
        future.set_result(result)
        await asyncio.sleep(0)  # lets the future's callbacks run, which is all that it has to do
        return [event.id for event in decode_frame(bytes(call.args[1])).events]

    @property
    def open_calls(self) -> int:
        return sum(not future.done() for _, future in self.calls)


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
    assert slow.open_calls == 1
    assert await slow.answer() == ["5-0"]


async def test_what_comes_while_a_write_is_on_its_way_is_one_frame(
    slow: SlowWriter, slow_log: EventLog
) -> None:
    attempt = Attempt("j", 5, 1)
    for _ in range(5):
        append(slow_log, attempt)
    assert slow.open_calls == 1
    assert await slow.answer() == ["5-0"]
    assert await slow.answer() == ["5-1", "5-2", "5-3", "5-4"]


async def test_attempts_do_not_wait_for_each_other(slow: SlowWriter, slow_log: EventLog) -> None:
    for attempt in (Attempt("j", 5, 1), Attempt("k", 6, 1)):
        append(slow_log, attempt)
    assert slow.open_calls == 2


async def test_a_frame_grows_no_larger_than_its_bound(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    for _ in range(7):
        append(slow_log, attempt, "x" * (MAX_MERGED_BYTES // 3))
    sizes = []
    while slow.open_calls:
        sizes.append(len(await slow.answer()))
    assert sizes == [1, 2, 2, 2]


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
    while slow.open_calls:
        await slow.answer()
    await flushing
    assert not slow_log.is_full(attempt)


async def test_a_refused_frame_drops_what_waits_and_is_told(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    append(slow_log, attempt)
    flushing = asyncio.create_task(slow_log.flush(attempt))
    await slow.answer(b"lost")
    with pytest.raises(LeaseLost):
        await flushing
    with pytest.raises(LeaseLost):
        append(slow_log, attempt)
    assert slow.open_calls == 0


async def test_the_end_is_written_after_everything_else(slow: SlowWriter, slow_log: EventLog) -> None:
    attempt = Attempt("j", 5, 1)
    append(slow_log, attempt)
    append(slow_log, attempt)
    finishing = asyncio.create_task(
        slow_log.finish(attempt, End(Done(attempt.next_id(), "stop", 2), "done", 1000))
    )
    await asyncio.sleep(0)
    assert await slow.answer() == ["5-0"]
    assert await slow.answer() == ["5-1"]
    await asyncio.sleep(0)
    slow.calls[-1][1].set_result(b"written")
    await finishing
    assert slow.calls[-1][0].args[1] == "5-2"


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
