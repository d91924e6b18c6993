"""One trial: jobs on a stage, a fault while they run, and what the checker says of it."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from uuid import uuid4

from worker.verify.checker import check_job, check_leftovers
from worker.verify.collector import longest_idle, read_job, read_leftovers
from worker.verify.facts import JobFacts, Kept, Leftovers, Transcript
from worker.verify.fleet import MODEL, PROVIDER, WorkerProcess
from worker.verify.readers import Stalled, Watch, Way, read
from worker.verify.stage import Stage
from worker.verify.upstream import Plan

PATIENCE = 30.0  # seconds for anything that has to happen; a hang is a failure
_CLEAN_WITHIN = 10.0  # seconds after the last end, until nothing is left over
_LOOK_INTERVAL = 0.05  # seconds
_MAX_ATTEMPTS = 50  # a trial is about faults of the surroundings, not about giving up

_BESIDE = (Way.REJOINING, Way.SLOW)
_STARTS = frozenset({"started", "done", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is to become of a job; see `JobFacts`."""

    ends: frozenset[str] = frozenset({"done"})
    highest_number: int | None = None
    kept: Kept = Kept.ALL
    dead: bool = False
    max_attempts: int = _MAX_ATTEMPTS


AS_USUAL = Expectation()


@dataclass(frozen=True, slots=True)
class _Mark:
    """A moment at which something was done to the workers of these jobs."""

    at: float
    jobs: Sequence[str]
    types: frozenset[str]


@dataclass(slots=True)
class _Job:
    plan: Plan
    expected: Expectation
    readers: list["asyncio.Task[Transcript]"] = field(default_factory=list)


class Trial:
    """The jobs of one trial. ``async with`` it: whatever happens, its readers end with it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.watch = Watch()
        self._jobs: dict[str, _Job] = {}
        self._marks: list[_Mark] = []
        self._stem = uuid4().hex[:8]

    async def __aenter__(self) -> "Trial":
        return self

    async def __aexit__(self, *_: object) -> None:
        readers = [reader for job in self._jobs.values() for reader in job.readers]
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)
        for job_id in self._jobs:
            self.stage.upstream.forget(job_id)

    @property
    def size(self) -> int:
        """How many jobs there are."""
        return len(self._jobs)

    # -- jobs ----------------------------------------------------------------------------------------------

    async def add(
        self, count: int, expected: Expectation, *, beside: Sequence[Way] = _BESIDE, **plan: object
    ) -> None:
        """Put so many jobs on the queue, each with an early reader, and every third with others ``beside`` it."""
        await asyncio.gather(*(self._add_one(expected, beside, plan) for _ in range(count)))

    async def _add_one(
        self, expected: Expectation, beside: Sequence[Way], plan: Mapping[str, object]
    ) -> None:
        number = len(self._jobs)
        job_id = f"{self._stem}-{number}"
        job = self._jobs[job_id] = _Job(Plan(job_id, **plan), expected)  # type: ignore[arg-type]
        self.watch.expect(job_id)
        await self.stage.producer.enqueue(
            job.plan.prompt(),
            id=job_id,
            provider=PROVIDER,
            model=MODEL,
            max_attempts=expected.max_attempts,
            on_retry="continue" if number % 2 else "restart",
        )
        ways = [Way.EARLY, *(beside if number % 3 == 0 else ())]
        job.readers += [self._reader(job_id, way) for way in ways]

    def _reader(self, job_id: str, way: Way) -> "asyncio.Task[Transcript]":
        note = self.watch.note if way is Way.EARLY else None
        return asyncio.create_task(
            read(self.stage.producer, job_id, way, note), name=f"verify-{way.value}-reader-of-{job_id}"
        )

    def expect_lost(self) -> None:
        """Say that all jobs so far may be lost, because Redis lost them."""
        for job in self._jobs.values():
            job.expected = replace(job.expected, kept=Kept.NOTHING)

    # -- facts that a fault waits for ----------------------------------------------------------------------

    async def in_full_swing(self) -> None:
        """Wait until several jobs are in the middle of their answers."""
        several = min(4, len(self._jobs))
        await self.watch.until(f"{several} jobs run", lambda: len(self.watch.running()) >= several, PATIENCE)

    async def victim(self) -> WorkerProcess:
        """Return a worker that is in the middle of answers: the one that runs most."""
        await self.in_full_swing()
        return max(self.stage.fleet.workers, key=lambda one: len(self.watch.run_by(one.name)))

    def mark(self, victim: WorkerProcess | None = None) -> list[str]:
        """Note the moment, for the time to recover, and return whose answers are concerned.

        With a ``victim``, its jobs recover when they start anew; without one, all that run, with any event.
        """
        jobs = self.watch.run_by(victim.name) if victim else self.watch.running()
        self._marks.append(_Mark(time.monotonic(), jobs, _STARTS if victim else frozenset()))
        return jobs

    async def all_recovered(self) -> None:
        """Wait until each job that was concerned has recovered."""
        await self.watch.until(
            "the jobs that were hit go on", lambda: None not in self._recoveries(), PATIENCE
        )

    async def lease_ran_out(self) -> None:
        """Wait until nobody has renewed what is held, for as long as a lease and a sweep."""
        manner = self.stage.fleet.manner
        give_up_at = time.monotonic() + PATIENCE
        while await longest_idle(self.stage.redis, self.stage.keys) < manner.lease + manner.sweep:
            if time.monotonic() > give_up_at:
                raise Stalled(f"for {PATIENCE:g} s in vain: the lease runs out")
            await asyncio.sleep(_LOOK_INTERVAL)

    def _recoveries(self) -> list[float | None]:
        return [
            self.watch.jobs[job_id].next_after(mark.at, mark.types)
            for mark in self._marks
            for job_id in mark.jobs
        ]

    def seconds_to_recover(self) -> float | None:
        """Return the longest time that a job which was hit took to go on; None if none was hit."""
        failed = [
            self.watch.jobs[job_id].restarted_after(call.failed_at)
            for job_id, job in self._jobs.items()
            for call in self.stage.upstream.calls(job_id)
            if call.failed_at is not None and not job.expected.dead
        ]
        recoveries = [taken for taken in (*self._recoveries(), *failed) if taken is not None]
        return max(recoveries, default=None)

    # -- the end -------------------------------------------------------------------------------------------

    async def violations(self) -> list[str]:
        """Wait for the end of all jobs, let the late readers in, and return what the checker finds."""
        hanging = await self._all_read()
        for job_id, job in self._jobs.items():
            job.readers.append(self._reader(job_id, Way.LATE))
        hanging += await self._all_read()
        # Only once nothing more goes away by itself: a worker that was thawed needs a moment to close its calls.
        left = [] if hanging else check_leftovers(await self._leftovers())
        found = [violation for job_id in self._jobs for violation in check_job(await self._facts(job_id))]
        return [*hanging, *found, *left]

    async def _all_read(self) -> list[str]:
        readers = [reader for job in self._jobs.values() for reader in job.readers]
        _, waiting = await asyncio.wait(readers, timeout=PATIENCE)
        return [f"{reader.get_name()} has waited for {PATIENCE:g} s in vain" for reader in waiting]

    async def _facts(self, job_id: str) -> JobFacts:
        stage, job = self.stage, self._jobs[job_id]
        held = await read_job(stage.redis, stage.keys, job_id)
        return JobFacts(
            id=job_id,
            log=held.log,
            problem=held.problem,
            status=held.status,
            calls=[call.fact() for call in stage.upstream.calls(job_id)],
            transcripts=[reader.result() for reader in job.readers if reader.done()],
            expected=job.expected.ends,
            highest_number=job.expected.highest_number,
            kept=job.expected.kept,
        )

    async def _leftovers(self) -> Leftovers:
        """Return what is left once nothing of it goes away any more by itself."""
        give_up_at = time.monotonic() + _CLEAN_WITHIN
        while True:
            left = await self._left_now()
            if not check_leftovers(left) or time.monotonic() > give_up_at:
                break
            await asyncio.sleep(_LOOK_INTERVAL)
        fleet = self.stage.fleet
        return replace(left, complaints=fleet.take_complaints(), exit_statuses=fleet.statuses())

    async def _left_now(self) -> Leftovers:
        stage = self.stage
        dead = frozenset(job_id for job_id, job in self._jobs.items() if job.expected.dead)
        left = await read_leftovers(stage.redis, stage.keys, jobs=self._jobs, expected_dead=dead)
        return replace(
            left, stopped_workers=tuple(stage.fleet.statuses()), open_calls=stage.upstream.open_calls()
        )
