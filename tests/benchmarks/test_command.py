"""What the scripts are told, and what a run of all of them hands on."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as every
from benchmarks import command, servers
from benchmarks.report import RESULTS


def test_a_quick_look_leaves_the_committed_results_alone() -> None:
    given = command.parse(command.parser(None), ["--quick"])
    assert given.out != RESULTS
    assert given.out.is_dir()
    assert (given.repeats, given.server) == (1, servers.available()[:1])


def test_a_whole_run_takes_every_server_three_times() -> None:
    given = command.parse(command.parser(None), [])
    assert (given.out, given.repeats, given.server) == (RESULTS, 3, servers.available())


def test_every_script_is_told_the_same() -> None:
    given = command.parse(command.parser(None), ["--quick", "--repeats", "2", "--only", "50 streams"])
    assert command.parse(command.parser(None), command.again(given)) == given


def test_every_script_that_is_run_is_there() -> None:
    assert {"relay", "growth"} <= set(every.present()) <= set(every.SCRIPTS)


@pytest.mark.parametrize(
    ("source", "succeeds"), [("print('measured')", True), ("raise SystemExit(1)", False)]
)
def test_a_script_that_fails_is_noted(
    source: str, succeeds: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_instead(monkeypatch, tmp_path, source)
    assert every.succeeds("script", [], 30.0) is succeeds


def test_a_script_that_takes_too_long_is_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "import contextlib, threading\nwith contextlib.suppress(KeyboardInterrupt):\n    threading.Event().wait()"
    run_instead(monkeypatch, tmp_path, source)
    assert not every.succeeds("script", [], 0.2)


def test_a_script_is_ended_as_by_ctrl_c_so_that_it_ends_what_it_has_started() -> None:
    source = "import threading\ntry:\n    print('begun', flush=True)\n    threading.Event().wait()\n"
    source += "finally:\n    print('over')"
    with subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        every.end(process)
        assert process.stdout.read() == "over\n"


def run_instead(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Let the run find this script in place of ours."""
    package = folder / "benchmarks"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "script.py").write_text(source)
    monkeypatch.setattr(every, "ROOT", folder)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
