"""One attempt at one provider: started, relayed, and stopped from outside where that is asked."""

import asyncio
from functools import partial
from typing import NamedTuple

import aiohttp
import structlog

from producer.wire.job import Job
from worker.attempt import Attempt, LeaseLost
from worker.cancellations import Cancellations
from worker.clock import Clocks
from worker.event_log import EventLog
from worker.holdings import Entry
from worker.limits import Limits
from worker.outcome import Answered, CancelAsked, Failure, Follow, Lost, Released
from worker.providers.errors import ProviderError
from worker.providers.provider import Provider
from worker.relay import relay
from worker.retry import failure_of, too_late
from worker.stop import Reason, Stop

logger = structlog.get_logger("chatrelay.asking")

Asked = Answered | Failure | CancelAsked | Released | Lost
"""How it can end."""


class Question(NamedTuple):
    """What is asked, and under whose name. ``standing``: the text to go on from, '' to start afresh."""

    entry: Entry
    job: Job
    attempt: Attempt
    provider: Provider
    standing: str = ""


class Asker:
    """Asks providers, and relays what they say to the log. Every ending is a value."""

    def __init__(
        self,
        log: EventLog,
        cancellations: Cancellations,
        limits: Limits,
        http: aiohttp.ClientSession,
        worker_name: str,
    ) -> None:
        self._log = log
        self._cancellations = cancellations
        self._limits = limits
        self._http = http
        self._worker_name = worker_name
        self._clocks = Clocks()
        self._unstoppable: set[asyncio.Task[Asked]] = set()

    async def ask(self, question: Question) -> Asked:
        """Ask once. It ends when the provider does, or when somebody stops it; the call is closed by then.

        Raises:
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
        """
        loop = asyncio.get_running_loop()
        stop = self._cancellations.watch(question.entry, question.attempt, loop)
        # A task of its own: what a class that is not ours does to it, such as not to end, does nothing to this one.
        answering = loop.create_task(self._answer(question, stop), name="chatrelay-answer")
        answering.add_done_callback(stop.ended)  # should it be cancelled before it begins
        deadline = _stop_at_deadline(question, stop)
        try:
            ended = await stop.wait(answering)
        finally:
            if deadline is not None:
                deadline.cancel()
            answering.cancel()  # for the case that this task itself was cancelled
            self._cancellations.forget(question.entry, question.attempt)
        provider = question.provider.name
        if not ended:
            logger.error("a provider would not be stopped", job=question.job.id, provider=provider)
            return self._left_open(answering, stop.reason)
        if answering.cancelled():
            return stop.reason or Failure(
                "provider_crashed", f"provider {provider!r} cancelled itself", Follow.RETRY
            )
        outcome = answering.result()
        # A provider may turn the cancel by which it was stopped into a failure.
        return stop.reason if stop.reason is not None and isinstance(outcome, Failure) else outcome

    def _left_open(self, answering: "asyncio.Task[Asked]", reason: Reason | None) -> Asked:
        self._unstoppable.add(answering)
        answering.add_done_callback(self._unstoppable.discard)
        if isinstance(reason, CancelAsked):
            return CancelAsked(reason.reason, upstream_closed=False)
        return reason or Released()

    async def _answer(self, question: Question, stop: Stop) -> Asked:
        provider, job, attempt = question.provider, question.job, question.attempt
        try:
            if not provider.is_limited:
                return await self._relay(question)
            relayed = partial(self._relay, question)
            return await self._limits.within(provider, f"{job.id} {attempt.id}", relayed)
        except LeaseLost:
            return Lost()
        except ProviderError as error:
            return failure_of(error)
        except (asyncio.CancelledError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # A class that is not ours may raise anything: what panics in Rust is no Exception, for one.
            if error is attempt.refusal:
                raise  # it is Redis that refused our writes, not the provider that failed
            # Its text is for the operator alone: it may hold what must not reach a reader. The log hides our keys.
            logger.exception(
                "a provider raised what is not a ProviderError", job=job.id, provider=provider.name
            )
            text = f"provider {provider.name!r} raised {type(error).__name__}; see the worker's log"
            return Failure("provider_crashed", text, Follow.RETRY)
        finally:
            stop.ended()  # whoever waits is woken one step sooner than by the end of the task

    async def _relay(self, question: Question) -> Answered | Failure:
        provider, job = question.provider, question.job
        if _is_late(question):  # a timer alone would let the provider be asked first
            return too_late("no provider was asked in time", job.deadline or 0)
        self._start(question)
        parts = provider.ask(job, self._http, standing=question.standing)
        clock = self._clocks.of(provider.timeouts_for(job))
        return await relay(parts, question.attempt, self._log, clock)

    def _start(self, question: Question) -> None:
        attempt, provider = question.attempt, question.provider
        attempt.keeps = len(question.standing)
        model = provider.model_for(question.job) or None
        self._log.begin(attempt, provider.name, self._worker_name, model)


def _is_late(question: Question) -> bool:
    deadline = question.job.deadline
    return deadline is not None and deadline <= question.attempt.now_ms()


def _stop_at_deadline(question: Question, stop: Stop) -> asyncio.TimerHandle | None:
    deadline = question.job.deadline
    if deadline is None:
        return None
    seconds = max(0, deadline - question.attempt.now_ms()) / 1000
    failure = too_late("the answer was not whole", deadline)
    return asyncio.get_running_loop().call_later(seconds, stop.now, failure)
