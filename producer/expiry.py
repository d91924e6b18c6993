"""Ending a job whose deadline has passed while no worker had it: whoever waits for it does, so that nobody waits on."""

from producer import scripts
from producer.link import Link
from producer.status import number_in, read_record
from producer.wire.events import EventId, Failed
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

    Raises:
        Unavailable: Redis cannot be reached, or refuses this client to write.
    """
    names = [keys.log(job_id), keys.record(job_id), keys.events(job_id)]
    for _ in range(_TRIES):
        record, now_ms = await read_record(link, keys, job_id)
        attempt, number = number_in(record, "attempt"), number_in(record, "number")
        # An attempt of its own, by the rule that claims follow: the server's time, and above the last one.
        own_attempt = max(now_ms, attempt + 1)
        when = _WHEN.get(record.get(b"status", b""), "it waited for another attempt")
        message = f"the deadline passed while {when}"
        frame = encode(Failed(str(EventId(own_attempt, 0)), "deadline_exceeded", message, number))
        (outcome,) = await link.run(
            scripts.EXPIRE.on(names, own_attempt, frame, attempt, number, UNFINISHED_MS, _WORKERS_TURN_MS)
        )
        if outcome != b"again":
            return bool(outcome == b"expired")
    return False
