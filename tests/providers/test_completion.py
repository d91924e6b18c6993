import sys

import pytest

from tests.providers.protocols import delta, sse
from tests.support.collector import no_collector
from worker.providers.completion import Completion
from worker.providers.errors import Broken
from worker.providers.request import Request


def fed(completion: Completion, data: bytes) -> str:
    """Feed it what is broken, and return the failure's text: nothing of the failure itself is kept."""
    try:
        list(completion.feed(data))
    except Broken as error:
        return str(error)
    pytest.fail("nothing was found to be broken")


def test_a_failure_that_was_handled_keeps_nothing_of_what_was_read() -> None:
    data = b'data: {"error": {"message": "overloaded"}}\n\n'
    held = sys.getrefcount(data)
    with no_collector():
        assert "overloaded" in fed(Completion(Request("http://service", {}, b"")), data)
        assert sys.getrefcount(data) == held


def test_a_piece_that_is_held_shows_that_the_answer_goes_on() -> None:
    piece = delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}])
    assert list(Completion(Request("http://service", {}, b"")).feed(sse(piece))) == [[]]
