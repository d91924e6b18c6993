"""Enqueueing a job, in steps that a dying producer may leave anywhere.

A job's keys and its queue are in two slots, so no script can write both. The job is accepted first, then added
to its queue. Under an id that others may know, the acceptance is provisional until it is confirmed: a producer
that dies in between leaves nothing that a reader would wait for longer than a minute, and the next caller with
the same id finishes the work. An entry that this adds twice is recognised at the claim.

Callers with the same id that meet between the two steps each leave a token; where the queue has no room for any
of them, the last one to be refused takes the job back.
"""

import secrets
from contextlib import suppress
from typing import Any

from producer import scripts
from producer.connection import Call
from producer.errors import QueueFull, Unavailable
from producer.intake import NewJob
from producer.link import Link
from producer.wire.codec import pack
from producer.wire.frames import encode_queued
from producer.wire.job import Job
from producer.wire.keys import Keys
from producer.wire.lifetimes import RETENTION_MS, UNCONFIRMED_MS, UNFINISHED_MS

_GONE = -1
_ON_ITS_WAY = 0
_SHORTEST_RETRY, _LONGEST_RETRY = 0.1, 30.0  # seconds
_DUE_FIRST = pack({"type": "later"})
"""Tells the workers that a job is due before all that they know of."""


async def submit(link: Link, keys: Keys, new: NewJob, *, bound: int) -> None:
    """Put the job on its queue, or among those that are not due yet, unless a job of its id is known.

    ``bound``: the queue's, 0 for none.

    Raises:
        QueueFull: nothing was written.
        Unavailable: Redis cannot be reached.
    """
    # Nobody else can accept a job under an id that nobody else knows.
    acceptance = new_acceptance() if new.own_id else new.job.id
    ttl_ms = unfinished_ms(new.job) + new.until_due_ms

    def add(*, again: bool) -> Call:
        return _add(keys, new, bound, again=again)

    if not new.own_id:  # nobody can know it yet: both in one round trip
        accept = _accept(keys, new, acceptance, ttl_ms)
        try:
            accepted, added = await link.run_telling(lambda again: [accept, add(again=again)])
        except Unavailable as error:
            await _undo(link, keys, new.job, acceptance, error)
            raise
        if accepted != b"known":  # otherwise said again after a lost reply, and a worker has it already
            await _check_room(link, keys, new.job, added, acceptance)
        return
    (accepted,) = await link.run(_accept(keys, new, acceptance, UNCONFIRMED_MS))
    if accepted == b"known":
        return
    try:
        (added,) = await link.run_telling(lambda again: [add(again=again)])
    except Unavailable as error:
        await _undo(link, keys, new.job, acceptance, error)
        raise
    await _check_room(link, keys, new.job, added, acceptance)
    if await confirm(link, keys, new.job.id, ttl_ms) == _GONE:
        # Its minute was over, and the entry is in the queue: say again that there is a job, for another minute,
        # because it may as well have run already, and its retention be over. Without a fence, which whoever runs it
        # by now would stand before.
        await link.run(_accept(keys, new, acceptance, UNCONFIRMED_MS, is_new_life=False))


def new_acceptance() -> str:
    """Return a token by which a caller knows its own acceptance of a job."""
    return secrets.token_hex(4)


def unfinished_ms(job: Job) -> int:
    """Return how long the keys of a job live that is due at once and has not ended."""
    until_deadline = 0 if job.deadline is None else job.deadline - job.created_at
    return max(UNFINISHED_MS, until_deadline + RETENTION_MS)


async def confirm(link: Link, keys: Keys, job_id: str, ttl_ms: int) -> Any:
    """Say that an accepted job is in its queue; return what the script does.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    (confirmed,) = await link.run(scripts.CONFIRM.on([keys.log(job_id), keys.record(job_id)], ttl_ms))
    return confirmed


async def withdraw(link: Link, keys: Keys, job_id: str, acceptance: str) -> Any:
    """Take back one acceptance of a job that is not in its queue; return what the script does.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    (withdrawn,) = await link.run(scripts.WITHDRAW.on([keys.log(job_id), keys.record(job_id)], acceptance))
    return withdrawn


def _accept(keys: Keys, new: NewJob, acceptance: str, ttl_ms: int, *, is_new_life: bool = True) -> Call:
    job = new.job
    names = [keys.log(job.id), keys.record(job.id), keys.cancel(job.id), keys.events(job.id)]
    deadline = "" if job.deadline is None else job.deadline
    what = (job.queue, first_provider(job), job.model or "", job.created_at)
    when = (new.delay_ms, new.at_ms, deadline)
    with_fence = int(new.own_id and is_new_life)
    return scripts.ACCEPT.on(names, encode_queued(job.queue), ttl_ms, *what, acceptance, *when, with_fence)


def first_provider(job: Job) -> str:
    """Return the provider that a job's record names before any is asked; '' for none."""
    return (job.provider[0] if isinstance(job.provider, list) else job.provider) or ""


def _add(keys: Keys, new: NewJob, bound: int, *, again: bool) -> Call:
    queue = new.job.queue
    names = [keys.jobs(queue), keys.later(queue), keys.control(queue)]
    return scripts.ENQUEUE.on(names, new.body, bound, int(again), new.delay_ms, new.at_ms, _DUE_FIRST)


async def _undo(link: Link, keys: Keys, job: Job, acceptance: str, error: Unavailable) -> None:
    """Take the acceptance back if Redis refused to queue the job.

    One that is full does: the acceptance begins with a deletion, and what has deleted may write.
    """
    if not error.passing:
        with suppress(Unavailable):
            await withdraw(link, keys, job.id, acceptance)


async def _check_room(link: Link, keys: Keys, job: Job, added: list[bytes | int], acceptance: str) -> None:
    """Take the acceptance back if the queue is full, unless another caller has got the job into it."""
    match added:
        case [b"full", int(length), int(room_in_ms)]:
            if await withdraw(link, keys, job.id, acceptance) == _ON_ITS_WAY:
                return
            retry_after = min(max(room_in_ms / 1000, _SHORTEST_RETRY), _LONGEST_RETRY)
            raise QueueFull(job.queue, length, retry_after)
