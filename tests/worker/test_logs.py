"""G12: what a provider raises is logged, and what it holds is not shown."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import structlog

from tests.support.processes import PATIENCE, ROOT, environment
from worker import logs

SECRET = "Zq9-not-to-be-shown"


@pytest.fixture(autouse=True)
def _restore_logging() -> object:
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_neither_a_secret_nor_local_variables_are_shown(
    log_format: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up("info", log_format)
    logs.hide([SECRET])

    def call_the_service(prompt: str) -> None:
        raise KeyError(f"header {SECRET}")

    prompt = "a private prompt"
    try:
        call_the_service(prompt)
    except KeyError:
        structlog.get_logger().exception("a provider crashed", error=f"it said {SECRET}")
    shown = capsys.readouterr().err
    assert "a provider crashed" in shown
    assert "KeyError" in shown
    assert "call_the_service" in shown
    assert SECRET not in shown
    assert prompt not in shown


def test_lines_below_the_level_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("warning", "json")
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert capsys.readouterr().err.count("\n") == 1


def test_a_line_is_written_with_its_end_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes share an output: what is written in two goes, another one's line may come between."""
    written: list[str] = []

    class Recorder(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            return len(text)

    monkeypatch.setattr("sys.stderr", Recorder())
    logs.set_up("info", "json")
    structlog.get_logger().info("a line")
    (line,) = written
    assert json.loads(line)["event"] == "a line"
    assert line.endswith("}\n")


def test_a_line_that_cannot_be_written_is_lost_and_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    full = Path("/dev/full").open("w", buffering=1)  # noqa: SIM115 - it tries once more at its end, and raises
    monkeypatch.setattr("sys.stderr", full)
    logs.set_up("info", "json")
    structlog.get_logger().warning("nobody will read this")
    with pytest.raises(OSError, match="No space left"):
        full.close()


@pytest.mark.parametrize("log_format", ["json", "console", "auto"])
def test_a_worker_whose_standard_error_is_closed_works_without_it(log_format: str) -> None:
    code = (
        "import structlog; from worker import logs; "
        f"logs.set_up('info', {log_format!r}); structlog.get_logger().warning('lost'); print('went on')"
    )
    command = ["sh", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, code]
    done = subprocess.run(
        command, capture_output=True, timeout=PATIENCE, check=False, cwd=ROOT, env=environment()
    )
    assert (done.returncode, done.stdout) == (0, b"went on\n")
