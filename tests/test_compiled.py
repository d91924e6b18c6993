"""What mypyc compiles must mean the same as its source.

`make test-compiled` runs the tests on compiled modules. What stands here is read off the source, because a breach of it
would only show in another task than the one that made it, and then at times.
"""

import ast
import tomllib
from collections.abc import Iterator, Sequence

import pytest

from tests.support.processes import ROOT

HOOKS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"][
    "hooks"
]
COMPILED = [path.removeprefix("/") for path in HOOKS["mypyc"]["include"]]

SUSPENDS = (ast.Await, ast.Yield, ast.YieldFrom, ast.AsyncFor, ast.AsyncWith)


def found(kinds: type[ast.AST] | tuple[type[ast.AST], ...], nodes: Sequence[ast.AST]) -> Iterator[ast.AST]:
    """All nodes of these kinds within ``nodes``, but not in functions that are only defined there."""
    for node in nodes:
        if isinstance(node, kinds):
            yield node
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield from found(kinds, list(ast.iter_child_nodes(node)))


def waits_while_an_error_is_handled(source: str) -> list[int]:
    """The lines in which a coroutine or a generator may be left while an error is being handled, or about to be."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Try, ast.TryStar)):
            lines += [inner.lineno for inner in found(SUSPENDS, [*node.handlers, *node.finalbody])]
        if isinstance(node, ast.With):
            lines += [inner.lineno for inner in found(SUSPENDS, node.body)]
        if isinstance(node, (ast.AsyncWith, ast.AsyncFor)):
            lines.append(node.lineno)
        if isinstance(node, ast.comprehension) and node.is_async:
            lines.append(node.target.lineno)
    return sorted(lines)


def test_nothing_compiled_lies_beside_its_source() -> None:
    """Python would take it for the source, however often that is changed."""
    assert [path for room in ("producer", "worker") for path in (ROOT / room).rglob("*.so")] == []


@pytest.mark.parametrize("path", COMPILED)
def test_nothing_is_waited_for_while_an_error_is_handled(path: str) -> None:
    """mypyc's coroutines share one place for the error that is being handled.

    One that waits there leaves its error to whichever task comes next: that raises it once more, or raises nothing
    where it should (mypyc's issues 1114 and 1177 are of this kind). CPython's have a place each.
    """
    assert waits_while_an_error_is_handled((ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "body",
    [
        "try: pass\n except E: await x",
        "try: pass\n finally: await x",
        "try: pass\n except E:\n  if a: yield 1",
        "with a: await x",
        "async with a: pass",
        "async for a in b: pass",
        "return [a async for a in b]",
    ],
)
def test_the_rule_sees_it(body: str) -> None:
    assert waits_while_an_error_is_handled(f"async def f():\n {body}") != []


def test_the_rule_lets_errors_of_what_is_waited_for_be_caught() -> None:
    source = "async def f():\n try: await x\n except E: y()\n finally: z()\n await x\n def g(): pass"
    assert waits_while_an_error_is_handled(source) == []
