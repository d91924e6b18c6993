"""What a caller can catch goes from process to process as it is."""

import pickle

import pytest

from producer import errors
from producer.errors import (
    AnswerRestarted,
    ChatRelayError,
    JobCancelled,
    JobFailed,
    JobNotFound,
    QueueFull,
    ResultTimeout,
    Unavailable,
)

RAISED = [
    QueueFull("q", 5, 2.5),
    JobNotFound("j"),
    JobFailed("j", "cut", "it was cut", 3, "half"),
    JobCancelled("j", "enough", "half"),
    AnswerRestarted("j", 7),
    Unavailable("away", passing=True),
    ResultTimeout("not yet"),
]
CLASSES = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, ChatRelayError)]
MADE_OF_A_TEXT = [cls for cls in CLASSES if "__init__" not in vars(cls)]


@pytest.mark.parametrize(
    "error", [*RAISED, *(cls("a text") for cls in MADE_OF_A_TEXT)], ids=lambda error: type(error).__name__
)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_error_is_the_same_in_another_process(error: ChatRelayError, protocol: int) -> None:
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is type(error)
    assert (str(again), again.args, vars(again)) == (str(error), error.args, vars(error))


def test_each_error_is_among_them() -> None:
    assert {type(error) for error in RAISED} | set(MADE_OF_A_TEXT) == set(CLASSES)
