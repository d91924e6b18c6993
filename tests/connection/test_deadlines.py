"""Futures that are given up in time, all by one timer."""

import asyncio
import gc
import weakref

import pytest

from producer.connection import Deadlines


async def test_each_is_given_up_when_its_own_time_is_up() -> None:
    deadlines = Deadlines(0.02)
    loop = asyncio.get_running_loop()
    first: asyncio.Future[str] = loop.create_future()
    due_first = deadlines.watch(first)
    with pytest.raises(TimeoutError):
        await first
    assert loop.time() >= due_first
    second, third = loop.create_future(), loop.create_future()
    due_second = deadlines.watch(second)
    await asyncio.sleep(0.01)
    due_third = deadlines.watch(third)
    assert due_third > due_second
    for future, due in ((second, due_second), (third, due_third)):
        with pytest.raises(TimeoutError):
            await future
        assert loop.time() >= due


async def test_what_is_done_by_then_is_left_alone() -> None:
    deadlines = Deadlines(0.01)
    loop = asyncio.get_running_loop()
    answered, left, late = loop.create_future(), loop.create_future(), loop.create_future()
    for future in (answered, left, late):
        deadlines.watch(future)
    answered.set_result("in time")
    left.cancel()
    with pytest.raises(TimeoutError):
        await late
    assert answered.result() == "in time"
    assert left.cancelled()


async def test_what_is_done_is_not_kept() -> None:
    deadlines = Deadlines(60)
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    deadlines.watch(done)
    done.set_result("a reply")
    is_kept = weakref.ref(done)
    del done
    deadlines.watch(loop.create_future())
    gc.collect()
    assert is_kept() is None


async def test_there_is_one_timer_however_many_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines = Deadlines(60)
    loop = asyncio.get_running_loop()
    timers: list[float] = []
    monkeypatch.setattr(type(loop), "call_at", lambda _, when, *__: timers.append(when) or object())
    dues = [deadlines.watch(loop.create_future()) for _ in range(100)]
    assert timers == dues[:1]
