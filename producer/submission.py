"""Enqueueing a job, in steps that a dying producer may leave anywhere.

A job's keys and its queue are in two slots, so no script can write both. The job is accepted first, then added
to its queue. Under an id that others may know, the acceptance is provisional until it is confirmed: a producer
that dies in between leaves nothing that a reader would wait for longer than a minute, and the next caller with
the same id finishes the work. An entry that this adds twice is recognised at the claim.
"""

from producer import scripts
from producer.connection import Call
from producer.errors import QueueFull
from producer.link import Link
from producer.wire.events import QUEUED_ID, Queued, encode
from producer.wire.job import Job
from producer.wire.keys import Keys
from producer.wire.lifetimes import RETENTION_MS, UNCONFIRMED_MS, UNFINISHED_MS

_SHORTEST_RETRY, _LONGEST_RETRY = 0.1, 30.0  # seconds


async def submit(link: Link, keys: Keys, job: Job, body: bytes, *, own_id: bool, bound: int) -> None:
    """Put ``job`` on its queue, unless a job of its id is known.

    ``own_id``: the caller chose the id, so others may know it. ``bound``: the queue's, 0 for none.

    Raises:
        QueueFull: nothing was written.
        Unavailable: Redis cannot be reached.
    """
    add = scripts.ENQUEUE.on([keys.jobs(job.queue)], body, bound)
    if not own_id:  # nobody can know it yet: both in one round trip
        _, added = await link.run(_accept(keys, job, _unfinished_ms(job)), add)
        await _check_room(link, keys, job, added)
        return
    (accepted,) = await link.run(_accept(keys, job, UNCONFIRMED_MS))
    if accepted == b"known":
        return
    (added,) = await link.run(add)
    await _check_room(link, keys, job, added)
    await link.run(scripts.CONFIRM.on([keys.log(job.id), keys.record(job.id)], _unfinished_ms(job)))


def _accept(keys: Keys, job: Job, ttl_ms: int) -> Call:
    names = [keys.log(job.id), keys.record(job.id), keys.cancel(job.id), keys.events(job.id)]
    first = job.provider[0] if isinstance(job.provider, list) else job.provider
    frame = encode(Queued(str(QUEUED_ID), job.queue))
    return scripts.ACCEPT.on(names, frame, ttl_ms, job.queue, first or "", job.model or "", job.created_at)


def _unfinished_ms(job: Job) -> int:
    until_deadline = 0 if job.deadline is None else job.deadline - job.created_at
    return max(UNFINISHED_MS, until_deadline + RETENTION_MS)


async def _check_room(link: Link, keys: Keys, job: Job, added: list[bytes | int]) -> None:
    match added:
        case [b"full", int(length), int(oldest_age_ms)]:
            await link.run(scripts.WITHDRAW.on([keys.log(job.id), keys.record(job.id)]))
            # If the oldest job has been here for a, the queue has let about `length` others pass in that time.
            retry_after = min(max(oldest_age_ms / 1000 / length, _SHORTEST_RETRY), _LONGEST_RETRY)
            raise QueueFull(job.queue, length, retry_after)
