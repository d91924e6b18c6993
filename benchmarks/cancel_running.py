"""Many running jobs are cancelled at once: how long until the upstream sees each connection close?

python -m benchmarks.cancel_running --jobs 200
"""

import argparse
import asyncio
import sys
import time

from benchmarks.figures import percentile, spread, verdict
from worker.verify.fleet import Manner
from worker.verify.servers import OwnServer
from worker.verify.stage import new_prefix, open_stage
from worker.verify.trial import PATIENCE, Expectation, Trial

WORKERS = 2
BOUND = 1.0  # seconds within which a cancelled call is closed


async def measure(jobs: int) -> int:
    manner = Manner(new_prefix(), concurrency=jobs, lease=15, sweep=5)
    async with (
        OwnServer() as server,
        open_stage(server.url, manner, size=WORKERS, server=server) as stage,
        Trial(stage) as trial,
    ):
        await trial.add(jobs, Expectation(ends=frozenset({"cancelled"})), chunks=2000, pace=0.1)
        await trial.watch.until("all jobs run", lambda: len(trial.watch.running()) == jobs, PATIENCE)
        asked = dict(await asyncio.gather(*(cancel(trial, job_id) for job_id in trial.watch.jobs)))
        violations = await trial.violations()
        calls = {job_id: stage.upstream.calls(job_id)[-1] for job_id in asked}
        closed = [(call.ended_at or time.monotonic()) - asked[job_id] for job_id, call in calls.items()]
        ended = [
            trial.watch.jobs[job_id].next_after(at, frozenset({"cancelled"})) for job_id, at in asked.items()
        ]
    print(f"{len(asked)} running jobs on {WORKERS} workers were cancelled at once")
    print(f"closed by the worker:        {sum(call.closed_by_caller for call in calls.values())}")
    print(f"cancel -> connection closed: {spread(closed)}")
    print(f"cancel -> reader is told:    {spread([seconds for seconds in ended if seconds is not None])}")
    if percentile(closed, 0.99) > BOUND:
        violations.append(f"the p99 is over {BOUND:g} s")
    return verdict(violations)


async def cancel(trial: Trial, job_id: str) -> tuple[str, float]:
    """Cancel the job; return it with the moment at which that was asked."""
    at = time.monotonic()
    await trial.stage.producer.cancel(job_id)
    return job_id, at


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=200)
    sys.exit(asyncio.run(measure(parser.parse_args().jobs)))
