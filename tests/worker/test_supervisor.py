"""How worker processes are kept and stopped, with stand-ins for workers that do one thing each."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.facts import PATIENCE, until
from worker import supervisor
from worker.supervisor import USAGE, Backoff, Launch, Supervisor, launches

STAYS = (
    "import pathlib, signal, sys, time\n{}\npathlib.Path(sys.argv[1]).touch()\nwhile True: time.sleep(0.01)"
)
STUBBORN = STAYS.format("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
OBEDIENT = STAYS.format("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))")
SECOND_TIME = """
import pathlib, signal, sys, time
def first(*_):
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(0))
    pathlib.Path(sys.argv[2]).touch()
signal.signal(signal.SIGTERM, first)
pathlib.Path(sys.argv[1]).touch()
while True:
    time.sleep(0.01)
"""

Said = list[dict[str, Any]]


def python(code: str, *arguments: object) -> Launch:
    return Launch([sys.executable, "-c", code, *map(str, arguments)], os.environ)


@contextlib.asynccontextmanager
async def running(
    launch: Callable[[int], Launch], count: int = 1, grace: float = 0.0, **more: Any
) -> AsyncIterator[tuple[Supervisor, "asyncio.Task[int]"]]:
    supervisor = Supervisor(launch, count, grace, **more)
    run = asyncio.create_task(supervisor.run())
    try:
        yield supervisor, run
    finally:
        supervisor.stop()
        supervisor.stop()
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([run])


def pauses(said: Said, number: int = 1) -> list[float]:
    return [line["pause"] for line in said if "pause" in line and line["number"] == number]


async def test_a_worker_that_dies_again_and_again_is_replaced_after_longer_and_longer_pauses() -> None:
    backoff = partial(Backoff, first=0.01, longest=0.05)
    with capture_logs() as said:
        async with running(lambda _: python("raise SystemExit(3)"), backoff=backoff) as (supervisor, run):
            await until(lambda: len(pauses(said)) >= 5)
            supervisor.stop()
            assert await run == 0  # what ended earlier was told then
    assert pauses(said)[:5] == [0.01, 0.02, 0.04, 0.05, 0.05]
    assert {line["ended"] for line in said if "pause" in line} == {"with status 3"}


async def test_a_crash_loop_of_one_worker_leaves_the_others_alone(tmp_path: Path) -> None:
    def launch(number: int) -> Launch:
        return python(OBEDIENT, tmp_path / "up") if number == 1 else python("raise SystemExit(1)")

    with capture_logs() as said:
        async with running(launch, 2, grace=PATIENCE, backoff=partial(Backoff, first=0.01)) as (
            supervisor,
            run,
        ):
            await until(lambda: (tmp_path / "up").exists() and len(pauses(said, 2)) >= 3)
            supervisor.stop()
            assert await run == 0
    assert [line["number"] for line in said if line["event"] == "worker process started"].count(1) == 1


def test_a_worker_that_lived_for_long_is_replaced_as_fast_as_the_first_time() -> None:
    backoff = Backoff(first=1, longest=8, settled=60)
    assert [backoff.after(lived) for lived in (0, 59, 0, 0, 0, 60, 0)] == [1, 2, 4, 8, 8, 1, 2]


async def test_a_worker_that_cannot_use_its_settings_is_not_started_again_and_stops_all(
    tmp_path: Path,
) -> None:
    code = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nsys.exit(2)"

    def launch(number: int) -> Launch:
        return python(OBEDIENT, tmp_path / "up") if number == 1 else python(code, tmp_path / "up")

    with capture_logs() as said:
        async with running(launch, 2, grace=PATIENCE) as (_, run):
            assert await run == USAGE
    assert [line["event"] for line in said].count("worker process started") == 2


async def test_the_first_stop_is_no_second_one_where_settings_have_stopped_all(tmp_path: Path) -> None:
    up, once, bad = tmp_path / "up", tmp_path / "once", tmp_path / "bad"
    code = "import pathlib, sys, time\nwhile not pathlib.Path(sys.argv[1]).exists(): time.sleep(0.01)\nsys.exit(2)"

    def launch(number: int) -> Launch:
        return python(SECOND_TIME, up, once) if number == 1 else python(code, bad)

    async with running(launch, 2, grace=10 * PATIENCE) as (supervisor, run):
        await until(up.exists)
        bad.touch()
        await until(once.exists)  # stopped by the other one's settings
        supervisor.stop()
        assert not supervisor._hurried.is_set()
        supervisor.stop()
        async with asyncio.timeout(PATIENCE):
            assert await run == USAGE


async def test_whoever_does_not_stop_in_time_is_killed_and_that_is_told(tmp_path: Path) -> None:
    launch = lambda number: python([STUBBORN, OBEDIENT][number - 1], tmp_path / str(number))  # noqa: E731
    with capture_logs() as said:
        async with running(launch, 2, grace=0.05, margin=2.0) as (supervisor, run):
            await until(lambda: len(list(tmp_path.iterdir())) == 2)
            supervisor.stop()
            assert await run == 1
    started = {line["number"]: line["pid"] for line in said if line["event"] == "worker process started"}
    assert [line["pid"] for line in said if "is killed" in line["event"]] == [started[1]]


async def test_a_second_stop_is_passed_on_within_the_grace_time(tmp_path: Path) -> None:
    up, once = tmp_path / "up", tmp_path / "once"
    async with running(lambda _: python(SECOND_TIME, up, once), grace=10 * PATIENCE) as (supervisor, run):
        await until(up.exists)
        supervisor.stop()
        await until(once.exists)
        assert not run.done()
        supervisor.stop()
        async with asyncio.timeout(PATIENCE):
            assert await run == 0


async def test_a_stop_before_the_workers_listen_ends_them_and_is_no_failure() -> None:
    async with running(lambda _: python("import time; time.sleep(99)"), 3, grace=PATIENCE) as (
        supervisor,
        run,
    ):
        supervisor.stop()
        assert await run == 0


async def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    program = tmp_path / "program"
    with capture_logs() as said:
        backoff = partial(Backoff, first=0.01, longest=0.01)
        async with running(lambda _: Launch([str(program)], os.environ), backoff=backoff) as (_, run):
            await until(lambda: len(pauses(said)) >= 2)
            program.symlink_to("/bin/true")
            await until(lambda: "worker process started" in [line["event"] for line in said])
            assert not run.done()


async def test_a_worker_that_ends_unasked_is_replaced_also_if_it_ended_well() -> None:
    with capture_logs() as said:
        async with running(lambda _: python("pass"), backoff=partial(Backoff, first=0.01)):
            await until(lambda: len(pauses(said)) >= 2)
    assert {line["ended"] for line in said if "pause" in line} == {"with status 0"}


def test_what_a_worker_is_told_stands_in_its_environment_and_not_in_its_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OF_THE_OPERATOR", "kept")
    monkeypatch.setenv("CHAT_PROCESSES", "3")
    launch = launches("w", {"CHAT_REDIS_URL": "redis://:secret@h", "CHAT_GRACE": "7"})(2)
    assert "secret" not in " ".join(launch.command)
    told = {name: launch.environment[name] for name in ("CHAT_NAME", "CHAT_GRACE", "OF_THE_OPERATOR")}
    assert told == {"CHAT_NAME": "w-2", "CHAT_GRACE": "7", "OF_THE_OPERATOR": "kept"}
    assert launch.environment["CHAT_PROCESSES"] == "1"
    assert "CHAT_NAME" not in launches(None, {})(1).environment


def test_another_worker_in_the_folder_at_hand_is_not_taken_for_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "worker").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "-P" in launches(None, {})(1).command
    monkeypatch.chdir(Path(supervisor.__file__).parents[1])
    assert "-P" not in launches(None, {})(1).command


def test_a_worker_can_be_replaced_when_the_folder_at_hand_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "release"
    release.mkdir()
    monkeypatch.chdir(release)
    launch_of = launches(None, {})
    release.rmdir()
    assert launch_of(1).command[0] == sys.executable


def test_signals_are_told_by_name() -> None:
    from worker.supervisor import _told

    assert (_told(-signal.SIGKILL), _told(3)) == ("by SIGKILL", "with status 3")
