"""The rules of the house, read off the source: who may import whom, and how large a room may be."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import ROOT

FILES = sorted([*(ROOT / "producer").rglob("*.py"), *(ROOT / "worker").rglob("*.py")])
SCRIPTS = sorted([*(ROOT / "producer").rglob("*.lua"), *(ROOT / "worker").rglob("*.lua")])


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCE = {module_of(path): path for path in FILES}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in SOURCE.items()}


def imports(module: str) -> Iterator[str]:
    """The full names that a module imports: modules, and names out of modules."""
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import hides where it goes"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def ours(module: str) -> set[str]:
    """The modules of ours that a module imports."""
    found = set()
    for name in imports(module):
        if within(name, "producer", "worker"):
            # `from producer.connection import Url` names a module and something in it.
            found.add(name if name in SOURCE else name.rpartition(".")[0])
    return found


def modules(*packages: str, but: tuple[str, ...] = ()) -> list[str]:
    return [module for module in SOURCE if within(module, *packages) and not within(module, *but)]


def breaches(rooms: list[str], *allowed: str) -> list[str]:
    """Each import of ours in ``rooms`` that goes elsewhere than ``allowed``."""
    assert rooms, "the room has moved: this rule guards nothing"
    return [
        f"{module} imports {name}"
        for module in rooms
        for name in sorted(ours(module))
        if not within(name, *allowed)
    ]


def strangers(rooms: list[str], *packages: str) -> list[str]:
    """Each import out of ``packages`` in ``rooms``."""
    assert rooms, "the room has moved: this rule guards nothing"
    return [
        f"{module} imports {name}" for module in rooms for name in imports(module) if within(name, *packages)
    ]


# -- directions ------------------------------------------------------------------------------------------------


def test_the_contract_imports_nothing_of_ours_and_does_no_io() -> None:
    wire = modules("producer.wire")
    assert breaches(wire, "producer.wire") == []
    assert strangers(wire, "redis", "aiohttp", "asyncio", "socket", "os", "pathlib", "structlog") == []


def test_the_connection_knows_neither_client_nor_worker() -> None:
    assert breaches(modules("producer.connection"), "producer.connection", "producer.wire") == []


def test_the_producer_never_imports_the_worker() -> None:
    assert breaches(modules("producer"), "producer") == []
    extras = ("aiohttp", "structlog", "uvloop")
    assert strangers(modules("producer"), *extras) == []
    commands = ("producer.cli", "producer.command", "producer.dead_cli")
    assert strangers(modules("producer", but=commands), "typer", "rich") == []


def test_the_worker_sees_of_the_producer_only_wire_and_connection() -> None:
    rooms = modules("worker", but=("worker.verify",))
    assert breaches(rooms, "worker", "producer.wire", "producer.connection") == []


def test_the_proof_stands_outside_of_what_it_proves() -> None:
    """It sees workers as processes, and answers as a caller gets them: so it may use the client, and no worker code."""
    assert breaches(modules("worker.verify"), "worker.verify", "producer") == []
    users = [
        module
        for module in modules("worker", but=("worker.verify",))
        for name in ours(module)
        if within(name, "worker.verify")
    ]
    assert set(users) <= {"worker.cli"}


def test_the_checker_is_pure() -> None:
    judges = ["worker.verify.checker", "worker.verify.facts"]
    assert breaches(judges, "worker.verify.facts", "producer.wire.events") == []
    assert strangers(judges, "asyncio", "time", "redis", "aiohttp", "os") == []


def test_providers_know_http_and_the_contract_and_never_redis() -> None:
    providers = modules("worker.providers")
    assert breaches(providers, "worker.providers", "producer.wire") == []
    assert strangers(providers, "redis", "producer.connection") == []
    services = modules("worker.providers", but=("worker.providers.provider", "worker.providers.registry"))
    assert breaches(services, "worker.providers") == []


def test_the_executor_sees_no_key_and_no_client() -> None:
    seen = {name for module in ("worker.executor", "worker.conclusions") for name in imports(module)}
    assert {name for name in seen if within(name, "redis") and not within(name, "redis.exceptions")} == set()
    assert {name for name in seen if within(name, "producer.wire.keys", "producer.connection")} == set()
    assert "worker.scripts" not in seen


def test_the_relay_and_the_outcomes_see_no_redis() -> None:
    for module in ("worker.relay", "worker.intake", "worker.outcome"):
        assert (
            strangers([module], "redis", "producer.connection", "producer.wire.keys", "worker.scripts") == []
        )


def test_the_outcomes_are_pure() -> None:
    assert breaches(["worker.outcome"], "producer.wire.events") == []
    assert strangers(["worker.outcome"], "asyncio", "time", "structlog", "aiohttp") == []


def test_only_the_edges_read_arguments_and_the_environment() -> None:
    allowed = {"producer.cli", "producer.client", "producer.connection.embedded", "worker.providers_file"}
    # These hand their own environment on to the workers that they start.
    allowed |= {"worker.verify.fleet", "worker.supervisor"}
    readers = {
        module
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr in {"environ", "getenv"}
    }
    assert readers - allowed == set()


def test_there_are_no_import_cycles() -> None:
    graph = {module: ours(module) & SOURCE.keys() - {module} for module in SOURCE}
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, " -> ".join([*way[way.index(module) :], module])
        if module not in done:
            for further in graph[module]:
                visit(further, (*way, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_every_import_of_ours_is_of_a_module_that_is_there() -> None:
    assert [f"{module}: {name}" for module in SOURCE for name in ours(module) if name not in SOURCE] == []


# -- names -----------------------------------------------------------------------------------------------------


def literals(module: str) -> Iterator[tuple[int, str]]:
    """The texts in a module that are no docstrings, with their lines."""
    tree = TREES[module]
    docs = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.lineno, node.value


def test_a_key_is_spelled_in_keys_and_nowhere_else() -> None:
    endings = re.compile(r"\}?:(jobs|later|dead|control|log|record|cancel|events|parked)$")
    found = [
        f"{module}:{line}: {text!r}"
        for module in SOURCE
        if module != "producer.wire.keys"
        for line, text in literals(module)
        if endings.search(text)
    ]
    assert found == []


def test_the_public_face_is_flat_sorted_and_real() -> None:
    import producer

    assert sorted(producer.__all__) == list(producer.__all__)
    assert [name for name in producer.__all__ if not hasattr(producer, name)] == []


# -- scripts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_begins_with_what_it_does_its_keys_its_arguments_and_its_result(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    header = lines[: next(number for number, line in enumerate(lines) if not line.startswith("--"))]
    text = "\n".join(header)
    assert re.match(r"-- [A-Z]\w+s ", text), "the first line says what it does"
    assert re.search(r"^-- KEYS  1 ", text, re.MULTILINE)
    assert re.search(r"^-- Result: ", text, re.MULTILINE)
    body = "\n".join(lines[len(header) :])
    for kind in ("KEYS", "ARGV"):
        used = {int(number) for number in re.findall(rf"{kind}\[(\d+)\]", body)}
        section = re.search(rf"^-- {kind}  (.*?)(?=^-- [A-Z]\w+:?  ?|\Z)", text, re.MULTILINE | re.DOTALL)
        told = [int(number) for number in re.findall(r"(?:^|\s{3,})(\d+) ", section[1])] if section else []
        assert told == list(range(1, len(told) + 1))
        assert used <= set(told), f"{kind} {used - set(told)} are used and not told"


def constants(package: str) -> dict[str, str]:
    """The constants of a package's scripts: their names, and the file each loads."""
    found = {}
    for node in TREES[f"{package}.scripts"].body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            (target,) = node.targets
            name = node.value.args[-1]
            assert isinstance(target, ast.Name)
            assert isinstance(name, ast.Constant)
            found[target.id] = str(name.value)
    return found


@pytest.mark.parametrize("package", ["producer", "worker"])
def test_every_script_has_one_constant_and_one_caller(package: str) -> None:
    loaded = constants(package)
    files = {path.stem for path in SCRIPTS if within(module_of(path), f"{package}.scripts")}
    assert sorted(loaded.values()) == sorted(files)
    for constant, name in loaded.items():
        assert constant == name.upper()
        callers = [
            f"{module}:{node.lineno}"
            for module in modules("producer", "worker")
            for node in ast.walk(TREES[module])
            if isinstance(node, ast.Attribute)
            and node.attr == constant
            and isinstance(node.value, ast.Name)
            and node.value.id == "scripts"
            and f"{package}.scripts" in imports(module)
        ]
        assert len(callers) == 1, f"{constant}: {callers}"


def test_no_lua_stands_in_python() -> None:
    found = [
        f"{module}:{line}" for module in SOURCE for line, text in literals(module) if "redis.call" in text
    ]
    assert found == []


# -- sizes -----------------------------------------------------------------------------------------------------

MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 40

# A command's options are one parameter each, spelled with help and default: a list, not logic.
LISTS_OF_OPTIONS = {("worker.cli", "run"), ("producer.cli", "send")}


def test_no_file_is_larger_than_a_screenful_of_screens() -> None:
    sizes = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in [*FILES, *SCRIPTS]}
    assert {name: size for name, size in sizes.items() if size > MAX_FILE_LINES} == {}


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function, without its docstring."""
    lines = (function.end_lineno or function.lineno) - function.lineno + 1
    first = function.body[0]
    if (
        isinstance(first, ast.Expr)
        and isinstance(first.value, ast.Constant)
        and isinstance(first.value.value, str)
    ):
        lines -= (first.end_lineno or first.lineno) - first.lineno + 1
    return lines


def test_no_function_is_longer_than_a_screen() -> None:
    long = {
        f"{module}:{node.name}": lines_of(node)
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and (module, node.name) not in LISTS_OF_OPTIONS
        and lines_of(node) > MAX_FUNCTION_LINES
    }
    assert long == {}


def test_no_parameter_is_a_positional_boolean() -> None:
    found = [
        f"{module}:{node.lineno}: {node.name}({argument.arg})"
        for module, tree in TREES.items()
        if not module.endswith(".cli")  # typer makes them named options
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        for argument in node.args.args
        if isinstance(argument.annotation, ast.Name) and argument.annotation.id == "bool"
    ]
    assert found == []
