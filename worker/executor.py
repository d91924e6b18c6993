"""One delivery becomes one outcome. Nothing escapes: whatever goes wrong is an outcome, or is logged."""

import asyncio
import time

import aiohttp
import structlog
from redis.exceptions import RedisError

from producer.wire.codec import WireError
from producer.wire.events import Started
from producer.wire.job import Job
from producer.wire.lifetimes import UNFINISHED_MS
from worker.cancellations import Cancellations
from worker.event_log import Attempt, EventLog, LeaseLost
from worker.outcome import (
    CancelAsked,
    Failure,
    Lost,
    NothingToDo,
    Outcome,
    Released,
    Undecodable,
    Verb,
    ending_of,
    event_of,
)
from worker.providers.errors import ProviderError
from worker.providers.registry import NoProvider, Provider, Registry
from worker.queue import Entry, Queue
from worker.relay import relay
from worker.settings import Settings

logger = structlog.get_logger("chatrelay.executor")


class Executor:
    """Runs jobs. It sees verbs, events and providers, never a key or a command."""

    def __init__(
        self,
        queue: Queue,
        log: EventLog,
        cancellations: Cancellations,
        registry: Registry,
        http: aiohttp.ClientSession,
        settings: Settings,
    ) -> None:
        self._queue = queue
        self._log = log
        self._cancellations = cancellations
        self._registry = registry
        self._http = http
        self._settings = settings
        self._unstoppable: set[asyncio.Task[Outcome]] = set()

    async def execute(self, entry: Entry) -> Outcome:
        """Run the entry's job to an outcome, and do what follows from it. Never raises, unless cancelled."""
        try:
            try:
                job = Job.decode(entry.body)
            except WireError as error:
                return await self._refuse(entry, str(error))
            return await self._run(entry, job)
        except RedisError as error:
            return await self._give_up(entry, error)

    async def _run(self, entry: Entry, job: Job) -> Outcome:
        provider = self._provider_for(job)
        names = _names(provider, job)
        claimed = await self._queue.claim(entry, job.id, created_at=job.created_at, **names)
        if claimed is None:
            return await self._conclude(entry, None, NothingToDo())
        outcome: Outcome
        if claimed.cancel_reason is not None:
            outcome = CancelAsked(claimed.cancel_reason)
        elif isinstance(provider, Failure):
            outcome = provider
        else:
            outcome = await self._ask(provider, job, claimed.attempt)
        return await self._conclude(entry, claimed.attempt, outcome)

    async def _refuse(self, entry: Entry, reason: str) -> Outcome:
        """Bury what is no job; where it names one that somebody may be waiting for, that job fails."""
        job_id = Job.id_in(entry.body)
        claimed = await self._queue.claim(entry, job_id, created_at=_now_ms()) if job_id else None
        return await self._conclude(entry, claimed.attempt if claimed else None, Undecodable(reason))

    async def _give_up(self, entry: Entry, error: RedisError) -> Outcome:
        """Bury what Redis refuses to work on, such as a job under whose key something else stands."""
        logger.error("redis refused", queue=entry.queue, entry=entry.id, error=str(error))
        try:
            await self._queue.bury(entry, f"redis refused: {error}")
        except RedisError as again:
            # Then nothing can be done here: the entry stays claimed, and nothing is lost.
            logger.error("redis refused to bury", queue=entry.queue, entry=entry.id, error=str(again))
        return Lost()

    def _provider_for(self, job: Job) -> Provider | Failure:
        if job.deadline is not None and job.deadline <= _now_ms():
            return Failure("deadline_exceeded", "the deadline had passed before a provider was asked")
        try:
            return self._registry.match(job)
        except NoProvider as error:
            return Failure(error.code, error.message)
        except Exception:  # a class that is not ours may have anything for its attributes
            logger.exception("no provider could be looked for", job=job.id)
            return Failure("internal_error", "no provider could be looked for; see the worker's log")

    async def _ask(self, provider: Provider, job: Job, attempt: Attempt) -> Outcome:
        answering = asyncio.create_task(
            self._answer(provider, job, attempt), name=f"chatrelay-answer-{job.id}"
        )
        try:
            with self._cancellations.watch(job.id, attempt.id, answering) as stop:
                ended = await stop.wait()
        finally:
            answering.cancel()  # for the case that this task itself was cancelled
        if not ended:
            logger.error("a provider would not be stopped", job=job.id, provider=provider.name)
            return self._left_open(answering, stop.reason)
        if answering.cancelled():
            return stop.reason or Failure("provider_crashed", f"provider {provider.name!r} cancelled itself")
        outcome = answering.result()
        # A provider may turn the cancel by which it was stopped into a failure.
        return stop.reason if stop.reason is not None and isinstance(outcome, Failure) else outcome

    def _left_open(
        self, answering: "asyncio.Task[Outcome]", reason: CancelAsked | Released | None
    ) -> Outcome:
        self._unstoppable.add(answering)
        answering.add_done_callback(self._unstoppable.discard)
        return (
            CancelAsked(reason.reason, upstream_closed=False)
            if isinstance(reason, CancelAsked)
            else Released()
        )

    async def _answer(self, provider: Provider, job: Job, attempt: Attempt) -> Outcome:
        try:
            model = provider.model_for(job) or None
            started = Started(
                attempt.next_id(), attempt.number, provider.name, self._settings.name, model, keeps=0
            )
            self._log.append(attempt, started)
            parts = provider.ask(job, self._http)
            return await relay(parts, attempt, self._log, provider.timeouts_for(job))
        except LeaseLost:
            return Lost()
        except ProviderError as error:
            return Failure(error.code, error.message)
        except (Exception, GeneratorExit, BaseExceptionGroup) as error:
            # A class that is not ours may raise anything.
            if error is attempt.refusal:
                raise  # it is Redis that refused our writes, not the provider that failed
            # Its text is for the operator alone: it may hold what must not reach a reader. The log hides our keys.
            logger.exception(
                "a provider raised what is not a ProviderError", job=job.id, provider=provider.name
            )
            kind = type(error).__name__
            return Failure(
                "provider_crashed", f"provider {provider.name!r} raised {kind}; see the worker's log"
            )

    async def _conclude(self, entry: Entry, attempt: Attempt | None, outcome: Outcome) -> Outcome:
        if attempt is not None and ending_of(outcome).status is not None:
            outcome = await self._finish(attempt, outcome)
        ending = ending_of(outcome)
        await self._do(ending.verb, entry, outcome)
        self._tell(entry, attempt, outcome)
        return outcome

    def _tell(self, entry: Entry, attempt: Attempt | None, outcome: Outcome) -> None:
        where = {"job": attempt.job_id if attempt else None, "queue": entry.queue, "entry": entry.id}
        match outcome:
            case Failure(code, message):
                logger.warning("job failed", **where, code=code, message=message)
            case Undecodable(reason):
                logger.warning("an entry that is no job was buried", **where, reason=reason)
            case _:
                logger.info("job ended", **where, outcome=type(outcome).__name__)

    async def _finish(self, attempt: Attempt, outcome: Outcome) -> Outcome:
        """Write the attempt's end, and return how it did end: a cancel that was promised meanwhile wins."""
        event_id = attempt.next_id()  # one id, whatever the end turns out to be
        try:
            try:
                reason = await self._write_end(attempt, event_id, outcome)
            except WireError as error:
                outcome = Failure("provider_crashed", f"the answer's end cannot be written: {error}")
                reason = await self._write_end(attempt, event_id, outcome)
            if reason is not None:
                outcome = CancelAsked(reason)
                await self._write_end(attempt, event_id, outcome)
        except LeaseLost:
            return Lost()
        return outcome

    async def _write_end(self, attempt: Attempt, event_id: str, outcome: Outcome) -> str | None:
        ending = ending_of(outcome)
        assert ending.status is not None, "only outcomes that write an event come here"
        event = event_of(outcome, event_id, attempts=attempt.number, now_ms=_now_ms())
        ttl_ms = int(self._settings.retention * 1000) if event.terminal else UNFINISHED_MS
        return await self._log.finish(attempt, event, ending.status, ttl_ms, counts=ending.counts)

    async def _do(self, verb: Verb, entry: Entry, outcome: Outcome) -> None:
        reason = outcome.reason if isinstance(outcome, Undecodable) else ""
        match verb:
            case Verb.SETTLE:
                await self._queue.settle(entry)
            case Verb.RELEASE:
                await self._queue.release(entry)
            case Verb.BURY:
                await self._queue.bury(entry, reason)
            case Verb.NOTHING:
                self._queue.forget(entry)


def _names(provider: Provider | Failure, job: Job) -> dict[str, str]:
    """Return the names of the provider and of the model to ask, where there are any."""
    return (
        {} if isinstance(provider, Failure) else {"provider": provider.name, "model": provider.model_for(job)}
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
