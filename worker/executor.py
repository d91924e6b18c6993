"""One delivery becomes one outcome. Nothing escapes: whatever goes wrong is an outcome, or is logged."""

import asyncio
import time
from collections.abc import Sequence

import structlog
from redis.exceptions import RedisError

from producer.wire.codec import WireError
from producer.wire.dead import DeadLetter
from producer.wire.job import Job
from worker.asking import Asker, Question
from worker.conclusions import Conclusions
from worker.event_log import EventLog
from worker.holdings import Entry
from worker.outcome import CancelAsked, Failure, Follow, Lost, Outcome, PutOff, Undecodable, fit
from worker.parking import Parking
from worker.providers.provider import Provider
from worker.providers.registry import NoProvider, Registry
from worker.queue import Claim, Claimed, Queue
from worker.retry import Backoff, Situation, decide, most_hopeful, spread, too_late
from worker.run import Run
from worker.settings import Settings
from worker.standing import Standing, StandingReader

logger = structlog.get_logger("chatrelay.executor")


class Executor:
    """Runs jobs. It sees verbs, outcomes and providers, never a key or a command."""

    def __init__(
        self,
        queue: Queue,
        log: EventLog,
        asker: Asker,
        parking: Parking,
        standing: StandingReader,
        registry: Registry,
        settings: Settings,
    ) -> None:
        self._queue = queue
        self._asker = asker
        self._parking = parking
        self._standing = standing
        self._registry = registry
        self._settings = settings
        self._conclusions = Conclusions(queue, log, settings.retention)
        self._backoff = Backoff(settings.backoff, settings.longest_backoff)

    async def execute(self, entry: Entry) -> Outcome:
        """Run the entry's job to an outcome, and do what follows from it. Never raises, unless cancelled."""
        outcome = await self._executed(entry)
        return await self._give_up(entry, outcome) if isinstance(outcome, RedisError) else outcome

    async def _executed(self, entry: Entry) -> Outcome | RedisError:
        """Return the outcome, or the error with which Redis refuses to work on the job."""
        try:
            job = _job_in(entry)
            if isinstance(job, Undecodable):
                return await self._refuse(entry, job)
            return await self._run(entry, job)
        except RedisError as error:
            return error
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException:
            # Nobody should come here. The lease ends by itself, and each claim counts, so that the job ends, too.
            logger.exception("a job broke the executor: this is a bug", queue=entry.queue, entry=entry.id)
            self._queue.forget(entry)
            return Lost()

    async def _run(self, entry: Entry, job: Job) -> Outcome:
        providers = self._providers_for(job)
        shared = () if isinstance(providers, Failure) else providers
        names = [provider.name for provider in shared if not provider.is_the_jobs(job)]
        claim = self._claim_of(job, None if isinstance(providers, Failure) else providers[0])
        asked = self._parking.ask(names)  # in the claim's round trip
        claimed = await self._queue.claim(entry, claim)
        parked = await self._parking.answers(asked)
        if not isinstance(claimed, Claimed):
            return await self._conclusions.conclude(entry, claimed)
        run = Run(entry, job, claimed)
        try:
            outcome = await self._outcome(run, providers, parked)
        except RedisError as error:
            # It may be about a provider's keys, or one of the job's: its end may be written all the same.
            outcome = Failure("redis_refused", f"redis refused: {error}", Follow.BURY)
        return await self._conclusions.conclude(entry, outcome, run)

    async def _outcome(
        self, run: Run, providers: Sequence[Provider] | Failure, parked: dict[str, int]
    ) -> Outcome:
        if run.claimed.cancel_reason is not None:
            return CancelAsked(run.claimed.cancel_reason)
        if isinstance(providers, Failure):
            return providers
        if (why := await self._why_not(run)) is not None:
            return why
        return await self._try_along(run, providers, parked)

    # -- before a provider is asked ------------------------------------------------------------------------

    async def _refuse(self, entry: Entry, outcome: Undecodable) -> Outcome:
        """Bury what is no job; where it names one that somebody may be waiting for, that job fails."""
        job_id = Job.id_in(entry.body)
        if job_id is None:
            return await self._conclusions.conclude(entry, outcome)
        claimed = await self._queue.claim(entry, Claim(job_id, created_at=_now_ms()))
        if not isinstance(claimed, Claimed):
            return await self._conclusions.conclude(entry, claimed if isinstance(claimed, Lost) else outcome)
        no_job = Job.model_construct(id=job_id)
        return await self._conclusions.conclude(entry, outcome, Run(entry, no_job, claimed))

    async def _give_up(self, entry: Entry, error: RedisError) -> Outcome:
        """Bury what Redis refuses to work on, such as a job under whose key something else stands."""
        logger.error("redis refused", queue=entry.queue, entry=entry.id, error=str(error))
        try:
            job_id = Job.id_in(entry.body) or ""
            letter = DeadLetter(entry.body, job_id, "redis_refused", fit(f"redis refused: {error}"))
            await self._queue.bury(entry, letter)
        except RedisError as again:
            # Then nothing can be done here: the entry stays claimed, and nothing is lost.
            logger.error("redis refused to bury", queue=entry.queue, entry=entry.id, error=str(again))
            self._queue.forget(entry)
        return Lost()

    def _providers_for(self, job: Job) -> Sequence[Provider] | Failure:
        try:
            return self._registry.candidates(job)
        except NoProvider as error:
            return Failure(error.code, error.message)
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException:  # a class that is not ours may have anything for its attributes
            logger.exception("no provider could be looked for", job=job.id)
            return Failure("internal_error", "no provider could be looked for; see the worker's log")

    def _claim_of(self, job: Job, provider: Provider | None) -> Claim:
        asked = ("", "") if provider is None else (provider.name, provider.model_for(job))
        return Claim(job.id, job.created_at, job.turn, *asked)

    async def _why_not(self, run: Run) -> Failure | None:
        """Return why no provider is to be asked (any more)."""
        job, attempt = run.job, run.attempt
        if job.deadline is not None and job.deadline <= attempt.now_ms():
            return too_late("no provider was asked in time", job.deadline)
        if attempt.number > job.max_attempts:
            last = f"; the last error was: {run.errors[-1].message}" if run.errors else ""
            text = (
                f"{job.max_attempts} attempts ended with the worker that made them, or were lost by it{last}"
            )
            return Failure("attempts_exhausted", text, Follow.BURY)
        if not run.claimed.is_first and job.on_retry != "restart":
            run.standing = await self._standing.read(job.id)
        if job.on_retry == "fail" and not run.standing.is_empty:
            text = "the attempt before ended after a part of its answer was out, and on_retry is fail"
            return Failure("interrupted", text, Follow.BURY)
        return None

    # -- asking --------------------------------------------------------------------------------------------

    async def _try_along(self, run: Run, providers: Sequence[Provider], parked: dict[str, int]) -> Outcome:
        """Ask one provider after the other until one answers, or has given a part of its answer to readers.

        The whole way along the list counts as one attempt.
        """
        failures: list[Failure] = []
        for provider in providers:
            if provider.name in parked:
                continue
            if failures and (stopped := await self._begin_again(run, provider)) is not None:
                return stopped
            if not failures and provider is not providers[0]:
                await self._queue.choose(run.attempt, provider.name, provider.model_for(run.job))
            if not (provider.can_go_on and run.standing.can_be_continued):
                run.standing = Standing()  # readers drop it, so the next one has nothing to go on from either
            standing = run.standing.text
            outcome = await self._asker.ask(Question(run.entry, run.job, run.attempt, provider, standing))
            if not isinstance(outcome, Failure):
                if not provider.is_the_jobs(run.job):
                    self._parking.works(provider.name)
                return outcome
            failures.append(outcome)
            run.note(outcome, provider.name)
            if outcome.follow is Follow.WAIT:
                parked[provider.name] = await self._leave_alone(provider, outcome, run)
            if run.attempt.has_output or outcome.code == "deadline_exceeded":
                break
        return self._after(run, failures, parked)

    async def _leave_alone(self, provider: Provider, refusal: Failure, run: Run) -> int:
        """Let all workers leave it alone; this job alone, where that chose the service. Return until when, in ms."""
        if not provider.is_the_jobs(run.job):
            return await self._parking.park(provider.name, refusal.retry_after)
        now_ms = run.attempt.now_ms()
        seconds = refusal.retry_after
        if seconds is None:
            seconds = self._backoff.pause_after((now_ms - run.claimed.first_claim_ms) / 1000)
        return now_ms + round(seconds * 1000)

    async def _begin_again(self, run: Run, provider: Provider) -> Outcome | None:
        """End the attempt, uncounted, and begin the next one in its place; or return why not."""
        ended = await self._conclusions.finish(run, PutOff(run.attempt.now_ms(), "retry", counts=False))
        if not isinstance(ended, PutOff):
            return ended
        claim = self._claim_of(run.job, provider)._replace(after=run.attempt.id)
        claimed = await self._queue.claim(run.entry, claim)
        if not isinstance(claimed, Claimed):
            return claimed
        run.begin(claimed)
        return None if claimed.cancel_reason is None else CancelAsked(claimed.cancel_reason)

    def _after(self, run: Run, failures: Sequence[Failure], parked: dict[str, int]) -> Outcome:
        job, attempt = run.job, run.attempt
        situation = Situation(
            number=attempt.number,
            max_attempts=job.max_attempts,
            has_output=attempt.has_output or not run.standing.is_empty,
            on_retry=job.on_retry,
            deadline=job.deadline,
            wait_no_longer_than=run.claimed.first_claim_ms + int(self._settings.max_wait * 1000),
            now=attempt.now_ms(),
        )
        # One that was passed over gives more hope than one that said no.
        if parked and not attempt.has_output:
            text = f"left alone, as they asked: {', '.join(sorted(parked))}"
            failures = [Failure("rate_limited", text, Follow.WAIT), *failures]
        failure = most_hopeful(failures)
        if failure.follow is Follow.WAIT:
            until = spread(max(situation.now, min(parked.values())), situation.now)
            return decide(failure, situation, until)
        pause_ms = round(self._backoff.pause(attempt.number) * 1000)
        return decide(failure, situation, situation.now + pause_ms)


def _job_in(entry: Entry) -> Job | Undecodable:
    try:
        return Job.decode(entry.body)
    except WireError as error:
        return Undecodable(str(error))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
