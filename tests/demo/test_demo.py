"""The demo as people run it, and proof that it can fail."""

import asyncio
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from demo import workers
from demo.__main__ import main
from demo.questions import Answer, openai_question
from demo.upstream import Sent, Upstream
from demo.workers import NAMES

ROOT = Path(__file__).parents[2]
PROVIDERS = ("groq", "vllm", "acytoo", "chatanywhere", "echo")
PATIENCE = 60.0  # seconds after which a demo that has not ended is a failed test

QUICK = "import sys, demo.__main__ as d; sys.exit(d.main(pause=0.002))"


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """An environment whose temporary files all lie in ``tmp_path``; its variables are meant for other workers."""
    return {**os.environ, "TMPDIR": str(tmp_path), "CHAT_PREFIX": "other", "CHAT_CONFIG": "/nowhere"}


def the_table(output: str) -> dict[str, list[tuple[str, str]]]:
    """Worker and result of every row, by provider."""
    rows: dict[str, list[tuple[str, str]]] = {}
    for row in re.finditer(
        r"^(\w+) +[1-9]\d* +\d+\.\d\d s +\d+\.\d\d s +(\S+) +(.+?) *$", output, re.MULTILINE
    ):
        rows.setdefault(row[1], []).append((row[2], row[3]))
    return rows


def nothing_is_left(process: subprocess.Popen[str], output: str, folder: Path) -> bool:
    """No worker, which would be in the demo's process group, no server at its port, no file."""
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    port = re.search(r"redis://127\.0\.0\.1:(\d+)", output)
    assert port is not None
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", int(port[1]))) != 0 and not list(folder.iterdir())


@contextmanager
def the_demo(environ: dict[str, str], *arguments: str, **streams: Any) -> Iterator[subprocess.Popen[str]]:
    """A running demo, in a session of its own; one that does not end by itself is killed."""
    command = [sys.executable, *(arguments or ("-m", "demo"))]
    with subprocess.Popen(
        command, cwd=ROOT, env=environ, text=True, encoding="utf-8", start_new_session=True, **streams
    ) as process:
        killer = threading.Timer(PATIENCE, os.killpg, (process.pid, signal.SIGKILL))
        killer.start()
        try:
            yield process
            process.wait()
        finally:
            killer.cancel()
            killer.join()
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def test_the_demo_tells_in_plain_lines_that_every_text_is_the_same(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with the_demo(environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        output, errors = process.communicate()
    assert (process.returncode, errors) == (0, "")
    assert "\x1b" not in output
    table = the_table(output)
    assert set(table) == set(PROVIDERS)
    assert sum(len(rows) for rows in table.values()) == 10
    assert {worker for rows in table.values() for worker, _ in rows} == set(NAMES)
    assert {result for rows in table.values() for _, result in rows} == {"same as sent"}
    assert nothing_is_left(process, output, tmp_path)


def test_at_a_terminal_the_answers_stream_side_by_side(environ: dict[str, str]) -> None:
    ours, theirs = pty.openpty()
    environ["TERM"] = "xterm-256color"
    with the_demo(environ, "-c", QUICK, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = bytearray()
        while data := _read_terminal(ours):
            shown += data
    os.close(ours)
    assert process.returncode == 0
    output = shown.decode()
    assert "\x1b[?25l" in output  # the cursor is hidden while it moves
    assert "\x1b[?25h" in output  # and comes back
    assert set(the_table(re.sub(r"\x1b\[[0-9;?]*\w|\r", "", output))) == set(PROVIDERS)


def _read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # nobody writes any more
        return b""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_interrupted_it_stops_everything(
    environ: dict[str, str], tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with the_demo(environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        output = ""
        while "first chunk" not in output:
            line = process.stdout.readline()
            assert line, output
            output += line
        process.send_signal(number)
        output += process.communicate()[0]
    assert process.returncode == status
    assert "Traceback" not in output
    assert nothing_is_left(process, output, tmp_path)


def test_when_the_reader_of_its_output_leaves_the_demo_goes_on(
    environ: dict[str, str], tmp_path: Path
) -> None:
    with the_demo(environ, "-c", QUICK, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        output = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
    assert (process.returncode, errors) == (0, "")
    assert nothing_is_left(process, output, tmp_path)


class LyingUpstream(Upstream):
    """Has sent more to one question than it keeps a record of."""

    def begin(self, question: str) -> Sent:
        record = super().begin(question)
        if question.startswith("Why do leaves"):
            record.text += b"Well, "
        return record


class LeavingUpstream(Upstream):
    """Knows no answer to one of the questions."""

    def __init__(self, answers: dict[str, Answer], keys: dict[str, str], *, pause: float) -> None:
        super().__init__({q: a for q, a in answers.items() if not q.startswith("Warum")}, keys, pause=pause)


def test_a_text_that_differs_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(LyingUpstream, pause=0.002) == 1
    output, errors = capsys.readouterr()
    results = [result for rows in the_table(output).values() for _, result in rows]
    assert sorted(results) == ["DIFFERS"] + ["same as sent"] * 9
    (line,) = [line for line in errors.splitlines() if line.startswith("demo: ")]
    assert line.startswith(
        "demo: groq: 'Why do leaves turn red in autumn?' the text differs from character 0 on: "
    )


def test_a_job_that_failed_fails_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(LeavingUpstream, pause=0.002) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("demo: ")]
    assert line.startswith("demo: acytoo: 'Warum ist der Himmel blau, und warum ni…' failed (")
    assert "no answer to this question" in line


def test_a_worker_that_died_fails_the_demo_and_its_log_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_CONFIG", '[providers.groq]\nkind = "unheard-of"\n')
    assert main(pause=0.002) == 1
    errors = capsys.readouterr().err
    assert re.search(r"^demo: worker-[12] ended too early, with status 2$", errors, re.MULTILINE)
    assert re.search(r"^worker-[12]: .*'unheard-of' is unknown", errors, re.MULTILINE)


def test_it_ends_at_its_time_limit(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(limit=0.01) == 1
    assert "demo: not over within 0.01 s" in capsys.readouterr().err


OPENAI_KEY = "sk-the-callers-own-key"


@pytest.fixture
def openai_environ(environ: dict[str, str]) -> dict[str, str]:
    return {**environ, "OPENAI_API_KEY": OPENAI_KEY, "OPENAI_MODEL": "gpt-test"}


async def run_quick_demo(environ: dict[str, str]) -> tuple[int, str, str]:
    def run() -> tuple[int, str, str]:
        with the_demo(environ, "-c", QUICK, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            output, errors = process.communicate()
        return process.returncode, output, errors

    return await asyncio.to_thread(run)


async def test_with_a_key_one_more_job_goes_to_the_real_service(openai_environ: dict[str, str]) -> None:
    question = openai_question(openai_environ)
    assert question is not None
    answers = {question.text: Answer("Because water swallows red.")}
    async with Upstream(answers, {"openai": OPENAI_KEY}, pause=0) as service:
        openai_environ["OPENAI_BASE_URL"] = f"{service.url}/openai/v1"
        status, output, errors = await run_quick_demo(openai_environ)
        assert (status, errors) == (0, "")
        assert bytes(service.sent[question.text].text) == b"Because water swallows red."
    assert "model gpt-test" in output
    ((_, result),) = the_table(output)["openai"]
    assert result == "not compared"
    assert OPENAI_KEY not in output


async def test_when_the_real_service_refuses_the_demo_fails_and_says_why(
    openai_environ: dict[str, str],
) -> None:
    async with Upstream({}, {"openai": "another-key"}, pause=0) as service:
        openai_environ["OPENAI_BASE_URL"] = f"{service.url}/openai/v1"
        status, output, errors = await run_quick_demo(openai_environ)
    assert status == 1
    (line,) = [line for line in errors.splitlines() if line.startswith("demo: ")]
    assert re.match(r"demo: openai: '.*' failed \(\w+\): .*401.*this key is not known here", line)
    assert OPENAI_KEY not in output + errors


def test_without_a_key_nobody_else_is_asked() -> None:
    assert openai_question({}) is None
    assert openai_question({"OPENAI_API_KEY": "", "OPENAI_BASE_URL": "http://x"}) is None
