"""What a model says does nothing to a terminal; a file or a pipe gets all of it."""

import io
import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable

import pytest

from producer.terminal import columns, escaped, in_one_line
from tests.support.processes import PATIENCE, ROOT, environment

SAID = "a\x1b]0;title\x07b\tc\r\nd\x7f\x9b2J é 👨\u200d👩 e"
SHOWN = "a\ufffd]0;title\ufffdb\tc\nd\ufffd\ufffd2J é 👨\u200d👩 e"

WRITES = "import sys; from producer.terminal import {0}; sys.stdout.write({0}({1!r}))"


def test_a_terminal_is_given_no_commands() -> None:
    ours, theirs = pty.openpty()
    code = [sys.executable, "-c", WRITES.format("harmless", SAID)]
    with subprocess.Popen(code, stdout=theirs, cwd=ROOT, env=environment(PYTHONUTF8="1")) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1024):
                shown += part
        except OSError:  # how Linux says that the other end is closed
            pass
        process.wait(PATIENCE)
    os.close(ours)
    assert shown.decode().replace("\r\n", "\n") == SHOWN


def test_a_pipe_is_given_all_of_it() -> None:
    code = [sys.executable, "-c", WRITES.format("harmless", SAID)]
    done = subprocess.run(
        code, capture_output=True, timeout=PATIENCE, check=True, cwd=ROOT, env=environment(PYTHONUTF8="1")
    )
    assert done.stdout.decode() == SAID


def test_json_holds_no_control_character_and_means_the_same() -> None:
    text = escaped(json.dumps(SAID, ensure_ascii=False))
    assert text.isprintable() or set(filter(lambda char: not char.isprintable(), text)) == {"\u200d"}
    assert json.loads(text) == SAID


def test_what_is_told_in_a_line_stays_in_it() -> None:
    assert in_one_line("no\x1b[2J\nmark") == "no [2J mark"


@pytest.mark.parametrize("shorten", [str.strip, str], ids=["short", "long"])
def test_no_cell_of_a_column_is_cut(shorten: Callable[[str], str]) -> None:
    id_ = shorten("x" * 200)
    head, row = columns(("ID", "WHY"), (id_, "so")).splitlines()
    assert row == f"{id_}  so"
    assert head.index("WHY") == row.index("so")


def test_output_that_lacks_a_character_is_given_its_escape(monkeypatch: pytest.MonkeyPatch) -> None:
    from producer.terminal import take_any_text

    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    take_any_text()
    sys.stdout.write("é")
    sys.stdout.flush()
    assert written.getvalue() == b"\\xe9"
