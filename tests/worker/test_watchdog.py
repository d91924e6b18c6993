"""A blocked event loop is told of, with the place in the code, and nobody is blamed for a process that stood still."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import ROOT
from worker import watchdog
from worker.watchdog import Blocked, Finding, InterpreterHeld, StoodStill, WasBlocked, Watch, watch_the_loop

LIMIT = 5.0  # seconds, of which the looks are one apart
PATIENCE = 20.0  # seconds after which a fact that did not come is a failed test


# -- what looks add up to --------------------------------------------------------------------------------------


@dataclass
class Clock:
    """A process whose time the test tells; it looks at a loop that the test lets answer."""

    now: float = 100.0
    cpu: float = 3.0
    watch: Watch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Watch(LIMIT, now=self.now, cpu=self.cpu)

    def look(self, after: float = 1.0, *, busy: float = 0.0, answered: float | None = None) -> list[Finding]:
        """Look ``after`` seconds, ``busy`` of them on the processor; the loop ``answered`` at an instant, or not."""
        self.now += after
        self.cpu += busy
        return list(self.watch.look(self.now, self.cpu, answered_at=answered))

    def looks(self, times: int) -> list[Finding]:
        """Look some times, a second apart, at a loop that gives no sign."""
        return [finding for _ in range(times) for finding in self.look()]


def test_a_loop_that_answers_each_time_is_not_told_of() -> None:
    clock = Clock()
    assert [clock.look(answered=clock.now + 0.9) for _ in range(50)] == [[]] * 50


def test_a_loop_that_answers_late_but_within_the_limit_is_not_told_of() -> None:
    clock = Clock()
    for _ in range(10):
        asked_at = clock.now
        assert clock.looks(4) == []
        assert clock.look(answered=asked_at + 4.5) == []


def test_a_blockage_is_told_once_when_the_limit_is_reached_and_once_when_it_ends() -> None:
    clock = Clock()
    asked_at = clock.now
    assert clock.looks(4) == []
    assert clock.look() == [Blocked(5.0)]
    assert clock.looks(30) == []
    assert clock.look(answered=asked_at + 35.5) == [WasBlocked(35.5, told=True)]
    assert clock.look(answered=clock.now) == []


def test_each_blockage_is_told_of() -> None:
    clock = Clock()
    for _ in range(3):
        asked_at = clock.now
        assert clock.looks(8) == [Blocked(5.0)]
        assert clock.look(answered=asked_at + 8.5) == [WasBlocked(8.5, told=True)]


def test_a_blockage_that_ends_between_two_looks_is_still_told() -> None:
    clock = Clock()
    asked_at = clock.now
    assert [clock.look(0.98) for _ in range(5)] == [[]] * 5
    assert clock.look(0.98, answered=asked_at + 5.2) == [WasBlocked(pytest.approx(5.2), told=False)]


@pytest.mark.parametrize("answered_after", [None, 0.1, 59.9])
def test_a_process_that_stood_still_is_no_blocked_loop(answered_after: float | None) -> None:
    clock = Clock()
    answered = None if answered_after is None else clock.now + answered_after
    assert clock.look(60.0, answered=answered) == [StoodStill(60.0)]
    if answered is None:
        assert clock.looks(3) == []
    assert clock.look(answered=clock.now + 0.5) == []


def test_a_short_halt_is_not_counted_against_the_loop() -> None:
    clock = Clock()
    asked_at = clock.now
    for _ in range(3):
        assert clock.look(4.0) == []  # three of these four seconds nobody ran
    assert clock.look(answered=asked_at + 12.5) == []


def test_a_loop_that_stays_blocked_after_its_process_stood_still_is_told_of() -> None:
    clock = Clock()
    asked_at = clock.now
    assert clock.look(60.0) == [StoodStill(60.0)]
    assert clock.looks(4) == [Blocked(64.0)]
    assert clock.look(answered=asked_at + 64.5) == [WasBlocked(64.5, told=True)]


def test_the_end_of_a_blockage_is_told_also_if_the_process_stood_still_meanwhile() -> None:
    clock = Clock()
    asked_at = clock.now
    assert clock.looks(5) == [Blocked(5.0)]
    assert clock.look(60.0, answered=asked_at + 64.0) == [StoodStill(60.0), WasBlocked(64.0, told=True)]


@pytest.mark.parametrize("answered_after", [0.1, 7.9])
def test_a_held_interpreter_is_told_from_a_process_that_stood_still(answered_after: float) -> None:
    clock = Clock()
    assert clock.look(8.0, busy=7.5, answered=clock.now + answered_after) == [InterpreterHeld(8.0)]
    assert clock.look(answered=clock.now) == []


def test_a_loop_that_the_interpreters_holder_keeps_blocked_is_told_of_once() -> None:
    clock = Clock()
    asked_at = clock.now
    assert clock.look(8.0, busy=7.5) == [InterpreterHeld(8.0)]
    assert clock.looks(20) == []
    assert clock.look(answered=asked_at + 28.5) == [WasBlocked(28.5, told=True)]


# -- a real loop, a real thread --------------------------------------------------------------------------------


class Lines:
    """Stands in for the logger: what it was told, and who waits for which line."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        self._came = threading.Condition()

    def warning(self, event: str, **fields: Any) -> None:
        self._take("warning", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        self._take("info", event, fields)

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for _, told, fields in self.told if told == event]

    def wait_for(self, event: str) -> dict[str, Any]:
        """Block the calling thread until a line of this event is there, and return its fields."""
        with self._came:
            assert self._came.wait_for(lambda: self.of(event), PATIENCE), self.told
        return self.of(event)[0]

    def _take(self, level: str, event: str, fields: dict[str, Any]) -> None:
        with self._came:
            self.told.append((level, event, fields))
            self._came.notify_all()


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Iterator[Lines]:
    told = Lines()
    monkeypatch.setattr(watchdog, "logger", told)
    yield told
    assert threads() == [], "the thread ends with its context"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "chatrelay-watchdog"]


async def test_a_blocked_loop_is_told_with_the_place_and_again_when_it_runs(lines: Lines) -> None:
    def an_innocent_looking_call(wait: Callable[[str], object], password: str) -> None:
        wait("the event loop is blocked")  # which is the blockage

    async with watch_the_loop(0.05):
        an_innocent_looking_call(lines.wait_for, "hunter2")
        await asyncio.to_thread(lines.wait_for, "the event loop runs again")
    (blocked,), (again,) = lines.of("the event loop is blocked"), lines.of("the event loop runs again")
    assert again["seconds"] >= blocked["seconds"] >= 0.05
    assert tuple(level for level, event, _ in lines.told if event.startswith("the event loop")) == (
        "warning",
        "info",
    )
    file, line = str(Path(__file__)), an_innocent_looking_call.__code__.co_firstlineno + 1
    assert any(
        place.startswith(f"{file}:{line} ") and place.endswith("an_innocent_looking_call")
        for place in blocked["where"]
    )
    assert len(blocked["where"]) <= watchdog.FRAMES
    assert "hunter2" not in repr(lines.told)


async def test_the_thread_ends_with_its_context(lines: Lines) -> None:
    async with watch_the_loop(0.05):
        (thread,) = threads()
        assert thread.daemon
    assert not thread.is_alive()


async def test_the_thread_ends_when_its_context_breaks_or_is_cancelled(lines: Lines) -> None:
    with pytest.raises(ZeroDivisionError):
        async with watch_the_loop(0.05):
            raise ZeroDivisionError
    assert threads() == []

    inside = asyncio.Event()

    async def wait_inside() -> None:
        async with watch_the_loop(0.05):
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(wait_inside())
    async with asyncio.timeout(PATIENCE):
        await inside.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


def test_the_thread_ends_with_a_loop_that_was_closed_over_it(lines: Lines) -> None:
    loop = asyncio.new_event_loop()
    context = watch_the_loop(0.01)
    loop.run_until_complete(context.__aenter__())
    (thread,) = threads()
    loop.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


async def test_it_costs_the_loop_a_few_calls_per_limit(lines: Lines, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[float] = []
    enough = asyncio.Event()
    loop = asyncio.get_running_loop()
    ask = loop.call_soon_threadsafe

    def counted(*args: Any, **more: Any) -> Any:
        calls.append(time.monotonic())
        if len(calls) == 4:
            ask(enough.set)
        return ask(*args, **more)

    monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
    begun = time.monotonic()
    async with watch_the_loop(0.25), asyncio.timeout(PATIENCE):
        await enough.wait()
    assert calls[3] - begun >= 3 * 0.25 / watchdog.LOOKS


STOPPED = """
import asyncio, sys
from worker.watchdog import watch_the_loop

async def main():
    async with watch_the_loop(0.5):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)

asyncio.run(main())
"""


def test_a_stopped_and_continued_process_blames_nobody() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGSTOP)
            time.sleep(1.5)  # three limits: how long it stands still is what is tested
            process.send_signal(signal.SIGCONT)
            line = process.stdout.readline()
            assert "the whole process stood still" in line
            process.stdin.write("\n")
            process.stdin.flush()
            rest = process.stdout.read()
        finally:
            process.kill()
    assert "blocked" not in line + rest
    assert process.returncode == 0
