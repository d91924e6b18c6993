"""A matrix that finds nothing proves something only if it would have found it: here it is given reason to."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import pytest_asyncio

from tests.support.processes import ROOT, environment
from worker.verify import trial as trials
from worker.verify.endurance import Tally
from worker.verify.fleet import Manner, WorkerDied
from worker.verify.matrix import Bench
from worker.verify.scenarios import Fault
from worker.verify.soak import Soak
from worker.verify.stage import open_stage
from worker.verify.trial import Trial

pytestmark = pytest.mark.timeout(120)

in_one_loop = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def bench() -> AsyncIterator[Bench]:
    async with Bench(1) as bench:
        yield bench


async def all_ended(trial: Trial) -> str:
    """Wait until all jobs have ended; return one of them."""
    jobs = trial.watch.jobs
    await trial.watch.until("all end", lambda: all(job.ended for job in jobs.values()), trials.PATIENCE)
    return next(iter(jobs))


async def lose_a_log(trial: Trial) -> None:
    job_id = await all_ended(trial)
    await trial.stage.redis.delete(trial.stage.keys.log(job_id))


async def tear_a_hole(trial: Trial) -> None:
    log = trial.stage.keys.log(await all_ended(trial))
    entries = await trial.stage.redis.xrange(log)
    assert entries is not None
    await trial.stage.redis.xdel(log, entries[len(entries) // 2][0])


async def forget_a_ttl(trial: Trial) -> None:
    await trial.stage.redis.persist(trial.stage.keys.record(await all_ended(trial)))


async def leave_an_entry_pending(trial: Trial) -> None:
    """Hand an entry to a consumer that does not exist as a process, for longer than the trial waits."""
    await all_ended(trial)
    stage = trial.stage
    for one in stage.fleet.workers:
        one.freeze()  # nobody is there to reclaim it
    await stage.redis.xadd(stage.keys.jobs("default"), {"job": b"?"})
    await stage.redis.xreadgroup("workers", "nobody:0", {stage.keys.jobs("default"): ">"})


async def freeze_for_good(trial: Trial) -> None:
    (await trial.victim()).freeze()


@in_one_loop
@pytest.mark.parametrize(
    ("act", "violation"),
    [
        (lose_a_log, "it is lost: there is no log"),
        (tear_a_hole, "a hole: "),
        (forget_a_ttl, "has no TTL"),
        (leave_an_entry_pending, "entries are still pending"),
        (freeze_for_good, "has waited for 5 s in vain"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
async def test_the_matrix_finds(
    bench: Bench, act: Callable[[Trial], Awaitable[None]], violation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "PATIENCE", 5.0 if act is freeze_for_good else 20.0)
    monkeypatch.setattr(trials, "_CLEAN_WITHIN", 0.5)
    result = await bench.run(Fault("forged", act))
    assert [found for found in result.violations if violation in found], result.violations


@in_one_loop
async def test_a_worker_that_cannot_be_started_is_told_of_with_its_last_words(bench: Bench) -> None:
    with pytest.raises(WorkerDied, match="concurrency"):
        async with open_stage(bench.url, Manner("p", concurrency=0), size=1):
            pass


def test_a_soak_with_a_violation_ends_with_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    soak = Soak(Manner("p"), seed=1, chunks=1)
    tally = Tally()
    assert soak.report(tally, troubles={}) == 0
    tally.violated(["job 1: it is lost"])
    assert soak.report(tally, troubles={"kill": 2}) == 1
    out = capsys.readouterr().out
    assert "violations  1\n    job 1: it is lost" in out
    assert "kills       2" in out


async def test_a_short_soak_violates_nothing() -> None:
    """Everything at random, from a seed: ten seconds of what `make soak` does for as long as it is told to."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "worker.verify.soak", "--minutes", "0.15", "--chunks", "20", "--seed", "7"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=ROOT,
        env=environment(),
    )
    out, err = await process.communicate()
    assert process.returncode == 0, out.decode() + err.decode()
    lines = out.decode().splitlines()
    assert lines[0] == "seed 7"
    assert lines[-1] == "violations  0"
