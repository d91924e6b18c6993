"""The README's examples are run as they stand."""

import ast
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest

from producer import Producer
from tests.conftest import StartWorker
from tests.support.commands import parse
from tests.support.processes import worker
from tests.support.servers import Server
from worker.providers.provider import Provider
from worker.providers.registry import Registry
from worker.providers_file import load_registry

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


async def run(source: str, url: str) -> None:
    code = compile(
        source.replace("redis://localhost", url), "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    )
    result = eval(code, {})
    if inspect.isawaitable(result):
        await result


async def test_the_python_examples_print_the_answer(
    valkey: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    with worker(valkey.url, "chat"):
        first, second, blocking, _ = blocks("python")
        await run(first, valkey.url)
        assert capsys.readouterr().out == "Say hello."
        await run(second, valkey.url)
        assert capsys.readouterr().out == "Say hello.Say hello. stop 1\n"
        await run(blocking, valkey.url)
        assert capsys.readouterr().out == "Say hello.done\n"


async def test_the_class_of_one_s_own_answers(producer: Producer, start_worker: StartWorker) -> None:
    namespace: dict[str, Any] = {}
    exec(blocks("python")[-1], namespace)
    mine = Provider("mine", "mine", namespace["Mine"], "", namespace["Mine"].working, ("mine-1",))
    await start_worker(Registry([mine]))
    job = await producer.enqueue("hi", model="mine-1")
    assert (await producer.result(job.id)).text == "Text, chunk by chunk. You said: hi"


def test_the_toml_example_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = blocks("toml")
    own_class = tomllib.loads(example)["providers"]["mine"]["kind"]
    path = tmp_path / "providers.toml"
    path.write_text(example.replace(own_class, "worker.providers.echo:Echo"))
    names = [provider.name for provider in load_registry(path, {"GROQ_API_KEY": "k"})]
    assert names[:2] == ["groq", "mine"]


def test_the_commands_that_are_shown_are_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.removeprefix("$ ").partition("  #")[0] for line in "".join(blocks("console")).splitlines()]
    ours = [line for line in lines if line.startswith(("chat-worker", "chat-producer"))]
    assert len(ours) == 10
    for line in ours:
        parse(shlex.split(line), {}, monkeypatch)
