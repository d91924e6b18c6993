"""Cancelling a job from any process."""

import asyncio
from enum import Enum
from typing import Any

from producer import scripts
from producer.errors import CorruptLog, JobNotFound, ResultTimeout
from producer.link import Link
from producer.status import next_attempt, read_record
from producer.subscription import Subscription
from producer.wire.codec import pack
from producer.wire.events import Cancelled, EventId
from producer.wire.frames import encode
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNFINISHED_MS

_MAX_REASON_CHARS = 500
_NO_REASON = "requested"  # an empty one would be no mark
_TRIES = 10


class Cancellation(Enum):
    """What a cancel came to."""

    CANCELLED = "cancelled"
    """Nobody ran the job; it has ended."""
    REQUESTED = "requested"
    """A worker runs it and has been told; its `Cancelled` event follows."""
    FINISHED = "already finished"
    """Too late: the job had ended before."""


async def cancel_job(link: Link, keys: Keys, job_id: str, reason: str) -> tuple[Cancellation, int]:
    """Cancel the job: end it where nobody runs it, otherwise mark it and tell the workers of its queue.

    Returns what it came to, and the attempt that runs; 0 where none does.

    Raises:
        JobNotFound: no such job, or its retention is over.
        CorruptLog: its keys hold what no producer and no worker wrote.
        Unavailable: Redis cannot be reached.
    """
    names = [keys.log(job_id), keys.record(job_id), keys.cancel(job_id), keys.events(job_id)]
    reason = reason[:_MAX_REASON_CHARS].encode(errors="replace").decode() or _NO_REASON
    for _ in range(_TRIES):
        record, now_ms = await read_record(link, keys, job_id)
        own_attempt = next_attempt(record, now_ms)
        frame = encode(Cancelled(str(EventId(own_attempt, 0)), reason, upstream_closed=True))
        (outcome,) = await link.run(
            scripts.CANCEL.on(names, own_attempt, frame, reason, UNFINISHED_MS, now_ms)
        )
        match outcome:
            case b"cancelled":
                return Cancellation.CANCELLED, 0
            case b"finished":
                return Cancellation.FINISHED, 0
            case b"unknown":
                raise JobNotFound(job_id)
            case [b"requested", running, queue]:
                hint = {"type": "cancel", "id": job_id, "attempt": int(running), "reason": reason}
                await _tell_workers(link, keys.control(queue.decode()), hint)
                return Cancellation.REQUESTED, int(running)
            # b"again": an attempt began between the two steps, so a later id is due
    raise CorruptLog(f"the log of job {job_id!r} and its record do not belong together")


async def follow_to_end(subscription: Subscription, seconds: float) -> Cancellation:
    """Wait for the end of a job whose cancel was requested: it was cancelled, or had come to its end before.

    Raises:
        ResultTimeout: it did not end within ``seconds``; the cancel stands.
        JobNotFound, Unavailable: as for `Subscription`.
    """
    try:
        async with asyncio.timeout(seconds):
            while await subscription.read():
                pass
    except TimeoutError as error:
        raise ResultTimeout(
            f"job {subscription.job_id!r} has not ended within {seconds:g} s; its cancel stands"
        ) from error
    return Cancellation.CANCELLED if isinstance(subscription.end, Cancelled) else Cancellation.FINISHED


async def _tell_workers(link: Link, channel: str, hint: dict[str, Any]) -> None:
    """Say it on the control channel, where it may get lost: the mark is what counts."""
    message = pack(hint)
    await link.ask(lambda redis: redis.publish(channel, message))
