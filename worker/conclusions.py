"""What follows once an outcome is there: its event is written, its entry dealt with, and the operator told."""

import logging
from collections.abc import Awaitable

import structlog

from producer.wire.codec import WireError
from producer.wire.dead import pack_errors
from producer.wire.lifetimes import UNFINISHED_MS
from worker.attempt import LeaseLost
from worker.event_log import End, EventLog
from worker.holdings import Entry
from worker.outcome import (
    Answered,
    CancelAsked,
    Failure,
    Lost,
    Outcome,
    PutOff,
    TooEarly,
    Undecodable,
    Verb,
    ending_of,
    event_of,
)
from worker.queue import Queue
from worker.run import Run, letter_of

logger = structlog.get_logger("chatrelay.executor")


class Conclusions:
    """Concludes runs. ``retention``: seconds for which an ended job's keys live."""

    def __init__(self, queue: Queue, log: EventLog, retention: float) -> None:
        self._queue = queue
        self._log = log
        self._retention_ms = int(retention * 1000)
        # An application's own kind of logger may not say.
        self._tells_all = getattr(logger.bind(), "is_enabled_for", lambda _: True)(logging.INFO)

    async def conclude(self, entry: Entry, outcome: Outcome, run: Run | None = None) -> Outcome:
        """Write the end of the run, if it has none yet, and do what follows; return how it did end.

        Raises:
            redis.exceptions.ResponseError: Redis refuses what is written, or what is done with the entry.
        """
        if run is not None and not run.finished and ending_of(outcome).status is not None:
            outcome = await self.finish(run, outcome)
        await self._do(entry, outcome, run)
        self._tell(entry, outcome, run)
        return outcome

    async def finish(self, run: Run, outcome: Outcome) -> Outcome:
        """Write the attempt's end, and return how it did end: a cancel that was promised meanwhile wins.

        Raises:
            redis.exceptions.ResponseError: Redis refuses what is written.
        """
        event_id = run.attempt.next_id()  # one id, whatever the end turns out to be
        run.finished = True
        try:
            written = self._write_end(run, event_id, outcome)
        except WireError as error:
            outcome = Failure("provider_crashed", f"the answer's end cannot be written: {error}")
            written = self._write_end(run, event_id, outcome)
        try:
            if (reason := await written) is not None:
                outcome = CancelAsked(reason)
                await self._write_end(run, event_id, outcome)
        except LeaseLost:
            return Lost()
        return outcome

    def _write_end(self, run: Run, event_id: str, outcome: Outcome) -> Awaitable[str | None]:
        ending, attempt = ending_of(outcome), run.attempt
        assert ending.status is not None, "only outcomes that write an event come here"
        event = event_of(outcome, event_id, attempts=run.attempts, now_ms=attempt.now_ms())
        due_ms = outcome.until_ms if isinstance(outcome, PutOff) else None
        errors = b"" if event.terminal or not run.errors else pack_errors(run.errors)
        dead = letter_of(run.entry, outcome, run).summary() if ending.verb is Verb.BURY else b""
        ttl_ms = self._retention_ms if event.terminal else UNFINISHED_MS
        end = End(event, ending.status, ttl_ms, ending.counts, due_ms, errors, dead)
        return self._log.finish(attempt, end)

    async def _do(self, entry: Entry, outcome: Outcome, run: Run | None) -> None:
        match ending_of(outcome).verb, outcome:
            case Verb.SETTLE, _:
                self._queue.settle(entry)
            case Verb.RELEASE, _:
                await self._queue.release(entry)
            case Verb.DEFER, PutOff(until_ms=due_ms) | TooEarly(due_ms=due_ms):
                await self._queue.defer(entry, due_ms)
            case Verb.BURY, _:
                await self._queue.bury(entry, letter_of(entry, outcome, run))
            case _:
                self._queue.forget(entry)

    def _tell(self, entry: Entry, outcome: Outcome, run: Run | None) -> None:
        # Most are like this, and to ask the logger takes longer.
        if not self._tells_all and isinstance(outcome, Answered):
            return
        where = {"job": run.job.id if run else None, "queue": entry.queue, "entry": entry.id}
        match outcome:
            case Failure(code, message, follow):
                logger.warning("job failed", **where, code=code, message=message, follow=follow.value)
            case PutOff(until_ms, reason, _, Failure(code, message)):
                logger.warning(
                    "job put off", **where, reason=reason, until=until_ms, code=code, message=message
                )
            case Undecodable(reason):
                logger.warning("an entry that is no job was buried", **where, reason=reason)
            case _:
                logger.info("job ended", **where, outcome=type(outcome).__name__)
