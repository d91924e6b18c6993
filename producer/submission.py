"""Enqueueing a job, in steps that a dying producer may leave anywhere.

A job's keys and its queue are in two slots, so no script can write both. The job is accepted first, then added
to its queue. Under an id that others may know, the acceptance is provisional until it is confirmed: a producer
that dies in between leaves nothing that a reader would wait for longer than a minute, and the next caller with
the same id finishes the work. An entry that this adds twice is recognised at the claim.
"""

import secrets

from producer import scripts
from producer.connection import Call
from producer.errors import QueueFull
from producer.link import Link
from producer.wire.events import QUEUED_ID, Queued, encode
from producer.wire.job import Job
from producer.wire.keys import Keys
from producer.wire.lifetimes import RETENTION_MS, UNCONFIRMED_MS, UNFINISHED_MS

_GONE = -1
_ON_ITS_WAY = 0
_SHORTEST_RETRY, _LONGEST_RETRY = 0.1, 30.0  # seconds


async def submit(link: Link, keys: Keys, job: Job, body: bytes, *, own_id: bool, bound: int) -> None:
    """Put ``job`` on its queue, unless a job of its id is known.

    ``own_id``: the caller chose the id, so others may know it. ``bound``: the queue's, 0 for none.

    Raises:
        QueueFull: nothing was written.
        Unavailable: Redis cannot be reached.
    """
    acceptance = secrets.token_hex(4)

    def add(*, again: bool) -> Call:
        return scripts.ENQUEUE.on([keys.jobs(job.queue)], body, bound, int(again))

    if not own_id:  # nobody can know it yet: both in one round trip
        accept = _accept(keys, job, acceptance, _unfinished_ms(job))
        accepted, added = await link.run_telling(lambda again: [accept, add(again=again)])
        if accepted == b"known":  # said again after a lost reply, and a worker has it already
            return
        await _check_room(link, keys, job, added, acceptance)
        return
    (accepted,) = await link.run(_accept(keys, job, acceptance, UNCONFIRMED_MS))
    if accepted == b"known":
        return
    (added,) = await link.run_telling(lambda again: [add(again=again)])
    await _check_room(link, keys, job, added, acceptance if accepted == b"accepted" else None)
    (confirmed,) = await link.run(
        scripts.CONFIRM.on([keys.log(job.id), keys.record(job.id)], _unfinished_ms(job))
    )
    if confirmed == _GONE:
        # Its minute was over, and the entry is in the queue: say again that there is a job, for another minute,
        # because it may as well have run already, and its retention be over.
        await link.run(_accept(keys, job, acceptance, UNCONFIRMED_MS))


def _accept(keys: Keys, job: Job, acceptance: str, ttl_ms: int) -> Call:
    names = [keys.log(job.id), keys.record(job.id), keys.cancel(job.id), keys.events(job.id)]
    provider = job.provider[0] if isinstance(job.provider, list) else job.provider
    frame = encode(Queued(str(QUEUED_ID), job.queue))
    what = (job.queue, provider or "", job.model or "", job.created_at)
    return scripts.ACCEPT.on(names, frame, ttl_ms, *what, acceptance)


def _unfinished_ms(job: Job) -> int:
    until_deadline = 0 if job.deadline is None else job.deadline - job.created_at
    return max(UNFINISHED_MS, until_deadline + RETENTION_MS)


async def _check_room(
    link: Link, keys: Keys, job: Job, added: list[bytes | int], acceptance: str | None
) -> None:
    """Take the acceptance back if it is ours and the queue is full: nothing of the job is left then."""
    match added:
        case [b"full", int(length), int(oldest_age_ms)]:
            if acceptance is not None:
                names = [keys.log(job.id), keys.record(job.id)]
                (withdrawn,) = await link.run(scripts.WITHDRAW.on(names, acceptance))
                if withdrawn == _ON_ITS_WAY:
                    return
            # If the oldest job has been here for a while, about `length` others have passed in that time.
            retry_after = min(max(oldest_age_ms / 1000 / length, _SHORTEST_RETRY), _LONGEST_RETRY)
            raise QueueFull(job.queue, length, retry_after)
