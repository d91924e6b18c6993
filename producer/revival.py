"""A new life for the job of a dead letter, under the same id.

Like an enqueue, it is two steps in two slots: the new life is accepted, then the letter becomes an entry of the
queue. Whoever dies in between has lost nothing: the letter stands where it was, and retrying it again goes on.
"""

from dataclasses import dataclass
from enum import Enum

from producer import scripts
from producer.connection import Call
from producer.dead import DeadJob
from producer.link import Link
from producer.status import server_ms
from producer.submission import confirm, first_provider, new_acceptance, unfinished_ms, withdraw
from producer.wire.codec import WireError, pack, unpack_map
from producer.wire.frames import encode_queued
from producer.wire.job import MAX_JOB_BYTES, Job
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNCONFIRMED_MS, UNFINISHED_MS


class Retry(Enum):
    """What a retry of a dead letter came to."""

    RETRIED = "retried"
    """The job is in its queue again."""
    KNOWN = "known"
    """A life of the job is on its way, or one has ended since: the letter is left where it is."""
    GONE = "gone"
    """The letter stands there no more: somebody else has retried or dropped it."""


async def retry_dead(link: Link, keys: Keys, dead: DeadJob) -> Retry:
    """Begin a new life of the job under the same id, as if it were enqueued now.

    A deadline that has passed is dropped. Bytes that are no job go back as they are.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    life = _new_life(dead, await link.ask(server_ms))
    acceptance = new_acceptance()
    if life.job_id is not None:
        (accepted,) = await link.run(_revive(keys, life, dead, acceptance))
        if accepted == b"known":
            return Retry.KNOWN
    names = [keys.dead(dead.queue), keys.jobs(dead.queue)]
    is_said_again = False

    def move(*, again: bool) -> Call:
        nonlocal is_said_again
        is_said_again = again
        return scripts.RETRY.on(names, dead.id, life.body, int(again))

    (entry,) = await link.run_telling(lambda again: [move(again=again)])
    if life.job_id is None:
        return Retry.RETRIED if entry else Retry.GONE
    if not entry:
        if not is_said_again:  # otherwise it may be in the queue, further back than was looked
            await withdraw(link, keys, life.job_id, acceptance)
        return Retry.GONE
    # Its keys may be gone, after a minute in which Redis was away: the claim begins them anew.
    await confirm(link, keys, life.job_id, life.ttl_ms)
    return Retry.RETRIED


@dataclass(frozen=True, slots=True)
class _Life:
    """What the new life's record says, and the bytes that go to the queue."""

    job_id: str | None
    body: bytes
    created_at: int
    ttl_ms: int = UNFINISHED_MS
    provider: str = ""
    model: str = ""
    deadline: int | str = ""


def _new_life(dead: DeadJob, now_ms: int) -> _Life:
    data = dead.letter.job
    try:
        body = unpack_map(data, max_bytes=MAX_JOB_BYTES)  # with the keys that this release does not know
        deadline = body.get("deadline")
        if isinstance(deadline, int) and deadline <= now_ms:
            del body["deadline"]
        renewed = pack(body | {"created_at": now_ms})
        job = Job.decode(renewed)
    except WireError:
        return _Life(Job.id_in(data), data, now_ms)
    return _Life(
        job_id=job.id,
        body=renewed,
        created_at=now_ms,
        ttl_ms=unfinished_ms(job),
        provider=first_provider(job),
        model=job.model or "",
        deadline="" if job.deadline is None else job.deadline,
    )


def _revive(keys: Keys, life: _Life, dead: DeadJob, acceptance: str) -> Call:
    assert life.job_id is not None, "without an id there is no record"
    names = [
        keys.log(life.job_id),
        keys.record(life.job_id),
        keys.cancel(life.job_id),
        keys.events(life.job_id),
    ]
    frame = encode_queued(dead.queue)
    what = (dead.queue, life.provider, life.model, life.created_at)
    return scripts.REVIVE.on(names, frame, UNCONFIRMED_MS, *what, acceptance, *dead.numbers, life.deadline)
