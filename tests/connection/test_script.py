"""Scripts as calls: packed once, loaded before their first use, and honest about a server that will not load them."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, NoScriptError, RedisError

from producer.connection import Script, ScriptRunner
from producer.connection.line import Listener
from worker import scripts

SCRIPT = Script("return 1", "5f" * 20)


class ScriptedLine:
    """Answers what is said with what the test has prepared, one reply for each command."""

    def __init__(self, *answers: Any) -> None:
        self.said: list[bytes] = []
        self.publishing: list[bool] = []
        self._answers = list(answers)

    def say(self, commands: Sequence[bytes], listener: Listener, *, publishing: bool = False) -> None:
        self.said += commands
        self.publishing.append(publishing)
        listener.heard([self._answers.pop(0) for _ in commands])

    async def send(self, commands: Sequence[bytes]) -> list[Any]:
        self.said += commands
        return [self._answers.pop(0) for _ in commands]


class Deaf:
    """Wants no reply."""

    def heard(self, replies: Sequence[Any]) -> None: ...

    def lost(self, error: RedisError) -> None: ...


@given(
    keys=st.lists(st.text(st.characters(codec="utf-8"), min_size=1), min_size=1, max_size=12),
    first=st.binary(),
    second=st.binary(),
)
def test_a_prepared_call_is_the_same_bytes_as_any_other(keys: list[str], first: bytes, second: bytes) -> None:
    assert SCRIPT.prepared(keys).on(first, second).packed == SCRIPT.on(keys, first, second).packed


async def test_a_script_is_loaded_before_its_first_use_and_not_again() -> None:
    line = ScriptedLine("sha", b"a", b"b", b"c")
    runner = ScriptRunner(line)  # type: ignore[arg-type]
    assert await runner.run([SCRIPT.on(["k"]), SCRIPT.on(["l"])]) == [b"a", b"b"]
    assert await runner.run([SCRIPT.on(["k"])]) == [b"c"]
    assert [b"LOAD" in command for command in line.said] == [True, False, False, False]


async def test_a_script_that_the_server_forgot_is_loaded_again_and_only_what_it_refused_is_said_twice() -> (
    None
):
    line = ScriptedLine("sha", b"a", b"b", NoScriptError("none"), "sha", b"c")
    runner = ScriptRunner(line)  # type: ignore[arg-type]
    await runner.run([SCRIPT.on(["k"])])
    assert await runner.run([SCRIPT.on(["k"]), SCRIPT.on(["l"])]) == [b"b", b"c"]
    assert b"LOAD" in line.said[-2]
    assert line.said[-1] == SCRIPT.on(["l"]).packed


async def test_a_pipeline_publishes_at_once_if_its_first_script_does() -> None:
    publishing = Script("redis.call('PUBLISH', KEYS[1], '')", "ab" * 20, publishes=True)
    line = ScriptedLine("sha", "sha", b"a", b"b", b"c", b"d")
    runner = ScriptRunner(line)  # type: ignore[arg-type]
    runner.say([publishing.on(["k"]), SCRIPT.on(["k"])], Deaf())
    runner.say([SCRIPT.on(["k"]), publishing.on(["k"])], Deaf())
    assert line.publishing == [False, False, True, False]  # the first two load the scripts


def test_which_scripts_publish_is_known() -> None:
    loaded = {
        name for name, script in vars(scripts).items() if isinstance(script, Script) and script.publishes
    }
    assert loaded == {"APPEND", "DEFER", "FINISH", "RELEASE"}


async def test_where_a_script_may_not_be_loaded_the_servers_own_words_are_the_error() -> None:
    refused = [NoPermissionError("this user may not SCRIPT"), NoScriptError("No matching script")]
    line = ScriptedLine(*refused, *refused)
    with pytest.raises(RedisError, match="may not SCRIPT"):
        await ScriptRunner(line).run([SCRIPT.on(["k"])])  # type: ignore[arg-type]


async def test_a_script_whose_loading_was_lost_is_loaded_again() -> None:
    class LostLine(ScriptedLine):
        def say(self, commands: Sequence[bytes], listener: Listener, *, publishing: bool = False) -> None:
            del publishing
            self.said += commands
            listener.lost(RedisConnectionError("gone"))

        async def send(self, commands: Sequence[bytes]) -> list[Any]:
            raise RedisConnectionError("gone")

    runner = ScriptRunner(LostLine())  # type: ignore[arg-type]
    with pytest.raises(RedisConnectionError):
        await runner.run([SCRIPT.on(["k"])])
    line = runner._line = ScriptedLine("sha", b"a")  # type: ignore[assignment]
    assert await runner.run([SCRIPT.on(["k"])]) == [b"a"]
    assert b"LOAD" in line.said[0]
