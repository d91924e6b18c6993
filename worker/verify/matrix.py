"""The matrix: every fault, with one worker and with several."""

from dataclasses import dataclass

from worker.verify.fleet import WorkerDied
from worker.verify.readers import Stalled
from worker.verify.scenarios import Fault
from worker.verify.stage import Stage
from worker.verify.trial import Trial

JOBS = 12
_CHUNKS = 30


@dataclass(frozen=True, slots=True)
class Result:
    """One cell. ``recovery``: the longest time that a job which was hit took to go on, in seconds."""

    fault: str
    workers: int
    jobs: int
    violations: tuple[str, ...]
    recovery: float | None


async def run_cell(stage: Stage, fault: Fault, *, pace: float = 0.03) -> Result:
    """Do this to the workers of the stage while jobs run. ``pace``: seconds between two chunks.

    Never raises for what the fault did: a worker that died and a wait in vain are violations.
    """
    await stage.restore()
    async with Trial(stage) as trial:
        hit = (fault.upstream,) if fault.upstream else ()
        await trial.add(JOBS // 2, fault.expected, chunks=_CHUNKS, pace=pace, faults=hit)
        await trial.add(JOBS - JOBS // 2, fault.expected, chunks=_CHUNKS, pace=pace)
        found: list[str] = []
        try:
            await fault.act(trial)
        except (Stalled, WorkerDied) as error:
            found.append(str(error))
        found += await trial.violations()
        return Result(fault.name, stage.size, trial.size, tuple(found), trial.seconds_to_recover())
