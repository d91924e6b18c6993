"""The limits on an answer's time: which timers a clock sets, and when. What they do is in `test_relay`."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from worker.clock import Clocks
from worker.providers.provider import Timeouts

LONG = Timeouts(60.0, 60.0, 60.0, 60.0)


class Timers:
    """Takes down what the loop is asked to do later; nothing is done but by `fire`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> None:
        self.set: list[tuple[float, Callable[..., Any]]] = []
        self._loop = loop
        monkeypatch.setattr(loop, "call_at", self._call_at)
        monkeypatch.setattr(
            loop, "call_later", lambda delay, *what: self._call_at(loop.time() + delay, *what)
        )

    def _call_at(self, when: float, what: Callable[..., Any], *args: Any) -> asyncio.TimerHandle:
        self.set.append((when - self._loop.time(), what))
        return asyncio.TimerHandle(when, what, args, self._loop)

    def fire(self) -> None:
        """Do what was to be done first."""
        _, what = self.set.pop(0)
        what()


@pytest.fixture
async def timers(monkeypatch: pytest.MonkeyPatch) -> Timers:
    return Timers(asyncio.get_running_loop(), monkeypatch)


async def test_answers_that_are_over_at_once_share_one_timer(timers: Timers) -> None:
    clocks = Clocks()
    for _ in range(100):
        with clocks.of(LONG):
            pass
    assert len(timers.set) == 1
    timers.fire()
    assert timers.set == []


async def test_a_clock_that_runs_on_gets_its_timer(timers: Timers) -> None:
    clocks = Clocks()
    with clocks.of(LONG), clocks.of(LONG):
        timers.fire()
        assert [round(seconds) for seconds, _ in timers.set] == [60, 60]


async def test_a_limit_that_is_shorter_than_a_moment_is_not_left_for_later(timers: Timers) -> None:
    with Clocks().of(Timeouts(60.0, 0.001, 60.0, 60.0)):
        assert [seconds < 0.002 for seconds, _ in timers.set] == [True]
    with Clocks().of(Timeouts(60.0, 60.0, 60.0, 0.001)):
        assert [seconds < 0.002 for seconds, _ in timers.set] == [True, True]


async def test_a_clock_that_was_stopped_meanwhile_has_one_timer_when_it_goes_on(timers: Timers) -> None:
    with Clocks().of(LONG) as clock:
        with clock.stopped():
            timers.fire()
            assert timers.set == []
        assert len(timers.set) == 1


async def test_a_clock_that_went_on_before_the_others_got_theirs_gets_no_second_timer(timers: Timers) -> None:
    with Clocks().of(LONG) as clock:
        with clock.stopped():
            pass
        assert len(timers.set) == 2
        timers.fire()
        assert len(timers.set) == 1
