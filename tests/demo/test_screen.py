"""What is shown."""

import io

import pytest
from rich.cells import cell_len

from demo.jobs import Track
from demo.questions import Question
from demo.screen import Screen, tail
from producer import Started


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("short", "short"),
        ("0123456789", "23456789"),
        ("雪の結晶は", "の結晶は"),
        ("one\nline\x1b[2J", "e [2J"[-8:]),
    ],
)
def test_the_end_of_a_text_is_shown_on_one_line(text: str, shown: str) -> None:
    assert tail(text, 8).endswith(shown)
    assert cell_len(tail(text, 8)) <= 8
    assert tail(text, 8).isprintable()


def test_without_a_terminal_there_are_plain_lines_whatever_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable in ("FORCE_COLOR", "TTY_COMPATIBLE", "CLICOLOR_FORCE"):
        monkeypatch.setenv(variable, "1")
    file = io.StringIO()
    screen, track = Screen(file), Track(Question("echo", "hello"), worker="worker-1")
    with screen.watching([track]):
        screen.observe(track, Started("5-0", 1, "echo", "\x1b[31mworker-1"))
    screen.summary([track], {})
    assert "started by  [31mworker-1" in file.getvalue()
    assert "\x1b" not in file.getvalue()
