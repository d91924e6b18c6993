"""Redis is away in mid-answer. Are the answers whole afterwards, and what did the worker hold meanwhile?

python -m benchmarks.redis_outage --seconds 60
"""

import argparse
import asyncio
import sys
import time

from benchmarks.figures import memory, verdict
from worker.verify.fleet import Manner, WorkerProcess
from worker.verify.servers import OwnServer
from worker.verify.stage import new_prefix, open_stage
from worker.verify.trial import AS_USUAL, Trial

PADDING = 2000  # characters in a chunk; with the pace, 200 kB a second for each answer
PACE = 0.01  # seconds


async def measure(seconds: float, jobs: int) -> int:
    manner = Manner(new_prefix(), concurrency=jobs, between_chunks=seconds + 60)
    async with (
        OwnServer() as server,
        open_stage(server.url, manner, size=1, server=server) as stage,
        Trial(stage) as trial,
    ):
        await trial.add(jobs, AS_USUAL, beside=(), chunks=1500, pace=PACE, padding=PADDING)
        worker = await trial.victim()
        before = memory(worker.pid)
        server.kill()
        highest = await watch_memory(worker, seconds)
        sent = sum(len(call.fact().text) for job in trial.watch.jobs for call in stage.upstream.calls(job))
        came_back_at = time.monotonic()
        await server.start()
        violations = await trial.violations()
        took = time.monotonic() - came_back_at
        print(f"{jobs} answers of about {1500 * PADDING / 1e6:.0f} MB each; Redis was away for {seconds:g} s")
        print(
            f"the worker's memory: {before:.0f} MB before, {highest:.0f} MB at most, {memory(worker.pid):.0f} MB after"
        )
        print(
            f"sent by the upstream until Redis came back: {sent / 1e6:.0f} MB; all answers whole {took:.1f} s later"
        )
    return verdict(violations)


async def watch_memory(worker: WorkerProcess, seconds: float) -> float:
    """Return the most that the worker holds in the next ``seconds``."""
    highest, ends_at = 0.0, time.monotonic() + seconds
    while time.monotonic() < ends_at:
        highest = max(highest, memory(worker.pid))
        await asyncio.sleep(min(1.0, seconds))
    return highest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--jobs", type=int, default=10)
    given = parser.parse_args()
    sys.exit(asyncio.run(measure(given.seconds, given.jobs)))
