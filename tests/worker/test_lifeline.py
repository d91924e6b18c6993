"""What a worker does when its supervisor is gone."""

import signal
import subprocess
import sys

import pytest

from tests.support.processes import PATIENCE, ROOT, environment
from worker.signals import _Stops

WATCHING = """
import asyncio
from worker.lifeline import when_cut
try:
    import uvloop
except ImportError:
    uvloop = None

async def main():
    cut = asyncio.Event()
    when_cut({callback}, {seconds})
    print("watching", flush=True)
    await cut.wait()

with asyncio.Runner(loop_factory={loop}) as runner:
    runner.run(main())
"""


def watching(callback: str, seconds: float, loop: str = "None") -> "subprocess.Popen[bytes]":
    code = WATCHING.format(callback=callback, seconds=seconds, loop=loop)
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )


@pytest.mark.parametrize("loop", ["None", "uvloop and uvloop.new_event_loop"])
def test_the_end_of_standard_input_is_told_once_and_what_is_written_there_is_nothing(loop: str) -> None:
    callback = "lambda: (print('cut', flush=True), cut.set())"
    with watching(callback, 60, loop) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"watching\n"
        process.stdin.write(b"not yet")
        process.stdin.flush()
        out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (0, b"cut\n")


def test_an_orphan_that_does_not_stop_ends_all_the_same() -> None:
    with watching("lambda: None", 0.05) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"watching\n"
        process.communicate(timeout=PATIENCE)
    assert process.returncode == 1


@pytest.mark.parametrize(
    ("numbers", "stops"),
    [
        ([signal.SIGHUP, signal.SIGHUP], 1),  # of the shell, and of the system
        ([signal.SIGTERM, signal.SIGHUP], 1),
        ([signal.SIGHUP, signal.SIGTERM], 2),
        ([signal.SIGINT, signal.SIGTERM], 2),
    ],
)
def test_the_end_of_the_terminal_is_no_second_stop(numbers: list[signal.Signals], stops: int) -> None:
    told: list[None] = []
    hearing = _Stops(lambda: told.append(None))
    for number in numbers:
        hearing.hear(number)
    assert len(told) == stops


def test_only_the_end_of_the_terminal_is_ignored_where_it_was_when_the_process_began() -> None:
    """A script without job control starts its children with SIGINT ignored."""
    code = "from worker.signals import _heeded; print(*(number.name for number in _heeded()))"
    command = ["sh", "-c", 'trap \'\' HUP INT TERM; exec "$0" -c "$1"', sys.executable, code]
    done = subprocess.run(
        command, capture_output=True, timeout=PATIENCE, check=True, cwd=ROOT, env=environment()
    )
    assert done.stdout.split() == [b"SIGTERM", b"SIGINT"]


STAYS = """
import asyncio, threading, time

async def stays():
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            pass
"""
"""What a provider may leave behind: no cancel stops it."""

BREAKS = """
from worker.lifeline import before_a_forced_end
from worker.signals import run_until_stopped

class Work:
    async def run(self):
        self.staying = asyncio.create_task(stays())
        raise RuntimeError

    def stop(self):
        pass

before_a_forced_end(lambda: print("what it started is ended", flush=True))
run_until_stopped(Work(), threading.Event(), fast=False, margin=0.05)
"""


def test_a_worker_that_breaks_is_not_kept_either_and_what_it_started_ends_with_it() -> None:
    code = [sys.executable, "-c", STAYS + BREAKS]
    done = subprocess.run(
        code, timeout=PATIENCE, check=False, cwd=ROOT, env=environment(), capture_output=True
    )
    assert (done.returncode, done.stdout) == (1, b"what it started is ended\n")


HELD_UP = """
from worker.signals import run_until_stopped

class Work:
    async def run(self):
        asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600)
        self.staying = asyncio.create_task(stays())

    def stop(self):
        pass

run_until_stopped(Work(), threading.Event(), fast={fast}, margin=0.05)
"""


@pytest.mark.parametrize("fast", [False, True])
def test_a_worker_that_has_stopped_is_kept_by_nothing_that_a_provider_left_behind(fast: bool) -> None:
    code = [sys.executable, "-c", STAYS + HELD_UP.format(fast=fast)]
    done = subprocess.run(code, timeout=PATIENCE, check=False, cwd=ROOT, env=environment())
    assert done.returncode == 1
