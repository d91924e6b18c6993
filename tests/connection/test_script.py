"""Scripts as calls: packed once, loaded before their first use, and honest about a server that will not load them."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from producer.connection import Script, ScriptRunner

SCRIPT = Script("return 1", "5f" * 20)


class ScriptedLine:
    """Answers what is sent with what the test has prepared."""

    def __init__(self, *answers: list[Any]) -> None:
        self.sent: list[list[bytes]] = []
        self._answers = list(answers)

    def send(self, commands: Sequence[bytes]) -> "asyncio.Future[list[Any]]":
        self.sent.append(list(commands))
        future: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        future.set_result(self._answers.pop(0))
        return future


@given(
    keys=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=12),
    args=st.lists(st.binary(), max_size=12),
)
def test_a_prepared_call_is_the_same_bytes_as_any_other(keys: list[str], args: list[bytes]) -> None:
    assert SCRIPT.prepared(keys).on(*args).packed() == SCRIPT.on(keys, *args).packed()


async def test_a_script_is_loaded_before_its_first_use_and_not_again() -> None:
    line = ScriptedLine(["sha", b"a", b"b"], [b"c"])
    runner = ScriptRunner(line)  # type: ignore[arg-type]
    assert await runner.run([SCRIPT.on(["k"]), SCRIPT.on(["l"])]) == [b"a", b"b"]
    assert await runner.run([SCRIPT.on(["k"])]) == [b"c"]
    assert [len(commands) for commands in line.sent] == [3, 1]


async def test_a_script_that_the_server_forgot_is_loaded_again_and_only_what_it_refused_is_said_twice() -> (
    None
):
    line = ScriptedLine(["sha", b"a"], [b"b", NoScriptError("none")], ["sha", b"c"])
    runner = ScriptRunner(line)  # type: ignore[arg-type]
    await runner.run([SCRIPT.on(["k"])])
    assert await runner.run([SCRIPT.on(["k"]), SCRIPT.on(["l"])]) == [b"b", b"c"]
    assert line.sent[-1][-1] == SCRIPT.on(["l"]).packed()


async def test_where_a_script_may_not_be_loaded_the_servers_own_words_are_the_error() -> None:
    line = ScriptedLine([NoPermissionError("this user may not SCRIPT"), NoScriptError("No matching script")])
    with pytest.raises(RedisError, match="may not SCRIPT"):
        await ScriptRunner(line).run([SCRIPT.on(["k"])])  # type: ignore[arg-type]
