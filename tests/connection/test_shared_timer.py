"""Futures that are given up in time, all by one timer; the clock is the test's."""

import asyncio
import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest

from producer.connection import SharedTimer

Future = asyncio.Future[Any]


class Loop:
    """A loop of which only the clock goes, and only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[..., None], tuple[Any, ...]]] = []

    def time(self) -> float:
        return self.now

    def get_debug(self) -> bool:
        return False

    def call_at(self, when: float, callback: Callable[..., None], *args: Any) -> object:
        self.timers.append((when, callback, args))
        return object()

    def pass_to(self, now: float) -> None:
        """Let the clock go on, and every timer ring whose time comes."""
        self.now = now
        while due := [timer for timer in self.timers if timer[0] <= now]:
            self.timers.remove(due[0])
            _, ring, args = due[0]
            ring(*args)


@pytest.fixture
def loop() -> Loop:
    return Loop()


@pytest.fixture
def new(loop: Loop) -> Callable[[], Future]:
    return lambda: asyncio.Future(loop=loop)  # type: ignore[arg-type]


def is_given_up(future: Future) -> bool:
    return future.done() and isinstance(future.exception(), TimeoutError)


def test_each_is_given_up_when_its_own_time_is_up(loop: Loop, new: Callable[[], Future]) -> None:
    timer, first, second = SharedTimer(5), new(), new()
    assert timer.watch(first) == 105
    loop.pass_to(102)
    assert timer.watch(second) == 107
    loop.pass_to(104.9)
    assert not first.done()
    loop.pass_to(105)
    assert is_given_up(first)
    assert not second.done()
    loop.pass_to(107)
    assert is_given_up(second)
    assert loop.timers == []


def test_one_that_comes_after_the_last_was_given_up_is_so_too(loop: Loop, new: Callable[[], Future]) -> None:
    timer, first, second = SharedTimer(5), new(), new()
    timer.watch(first)
    loop.pass_to(105)
    assert is_given_up(first)
    timer.watch(second)
    loop.pass_to(110)
    assert is_given_up(second)


def test_what_is_done_by_then_is_left_alone(loop: Loop, new: Callable[[], Future]) -> None:
    timer, answered, left, late = SharedTimer(5), new(), new(), new()
    for future in (late, answered, left):
        timer.watch(future)
    answered.set_result("in time")
    left.cancel()
    loop.pass_to(105)
    assert is_given_up(late)
    assert answered.result() == "in time"
    assert left.cancelled()


def test_what_is_done_is_not_kept(new: Callable[[], Future]) -> None:
    timer, done = SharedTimer(5), new()
    timer.watch(done)
    done.set_result("a reply")
    is_kept = weakref.ref(done)
    del done
    timer.watch(new())
    gc.collect()
    assert is_kept() is None


def test_there_is_one_timer_however_many_are_watched(loop: Loop, new: Callable[[], Future]) -> None:
    timer = SharedTimer(5)
    for second in range(3):
        loop.pass_to(100 + second)
        timer.watch(new())
    assert [when for when, _, _ in loop.timers] == [105]
