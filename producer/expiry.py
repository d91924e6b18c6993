"""Ending a job whose deadline has passed while no worker had it: whoever waits for it does, so that nobody waits on."""

from collections.abc import Mapping

from producer import scripts
from producer.link import Link
from producer.status import next_attempt, number_in, read_record
from producer.wire.events import Cancelled, EventId, Failed
from producer.wire.frames import encode
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNFINISHED_MS

_WORKERS_TURN_MS = 10_000
"""A worker stops at the deadline by itself. One that has not ended its job so long after it is gone."""

_TRIES = 3
"""Each further one means that a worker has had the job meanwhile: then it is in good hands."""


_WHEN = {
    b"queued": "no worker had taken it",
    b"running": "a worker had it that has not been heard of since",
}


async def expire_job(link: Link, keys: Keys, job_id: str) -> bool:
    """End the job if its deadline has passed and no worker ends it; return whether this call did.

    One that somebody cancelled, and whose worker has not lived to end it, ends as cancelled.

    Raises:
        Unavailable: Redis cannot be reached, or refuses this client to write.
    """
    names = [keys.log(job_id), keys.record(job_id), keys.cancel(job_id), keys.events(job_id)]
    reason: str | None = None
    for _ in range(_TRIES):
        record, now_ms = await read_record(link, keys, job_id)
        attempt, number = number_in(record, "attempt"), number_in(record, "number")
        own_attempt = next_attempt(record, now_ms)
        event = _end(record, EventId(own_attempt, 0), number, reason)
        what = (own_attempt, encode(event), attempt, number, UNFINISHED_MS, _WORKERS_TURN_MS, event.type)
        (outcome,) = await link.run(scripts.EXPIRE.on(names, *what))
        match outcome:
            case b"again":
                continue
            case [b"cancel", mark]:
                reason = mark.decode(errors="replace")
            case _:
                return bool(outcome == b"expired")
    return False


def _end(record: Mapping[bytes, bytes], id_: EventId, number: int, reason: str | None) -> Failed | Cancelled:
    if reason is not None:
        return Cancelled(str(id_), reason, upstream_closed=record.get(b"status") != b"running")
    when = _WHEN.get(record.get(b"status", b""), "it waited for another attempt")
    return Failed(str(id_), "deadline_exceeded", f"the deadline passed while {when}", number)
