"""A provider's answer goes to the log, part by part, within its time."""

from collections.abc import AsyncIterator

import structlog

from worker.attempt import Attempt
from worker.clock import Clock
from worker.event_log import EventLog
from worker.intake import Intake
from worker.outcome import Answered
from worker.providers.base import Part
from worker.providers.errors import TimedOut
from worker.providers.flow import Take
from worker.providers.part_stream import PartStream

logger = structlog.get_logger("chatrelay.relay")

_LONGEST_CLOSE = 5.0  # seconds


async def relay(parts: AsyncIterator[Part], attempt: Attempt, log: EventLog, clock: Clock) -> Answered:
    """Append every part of the answer to the log; return how it ended. The provider is closed on every path.

    ``clock``: the answer's.

    Raises:
        ProviderError: the provider failed, or took too long.
        LeaseLost: the job has another owner.
    """
    intake = Intake(attempt, log, clock)
    iterator = aiter(parts)  # once: it may be a new one each time
    try:
        with clock:
            while not await _poured(iterator, intake.take):
                intake.check()
                with clock.stopped():  # it is Redis that we wait for, not the provider
                    await log.flush(attempt)
    finally:
        try:
            await _close(iterator, clock)
        finally:
            if parts is not iterator:
                await _close(parts, clock)
    return intake.end()


async def _poured(iterator: AsyncIterator[Part], take: Take) -> bool:
    """Hand over the parts as they come; return whether that was all, or ``take`` could take no more at once."""
    if isinstance(iterator, PartStream):
        return await iterator.pour(take)
    while True:  # not ``async for``, which would want an iterator of the iterator
        try:
            part = await anext(iterator)
        except StopAsyncIteration:
            return True
        if not take([part]):
            return False


async def _close(parts: AsyncIterator[Part], clock: Clock) -> None:
    """Close ``parts`` if it can be closed: a class that is not ours may return a plain iterator.

    What has come of the answer by now stands, also where one does not come back from being closed.
    """
    if isinstance(parts, PartStream):
        await parts.aclose()  # ours ends
    elif close := getattr(parts, "aclose", None):
        try:
            with clock.of_its_own(_LONGEST_CLOSE):
                await close()
        except TimedOut:
            logger.error("a provider did not come back from being closed", seconds=_LONGEST_CLOSE)
