"""How a model is asked for the rest of an answer whose beginning stands."""

import copy
from typing import Any

import pytest

from worker.providers.continuation import GO_ON, Continuation, continued

MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Tell me a tale."}]},
]


@pytest.mark.parametrize(
    ("how", "added"),
    [
        ("prefill", [{"role": "assistant", "content": "Once up"}]),
        ("ask", [{"role": "assistant", "content": "Once up"}, {"role": "user", "content": GO_ON}]),
    ],
)
def test_the_text_that_stands_follows_the_conversation_as_the_models_own(
    how: Continuation, added: list[Any]
) -> None:
    assert continued(MESSAGES, "Once up", how) == [*MESSAGES, *added]


@pytest.mark.parametrize("how", ["ask", "prefill"])
def test_the_jobs_own_messages_stay_as_they_are(how: Continuation) -> None:
    messages = copy.deepcopy(MESSAGES)
    longer = continued(messages, "Once up", how)
    assert longer is not messages
    assert messages == MESSAGES


@pytest.mark.parametrize("how", ["ask", "prefill"])
@pytest.mark.parametrize("text", [" ", "Grüß 🙂\n", "…mid-wo"])
def test_the_text_is_handed_on_to_the_character(how: Continuation, text: str) -> None:
    assert continued(MESSAGES, text, how)[len(MESSAGES)]["content"] == text


def test_the_request_asks_for_the_rest_and_nothing_else() -> None:
    for word in ("exactly where it stops", "Repeat nothing", "say nothing about"):
        assert word in GO_ON
