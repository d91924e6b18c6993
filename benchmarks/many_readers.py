"""Slow readers of a fast job beside a thousand idle ones, all in one process: is its memory flat, is all exact?

python -m benchmarks.many_readers --slow 5 --idle 1000 --seconds 60
"""

import argparse
import asyncio
import sys
import time

from benchmarks.figures import memory, verdict
from producer import Event, Producer
from worker.verify.checker import check_job
from worker.verify.collector import read_job
from worker.verify.facts import JobFacts, Transcript
from worker.verify.fleet import MODEL, PROVIDER, Manner
from worker.verify.servers import OwnServer
from worker.verify.stage import Stage, new_prefix, open_stage
from worker.verify.upstream import Plan

FAST = "fast-job"
CHUNKS, PADDING = 20_000, 500  # 10 MB, sent as fast as they go
NOBODYS_QUEUE = "nobodys"
SHOW_EVERY = 10.0  # seconds


async def measure(slow: int, idle: int, seconds: float) -> int:
    manner = Manner(new_prefix())
    async with (
        OwnServer() as server,
        open_stage(server.url, manner, size=1, server=server) as stage,
    ):
        show("at the beginning", 0.0)
        idlers = await enqueue_idle(stage, idle)
        waiting = [asyncio.create_task(read(stage.producer, job_id)) for job_id in idlers]
        plan = Plan(FAST, CHUNKS, 0.0, padding=PADDING)
        await stage.producer.enqueue(plan.prompt(), id=FAST, provider=PROVIDER, model=MODEL)
        ends_at = time.monotonic() + seconds
        slowly = [asyncio.create_task(read(stage.producer, FAST, slow_until=ends_at)) for _ in range(slow)]
        result = await stage.producer.result(FAST)
        show(f"the fast job is done: {len(result.text) / 1e6:.0f} MB", 0.0)
        while (left := ends_at - time.monotonic()) > 0:
            await asyncio.sleep(min(left, SHOW_EVERY))
            show(f"{slow} readers take one event a second, {idle} wait", seconds - left)
        read_slowly = await asyncio.gather(*slowly)
        show("the slow ones were let go, and have read all", seconds)
        await asyncio.gather(*(stage.producer.cancel(job_id) for job_id in idlers))
        read_idly = await asyncio.gather(*waiting)
        show("the idle ones' jobs were cancelled", seconds)
        violations = await check(stage, FAST, read_slowly, "done")
        for job_id, transcript in zip(idlers, read_idly, strict=True):
            violations += await check(stage, job_id, [transcript], "cancelled")
        return verdict(violations)


async def enqueue_idle(stage: Stage, count: int) -> list[str]:
    """Enqueue jobs for a queue that nobody serves, and return their ids."""
    fields = {"queue": NOBODYS_QUEUE, "provider": PROVIDER}
    jobs = await asyncio.gather(*(stage.producer.enqueue("idle", **fields) for _ in range(count)))
    return [job.id for job in jobs]


async def read(producer: Producer, job_id: str, slow_until: float = 0.0) -> Transcript:
    """Read the job to its end; one event a second until ``slow_until``."""
    events: list[Event] = []
    async for event in producer.subscribe(job_id):
        events.append(event)
        if time.monotonic() < slow_until:
            await asyncio.sleep(1.0)
    return Transcript("slow" if slow_until else "idle", events)


async def check(stage: Stage, job_id: str, transcripts: list[Transcript], end: str) -> list[str]:
    held = await read_job(stage.redis, stage.keys, job_id)
    calls = [call.fact() for call in stage.upstream.calls(job_id)]
    expected = frozenset({end})
    return check_job(JobFacts(job_id, held.log, calls, transcripts, held.status, held.problem, expected))


def show(what: str, at: float) -> None:
    print(f"{at:5.0f} s  {memory():6.1f} MB  {what}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slow", type=int, default=5)
    parser.add_argument("--idle", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    given = parser.parse_args()
    sys.exit(asyncio.run(measure(given.slow, given.idle, given.seconds)))
