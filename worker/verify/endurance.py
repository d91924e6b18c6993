"""Jobs without end under troubles without end. Each job is checked as soon as it has ended, and then forgotten."""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from redis.exceptions import RedisError

from producer import Cancellation, JobNotFound, Unavailable
from worker.verify.checker import check_job, check_leftovers
from worker.verify.collector import JobRead, holder_of, read_job, read_leftovers
from worker.verify.facts import JobFacts, Leftovers, Transcript
from worker.verify.fleet import MODEL, PROVIDER
from worker.verify.lots import Dose, Lot, draw
from worker.verify.readers import Watch, Way, read
from worker.verify.stage import Stage
from worker.verify.troubles import Troubles

_JOB_PATIENCE = 120.0  # seconds after which a job that has not ended hangs
_ACCEPT_PATIENCE = 60.0  # seconds within which Redis has to take a job
_CLEAN_WITHIN = 20.0  # seconds
_LOOK_INTERVAL = 0.1  # seconds
_MAX_ATTEMPTS = 100
_KEPT_VIOLATIONS = 100


@dataclass(slots=True)
class Tally:
    """What came of it so far."""

    jobs: Counter[str] = field(default_factory=Counter)
    retries: int = 0
    cancels: int = 0
    violations: list[str] = field(default_factory=list)
    violation_count: int = 0
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By what was done to the worker: seconds until the job's next ``started``, with the server there all the time."""

    def violated(self, found: list[str]) -> None:
        """Count violations, and keep the first ones."""
        self.violation_count += len(found)
        self.violations += found[: max(0, _KEPT_VIOLATIONS - len(self.violations))]


class Endurance:
    """A run. `jobs` puts jobs on the queue until told to stop, while whoever calls it makes `troubles`."""

    def __init__(self, stage: Stage, seed: int, dose: Dose) -> None:
        self.tally = Tally()
        self.troubles = Troubles(stage, random.Random(seed), self._hit)
        self._stage = stage
        self._seed = seed
        self._dose = dose
        self._watch = Watch()
        self._hits: dict[str, list[tuple[float, str]]] = defaultdict(list)
        self._room = asyncio.Semaphore(dose.in_flight)

    @property
    def in_flight(self) -> int:
        """How many jobs have been accepted and not yet checked."""
        return len(self._watch.jobs)

    async def jobs(self, goes_on: Callable[[int], bool]) -> None:
        """Run jobs, as many at a time as the dose says, while ``goes_on(so_many_so_far)``; return when all ended."""
        count = 0
        async with asyncio.TaskGroup() as group:
            while goes_on(count):
                await self._room.acquire()
                job = group.create_task(
                    self._job(draw(self._seed, count, self._dose)), name=f"verify-job-{count}"
                )
                job.add_done_callback(lambda _: self._room.release())
                count += 1

    async def leftovers(self) -> None:
        """Once all jobs have ended: check that nothing is left, then that the workers stop as they should."""
        await self.troubles.settle()
        await self._stage.restore()
        fleet, give_up_at = self._stage.fleet, time.monotonic() + _CLEAN_WITHIN
        while found := check_leftovers(await self._left_now()):
            if time.monotonic() > give_up_at:
                break
            await asyncio.sleep(_LOOK_INTERVAL)
        await fleet.stop()
        end = Leftovers(
            complaints=fleet.take_complaints(),
            exit_statuses=fleet.statuses(),
            open_calls=self._stage.upstream.open_calls(),
        )
        self.tally.violated([*found, *check_leftovers(end)])

    async def _left_now(self) -> Leftovers:
        stage = self._stage
        left = await read_leftovers(stage.redis, stage.keys, jobs=(), expected_dead=frozenset())
        return replace(left, open_calls=stage.upstream.open_calls())

    # -- one job -------------------------------------------------------------------------------------------

    async def _job(self, lot: Lot) -> None:
        job_id = lot.plan.job
        self._watch.expect(job_id)
        await self._enqueue(lot)
        try:
            async with asyncio.timeout(_JOB_PATIENCE):
                cancelled, transcripts = await asyncio.gather(self._cancel(lot), self._read(lot))
        except TimeoutError:
            self.tally.violated([f"job {job_id} {await self._how_it_hangs(job_id)}"])
        else:
            await self._check(job_id, cancelled, transcripts)
        self._forget(job_id)

    async def _enqueue(self, lot: Lot) -> None:
        """Put the job on its queue; while Redis is away, again and again: under one id it stays one job."""
        async with asyncio.timeout(_ACCEPT_PATIENCE):
            while True:
                with contextlib.suppress(Unavailable):
                    await self._stage.producer.enqueue(
                        lot.plan.prompt(),
                        id=lot.plan.job,
                        provider=PROVIDER,
                        model=MODEL,
                        max_attempts=_MAX_ATTEMPTS,
                        on_retry=lot.on_retry,
                    )
                    return
                await asyncio.sleep(_LOOK_INTERVAL)

    async def _read(self, lot: Lot) -> list[Transcript]:
        """Read the job from its beginning, beside that as its lot says, and perhaps afterwards."""
        producer, job_id = self._stage.producer, lot.plan.job
        beside = [read(producer, job_id, way) for way in lot.beside if way is not Way.LATE]
        transcripts = await asyncio.gather(read(producer, job_id, Way.EARLY, self._watch.note), *beside)
        return [*transcripts, *[await read(producer, job_id, way) for way in lot.beside if way is Way.LATE]]

    async def _cancel(self, lot: Lot) -> str:
        """Cancel the job if its lot says so; return what came of it, ``none`` if nothing was to be."""
        if lot.cancel_after is None:
            return "none"
        await asyncio.sleep(lot.cancel_after)
        try:
            said = await self._stage.producer.cancel(lot.plan.job)
        except Unavailable:
            return "unknown"
        except JobNotFound:
            return "not found"
        self.tally.cancels += said is not Cancellation.FINISHED
        return "too late" if said is Cancellation.FINISHED else "promised"

    async def _check(self, job_id: str, cancelled: str, transcripts: list[Transcript]) -> None:
        stage, progress = self._stage, self._watch.jobs[job_id]
        held = await self._read_job(job_id)
        maybe = frozenset({"done", "cancelled"}) if cancelled == "unknown" else frozenset({"done"})
        found = check_job(
            JobFacts(
                id=job_id,
                log=held.log,
                problem=held.problem,
                status=held.status,
                # A frozen worker's call may be open for a while; at the end none may be.
                calls=[replace(call.fact(), is_closed=True) for call in stage.upstream.calls(job_id)],
                transcripts=transcripts,
                expected=maybe,
                cancel_promised=cancelled == "promised",
                highest_number=self._dose.highest_number,
            )
        )
        if cancelled == "not found":
            found.append(f"job {job_id}: a cancel did not find it")
        self.tally.violated(found)
        self.tally.jobs[progress.ended or "without an end"] += 1
        self.tally.retries += sum(type_ == "started" for _, type_ in progress.times) - 1

    async def _how_it_hangs(self, job_id: str) -> str:
        held = await self._read_job(job_id)
        last = held.log[-1] if held.log else None
        try:
            holder = await holder_of(self._stage.redis, self._stage.keys, job_id)
        except (RedisError, OSError) as error:
            holder = str(error)
        return f"hangs as {held.status!r}; the last event is {last}; {holder}"

    async def _read_job(self, job_id: str) -> JobRead:
        """Read what Redis holds of the job; while Redis is away, again and again."""
        async with asyncio.timeout(_JOB_PATIENCE):
            while True:
                with contextlib.suppress(RedisError, OSError):
                    return await read_job(self._stage.redis, self._stage.keys, job_id)
                await asyncio.sleep(_LOOK_INTERVAL)

    def _forget(self, job_id: str) -> None:
        progress = self._watch.forget(job_id)
        self._stage.upstream.forget(job_id)
        for at, what in self._hits.pop(job_id, ()):
            taken = progress.next_after(at, frozenset({"started"}))
            if taken is not None and not self._was_away(at, at + taken):
                self.tally.recoveries[what].append(taken)

    def _was_away(self, from_: float, to: float) -> bool:
        return any(begin <= to and end >= from_ for begin, end in self.troubles.outages)

    def _hit(self, worker: str, what: str) -> None:
        now = time.monotonic()
        for job_id in self._watch.run_by(worker):
            self._hits[job_id].append((now, what))
