"""`chat-worker verify`: what it prints, what it leaves, and what it must not touch."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis import Redis
from typer.testing import CliRunner

from tests.support.servers import Server
from worker.cli import app
from worker.verify import matrix
from worker.verify.matrix import Result
from worker.verify.scenarios import FAULTS

verify = CliRunner()


def test_it_prints_a_table_and_removes_its_keys_and_no_others(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrix, "FAULTS", [fault for fault in FAULTS if fault.name.startswith("SIGTERM")])
    # Keys of other tests may expire meanwhile, so only what has no time to live shows what was removed.
    theirs = {b"chat:{other}:record", b"mine:{other}:record"}
    with Redis.from_url(valkey.url) as redis:
        redis.mset(dict.fromkeys(theirs, "somebody else's"))
        before = set(redis.keys("*"))
        ran = verify.invoke(app, ["verify", "--redis", valkey.url, "--workers", "2", "--prefix", "mine"])
        after = set(redis.keys("*"))
        redis.delete(*theirs)
    assert ran.exit_code == 0, ran.output
    head, cell, stopped, verdict = ran.output.splitlines()
    assert head.split() == ["FAULT", "WORKERS", "JOBS", "RESULT", "RECOVERED", "AFTER"]
    assert cell.split()[:-2] == ["SIGTERM", "in", "mid-answer", "2", "12", "ok"]
    assert float(cell.split()[-2]) > 0
    assert stopped.split() == ["all", "workers", "stopped", "2", "0", "ok", "-"]
    assert verdict == "nothing lost, nothing doubled, nobody left waiting"
    assert after - before == set()
    assert theirs <= after


def test_a_violation_is_shown_and_is_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    async def forged(*_: object) -> AsyncIterator[Result]:
        await asyncio.sleep(0)
        yield Result("kill -9", 3, 12, tuple(f"job {number}: it is lost" for number in range(7)), 1.5)

    monkeypatch.setattr(matrix, "run_matrix", forged)
    ran = verify.invoke(app, ["verify"])
    assert ran.exit_code == 1
    assert "kill -9" in ran.output
    assert "7 violations" in ran.output
    assert "job 4: it is lost" in ran.output
    assert "and 2 more" in ran.output
    assert "1.50 s" in ran.output


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("rediss://localhost", "TLS"),
        ("redis://127.0.0.1:1", "cannot be used"),
        ("http://localhost", "it must start with redis://"),
    ],
)
def test_a_server_that_cannot_be_used_is_named(url: str, why: str) -> None:
    ran = verify.invoke(app, ["verify", "--redis", url])
    assert ran.exit_code == 2
    assert why in ran.stderr


def test_nothing_that_is_done_to_all_of_a_server_is_done_to_somebody_elses(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []

    async def note(_: matrix.Bench, fault: object) -> Result:
        done.append(fault.name)  # type: ignore[attr-defined]
        return Result("", 1, 0, (), None)

    async def stop(_: matrix.Bench) -> Result:
        return Result("", 1, 0, (), None)

    monkeypatch.setattr(matrix.Bench, "run", note)
    monkeypatch.setattr(matrix.Bench, "stop", stop)
    ran = verify.invoke(app, ["verify", "--redis", valkey.url, "--workers", "1"])
    assert ran.exit_code == 0, ran.output
    assert "kill -9" in done
    assert not [name for name in done if name.startswith(("Redis", "CLIENT", "FLUSHALL", "maxmemory"))]
