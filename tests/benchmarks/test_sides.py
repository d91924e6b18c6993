"""The comparison with other queues: the same shape and the same rule for all, and what counts as the best of them."""

import ast
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import servers, sides
from benchmarks.peers import side as shape
from benchmarks.peers.side import Client, Side
from benchmarks.processes import ROOT
from benchmarks.report import Bound, Report
from benchmarks.sides import OURS, SIDES, check_all_done, chosen, compare, leading

LISTS = ROOT / "benchmarks/peers/requirements"
PEERS = [side for side in SIDES if side.name != OURS]
CHATRELAY = SIDES[0]


def test_the_best_peer_is_the_one_with_the_best_median_and_never_ourselves() -> None:
    rates = {OURS: [900.0], "a": [1.0, 50.0, 60.0], "b": [40.0, 40.0, 400.0]}
    assert leading(rates, highest=True) == {"a"}
    assert leading(rates, highest=False) == {"b"}


def test_where_the_best_peer_loses_jobs_the_best_one_that_keeps_them_is_held_against_as_well() -> None:
    assert leading({"a": [2.0], "b, no ack": [9.0], "c": [5.0]}, highest=True) == {"b, no ack", "c"}


def test_every_peer_is_compared_and_the_bound_is_held_against_the_best_one() -> None:
    report = Report("jobs", "how many?")
    rates = {OURS: [90.0], "a": [30.0], "b": [10.0]}
    for name, taken in rates.items():
        report.add("here", name, "jobs", "1/s", taken)
    assert compare(report, "here", "jobs", rates, Bound(">=", 3, 8)) == {"a"}
    assert [(row.side, row.median, row.verdict) for row in report.comparisons] == [
        ("chatrelay / a", 3.0, "met"),
        ("chatrelay / b", 9.0, ""),
    ]


def test_chatrelay_alone_is_compared_with_nobody() -> None:
    report = Report("jobs", "how many?")
    assert compare(report, "here", "jobs", {OURS: [90.0]}, Bound(">=", 3)) == set()
    assert report.comparisons == []


def test_a_peer_that_is_not_installed_or_has_another_python_is_not_compared(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    peer = replace(PEERS[0], environment="its-own")
    monkeypatch.setattr(sides, "SIDES", (CHATRELAY, peer))
    monkeypatch.setattr(sides, "ENVIRONMENTS", tmp_path)
    with pytest.raises(SystemExit, match=f"not installed: {peer.name}; run: make peers"):
        chosen("")
    peer.interpreter.parent.mkdir(parents=True)
    another = tmp_path / "python"
    another.touch()
    peer.interpreter.symlink_to(another)
    with pytest.raises(
        SystemExit, match=f"installed with another Python: {peer.name}; run: make clean peers"
    ):
        chosen("")
    peer.interpreter.unlink()
    peer.interpreter.symlink_to(Path(sys.executable).resolve())
    assert chosen("") == [CHATRELAY, peer]


@pytest.mark.parametrize("side", SIDES, ids=lambda side: side.name)
def test_every_side_says_with_which_settings_it_runs(side: sides.Side) -> None:
    path = ROOT / "benchmarks/peers" / f"{side.module}.py"
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path.name} does not say how it runs"


@pytest.mark.parametrize("side", PEERS, ids=lambda side: side.name)
def test_every_peer_is_installed_from_a_hashed_list_that_names_no_index(side: sides.Side) -> None:
    listed = (LISTS / f"{side.environment}.txt").read_text()
    pins = [line for line in listed.splitlines() if line and line[0].isalnum()]
    assert all(line.endswith("\\") for line in pins), "a pin without a hash"
    assert {line.partition("==")[0] for line in pins} >= set(side.packages)
    assert "://" not in listed


def test_the_shape_needs_nothing_that_a_peers_environment_could_lack() -> None:
    tree = ast.parse((ROOT / "benchmarks/peers/side.py").read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    imported |= {str(node.module) for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


class Counted(Client):
    def __init__(self) -> None:
        self.enqueued: list[str] = []
        self.asked: list[str] = []

    async def enqueue(self, text: str) -> None:
        self.enqueued.append(text)

    async def ask(self, text: str) -> None:
        self.asked.append(text)


class CountedSide(Side):
    def __init__(self) -> None:
        self.opened = Counted()

    def work(self, url: str, body: shape.Counter, *, results: bool) -> None:
        raise AssertionError("nobody asked for work")

    @asynccontextmanager
    async def client(self, url: str) -> AsyncIterator[Client]:
        yield self.opened


async def test_exactly_the_jobs_that_were_asked_for_are_enqueued(capsys: pytest.CaptureFixture[str]) -> None:
    side = CountedSide()
    await shape.enqueue(side, "redis://nowhere", jobs=120, tasks=50)
    told = json.loads(capsys.readouterr().out)
    assert len(side.opened.enqueued) == 120
    assert told["jobs"] == 70, "the first call of each task opens a connection, and is not measured"


async def test_what_is_asked_to_warm_up_is_not_measured(capsys: pytest.CaptureFixture[str]) -> None:
    side = CountedSide()
    await shape.ask(side, "redis://nowhere", jobs=7)
    assert len(side.opened.asked) == shape.WARM_UP + 7
    assert len(json.loads(capsys.readouterr().out)["seconds"]) == 7


def test_the_body_tells_of_the_first_and_of_the_last_job_alone(capsys: pytest.CaptureFixture[str]) -> None:
    body = shape.Counter(3)
    for _ in range(4):  # one more than expected: a job that ran twice
        body()
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [fact["number"] for fact in told] == [1, 3]
    assert told[0]["at"] <= told[1]["at"]


def test_chatrelay_goes_through_the_same_commands_as_its_peers() -> None:
    with servers.started(servers.available()[0]) as server:
        assert sides.enqueue(CHATRELAY, server, 60)["jobs"] == 10
        work = sides.work_off(CHATRELAY, server, 60)
        check_all_done(server, 60)
        assert work.jobs == 60
        assert work.seconds > 0
        assert work.worker_cpu > 0
        with pytest.raises(RuntimeError, match="61 jobs were to be done"):
            check_all_done(server, 61)
        sides.empty(server)
        with sides.answering(CHATRELAY, server):
            assert len(sides.ask(CHATRELAY, server, 5)["seconds"]) == 5
