"""A seat at a channel: what arrived together is one thing to read, and silence ends when it should."""

import asyncio
import gc
import logging

import pytest

from producer.seat import MAX_FRAMES_WAITING, Room, Seat
from producer.wire.events import Chunk, Event, Started
from producer.wire.frames import Frame, encode
from tests.support.facts import until

LONG = 60.0  # seconds that no test takes


def chunk(seq: int, attempt: int = 1) -> bytes:
    return encode(Chunk(f"{attempt}-{seq}", "x"))


def frame(seq: int) -> Frame:
    return Frame(1, seq, (Chunk(f"1-{seq}", "x"),))


class Door:
    """Notes which rooms have become empty."""

    def __init__(self) -> None:
        self.empty: list[Room] = []

    def room(self) -> Room:
        return Room(b"channel", self.empty.append)


def ids(frames: list[Frame] | None) -> list[list[str]]:
    assert frames is not None
    return [[event.id for event in frame.events] for frame in frames]


async def wait_in(seat: Seat, timeout: float = LONG) -> "asyncio.Task[list[Frame] | None]":
    """Return a task that waits there already."""
    task = asyncio.create_task(seat.take(timeout))
    await asyncio.sleep(0)
    return task


# -- what arrives together -------------------------------------------------------------------------------------


async def test_what_was_published_together_is_one_frame_and_the_same_one_for_all() -> None:
    room = Door().room()
    seats = [room.sit_down() for _ in range(3)]
    room.hand_out([chunk(1), chunk(2) + chunk(3), chunk(4)])
    taken = [await seat.take(LONG) for seat in seats]
    assert ids(taken[0]) == [["1-1", "1-2", "1-3", "1-4"]]
    assert all(frames is not None and taken[0] is not None and frames[0] is taken[0][0] for frames in taken)


async def test_a_reader_who_waits_is_woken_once_by_all_that_came_in_one_step() -> None:
    room = Door().room()
    seat = room.sit_down()
    waiting = await wait_in(seat)
    room.hand_out([chunk(1)])
    room.hand_out([chunk(2)])
    assert ids(await waiting) == [["1-1"], ["1-2"]]
    assert not (await wait_in(seat)).done()


async def test_what_does_not_follow_is_handed_out_frame_by_frame() -> None:
    room = Door().room()
    seat = room.sit_down()
    started: Event = Started("2-0", 1, "p", "w")
    room.hand_out([chunk(1), chunk(1), chunk(5), encode(started)])
    assert ids(await seat.take(LONG)) == [["1-1"], ["1-1"], ["1-5"], ["2-0"]]


async def test_much_at_once_is_not_made_one_frame_that_is_over_the_bound() -> None:
    room = Door().room()
    seat = room.sit_down()
    large = [encode(Chunk(f"1-{seq}", "x" * 200_000)) for seq in range(1, 4)]
    room.hand_out(large)
    assert ids(await seat.take(LONG)) == [["1-1"], ["1-2"], ["1-3"]]


async def test_what_is_no_frame_sends_all_readers_to_the_log_and_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    room = Door().room()
    seats = [room.sit_down() for _ in range(2)]
    with caplog.at_level(logging.WARNING, "chatrelay.listener"):
        room.hand_out([chunk(1), b"\xc1", chunk(2)])
    assert [await seat.take(LONG) for seat in seats] == [None, None]
    assert len(caplog.records) == 1


async def test_more_frames_than_a_seat_holds_send_its_reader_to_the_log_and_no_other() -> None:
    room = Door().room()
    slow, quick = room.sit_down(), room.sit_down()
    for seq in range(MAX_FRAMES_WAITING + 1):
        room.hand_out([chunk(seq)])
        assert ids(await quick.take(LONG)) == [[f"1-{seq}"]]
    assert await slow.take(LONG) is None
    room.hand_out([chunk(0)])
    assert ids(await slow.take(LONG)) == [["1-0"]]


# -- silence ---------------------------------------------------------------------------------------------------


async def test_silence_ends_after_its_time_and_not_before() -> None:
    seat = Seat()
    loop = asyncio.get_running_loop()
    began = loop.time()
    assert await seat.take(0.05) is None
    assert loop.time() - began >= 0.05


async def test_each_wait_has_its_own_time_however_long_or_short_the_one_before_was() -> None:
    seat = Seat()
    loop = asyncio.get_running_loop()
    for before, now in ((LONG, 0.02), (0.02, 0.1)):
        waiting = await wait_in(seat, before)
        seat.put(frame(1), 1)
        assert await waiting == [frame(1)]
        began = loop.time()
        assert await seat.take(now) is None
        assert loop.time() - began >= now


async def test_a_reader_of_a_busy_channel_sets_no_timer_for_each_wait() -> None:
    seat = Seat()
    timers = set()
    for seq in range(100):
        waiting = await wait_in(seat)
        timers.add(seat._timer)
        seat.put(frame(seq), 1)
        await waiting
    assert len(timers) == 1


async def test_a_wait_that_was_cancelled_loses_nothing() -> None:
    seat = Seat()
    waiting = await wait_in(seat)
    waiting.cancel()
    seat.put(frame(1), 1)
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await seat.take(LONG) == [frame(1)]
    waiting = await wait_in(seat)
    seat.put(frame(2), 1)
    waiting.cancel()  # in the very step in which it was woken
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await seat.take(LONG) == [frame(2)]


async def test_a_second_one_who_waits_in_the_same_seat_is_told_so() -> None:
    seat = Seat()
    waiting = await wait_in(seat)
    with pytest.raises(RuntimeError, match="already"):
        await seat.take(LONG)
    seat.put(frame(1), 1)
    assert await waiting == [frame(1)]


# -- leaving ---------------------------------------------------------------------------------------------------


async def test_a_room_is_empty_when_the_last_one_has_left_and_that_is_told_once() -> None:
    door = Door()
    room = door.room()
    first, second = room.sit_down(), room.sit_down()
    first.leave()
    first.leave()
    assert door.empty == []
    second.leave()
    assert door.empty == [room]


async def test_a_seat_that_was_dropped_leaves_by_itself_even_while_its_timer_runs() -> None:
    door = Door()
    room = door.room()
    seat = room.sit_down()
    waiting = await wait_in(seat)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert seat._timer is not None
    del seat, waiting
    gc.collect()
    await until(lambda: door.empty == [room])


async def test_who_waits_in_a_seat_that_is_left_is_woken() -> None:
    seat = Door().room().sit_down()
    waiting = await wait_in(seat)
    seat.leave()
    assert await waiting is None
