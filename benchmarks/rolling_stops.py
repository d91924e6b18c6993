"""Workers are replaced under load: SIGTERM to one of three, again and again. Does any job pay for it?

python -m benchmarks.rolling_stops --stops 50                 # answers can be finished: none is started twice
python -m benchmarks.rolling_stops --stops 50 --grace 0.2     # they cannot: handed back at once, uncounted
"""

import argparse
import asyncio
import sys
import time

from benchmarks.figures import spread, verdict
from worker.verify.endurance import Endurance
from worker.verify.fleet import Manner
from worker.verify.lots import Dose
from worker.verify.servers import OwnServer
from worker.verify.stage import Stage, new_prefix, open_stage

WORKERS = 3


async def measure(stops: int, grace: float) -> int:
    manner = Manner(new_prefix(), concurrency=16, lease=15, sweep=5, grace=grace)
    dose = Dose(chunks=40, pace=0.025, in_flight=24, highest_number=1)
    async with (
        OwnServer() as server,
        open_stage(server.url, manner, size=WORKERS, server=server) as stage,
    ):
        run = Endurance(stage, 1, dose)
        over = asyncio.Event()
        jobs = asyncio.create_task(run.jobs(lambda _: not over.is_set()))
        durations = [await replace_one(stage) for _ in range(stops)]
        over.set()
        await jobs
        await run.leftovers()
    tally = run.tally
    print(
        f"{stops} times SIGTERM to one of {WORKERS} workers; {sum(tally.jobs.values())} jobs, {dict(tally.jobs)}"
    )
    print(f"SIGTERM -> worker has ended: {spread(durations)} (grace {grace:g} s)")
    print(f"answers started twice:       {tally.retries}")
    print(f"failed attempts:             {sum('something counted' in found for found in tally.violations)}")
    if grace > 5 and tally.retries:
        tally.violations.append(f"{tally.retries} answers were started twice that could have been finished")
    return verdict(tally.violations)


async def replace_one(stage: Stage) -> float:
    """Start a worker, stop the oldest one; return how long that one took to end."""
    await stage.fleet.start()
    oldest = stage.fleet.workers[0]
    began_at = time.monotonic()
    oldest.terminate()
    stage.fleet.retire(oldest)
    await oldest.ended()
    return time.monotonic() - began_at


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--stops", type=int, default=50)
    parser.add_argument("--grace", type=float, default=10.0, help="seconds")
    given = parser.parse_args()
    sys.exit(asyncio.run(measure(given.stops, given.grace)))
