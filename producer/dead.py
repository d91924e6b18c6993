"""Dead letters, for operators: look at them, give their jobs a new life, drop them.

A retry, like an enqueue, is two steps in two slots: the new life is accepted, then the letter becomes an entry of
the queue. Whoever dies in between has lost nothing: the letter stands where it was, and retrying it again goes on.
"""

import heapq
import re
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, Self, TypedDict

from redis.asyncio import Redis

from producer import scripts
from producer.connection import Call
from producer.link import Link
from producer.status import instant, queues_of, server_ms
from producer.submission import (
    confirm,
    first_provider,
    new_acceptance,
    queued_frame,
    unfinished_ms,
    withdraw,
)
from producer.wire.codec import WireError, pack, unpack_map
from producer.wire.dead import DeadLetter
from producer.wire.job import MAX_JOB_BYTES, Job
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNCONFIRMED_MS, UNFINISHED_MS

PAGE = 32
"""Letters read in one round trip; each holds a job, which may be large."""

_STREAM_ID = re.compile(r"\d{1,19}-\d{1,19}")


class DeadFilter(TypedDict, total=False):
    """Which dead letters are meant; what is absent or None leaves none out."""

    provider: str | None
    """The one that was asked last."""
    code: str | None
    older_than: float | timedelta | None
    """Seconds or a timedelta since it was buried."""


@dataclass(frozen=True, slots=True)
class DeadJob:
    """A dead letter in its place: ``id`` is ``<ms>-<n>``, and names one letter of its queue."""

    id: str
    queue: str
    buried_at: datetime
    letter: DeadLetter

    @property
    def job_id(self) -> str:
        """The job's id; empty if none could be read."""
        return self.letter.job_id


class Retry(Enum):
    """What a retry of a dead letter came to."""

    RETRIED = "retried"
    """The job is in its queue again."""
    KNOWN = "known"
    """A life of the job is on its way, or one has ended since: the letter is left where it is."""
    GONE = "gone"
    """The letter stands there no more: somebody else has retried or dropped it."""


class DeadJobs:
    """Every dead letter that stands there now, queue by queue, a page at a time: ``async for dead in dead_jobs``.

    A step that was interrupted, or failed, may be taken again: nothing is left out.

    Raises, while iterating:
        Unavailable: Redis cannot be reached.
    """

    def __init__(self, link: Link, keys: Keys, queue: str | None, wanted: DeadFilter) -> None:
        self._link, self._keys, self._queue, self._wanted = link, keys, queue, wanted
        self._walks: deque[_Walk] | None = None
        self._ready: deque[DeadJob] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> DeadJob:
        if not self._ready:
            self._ready.extend(await self.read())
        if not self._ready:
            raise StopAsyncIteration
        return self._ready.popleft()

    async def read(self) -> list[DeadJob]:
        """Return what the next page holds that is wanted, which is never nothing before the end."""
        if self._walks is None:
            self._walks = deque(await _walks(self._link, self._keys, self._queue, self._wanted))
        while self._walks:
            if found := await self._walks[0].read():
                return found
            self._walks.popleft()
        return []


async def dead_jobs(
    link: Link, keys: Keys, queue: str | None, limit: int | None, wanted: DeadFilter
) -> list[DeadJob]:
    """Return the oldest dead letters, of one queue or of all, the oldest first.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    per_queue = []
    for walk in await _walks(link, keys, queue, wanted):
        found: list[DeadJob] = []
        while (limit is None or len(found) < limit) and (page := await walk.read()):
            found += page
        per_queue.append(found)
    return list(heapq.merge(*per_queue, key=lambda dead: _numbers(dead.id)))[:limit]


async def find_dead(link: Link, keys: Keys, queue: str | None, ids: Collection[str]) -> list[DeadJob]:
    """Return the dead letters of these ids, each a letter's or a job's; of all queues, or of one.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    queues = await _dead_queues(link, keys, queue)
    found = [dead for name in queues for dead in await _look_up(link, keys, name, ids)]
    job_ids = set(ids) - {dead.id for dead in found}
    if job_ids:  # only a walk tells where a job's letter stands
        found += [dead async for dead in DeadJobs(link, keys, queue, {}) if dead.job_id in job_ids]
    return found


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
    (entry,) = await link.run_telling(lambda again: [scripts.RETRY.on(names, dead.id, life.body, int(again))])
    if life.job_id is None:
        return Retry.RETRIED if entry else Retry.GONE
    if not entry:
        await withdraw(link, keys, life.job_id, acceptance)
        return Retry.GONE
    # Its keys may be gone, after a minute in which Redis was away: the claim begins them anew.
    await confirm(link, keys, life.job_id, life.ttl_ms)
    return Retry.RETRIED


async def drop_dead(link: Link, keys: Keys, dead: DeadJob) -> bool:
    """Delete the letter; false if it stands there no more.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    return bool(await link.ask(lambda redis: redis.xdel(keys.dead(dead.queue), dead.id)))


# -- reading ---------------------------------------------------------------------------------------------------


async def _dead_queues(link: Link, keys: Keys, queue: str | None) -> list[str]:
    if queue is not None:
        return [queue]
    return sorted(await link.ask(lambda redis: queues_of(redis, keys.dead)))


async def _walks(link: Link, keys: Keys, queue: str | None, wanted: DeadFilter) -> list["_Walk"]:
    return [_Walk(link, keys, name, wanted) for name in await _dead_queues(link, keys, queue)]


class _Walk:
    """Goes through the dead letters of one queue."""

    def __init__(self, link: Link, keys: Keys, queue: str, wanted: DeadFilter) -> None:
        self._link, self._keys, self._queue, self._wanted = link, keys, queue, wanted
        self._cursor = "0-0"
        self._end_ms: int | None = None
        self._over = False

    async def read(self) -> list[DeadJob]:
        """Return the wanted ones of the next page that has any; empty at the end."""
        if self._end_ms is None:
            # What is buried from now on is not looked at: a job that was retried may die again at once.
            self._end_ms = await self._link.ask(server_ms) - _ms(self._wanted.get("older_than"))
        found: list[DeadJob] = []
        while not found and not self._over:
            page = await _page(self._link, self._keys.dead(self._queue), self._cursor, self._end_ms)
            found = [dead for dead in self._told(page) if _is_wanted(dead, self._wanted)]
            self._over = len(page) < PAGE
            self._cursor = page[-1][0].decode() if page else self._cursor
        return found

    def _told(self, page: list[Any]) -> list[DeadJob]:
        return [_dead_job(self._queue, entry_id, fields) for entry_id, fields in page]


async def _page(link: Link, stream: str, cursor: str, end_ms: int) -> list[Any]:
    if end_ms < 0:
        return []

    async def ask(redis: Redis) -> list[Any]:
        return await redis.xrange(stream, min=f"({cursor}", max=str(end_ms), count=PAGE) or []

    return await link.ask(ask)


async def _look_up(link: Link, keys: Keys, queue: str, ids: Collection[str]) -> list[DeadJob]:
    shaped = [id_ for id_ in ids if _STREAM_ID.fullmatch(id_)]

    async def ask(redis: Redis) -> list[Any]:
        async with redis.pipeline(transaction=False) as pipe:
            for id_ in shaped:
                pipe.xrange(keys.dead(queue), min=id_, max=id_)
            pages: list[Any] = await pipe.execute()
        return pages

    pages = await link.ask(ask) if shaped else []
    return [_dead_job(queue, entry_id, fields) for page in pages for entry_id, fields in page]


def _dead_job(queue: str, entry_id: bytes, fields: dict[bytes, bytes]) -> DeadJob:
    id_ = entry_id.decode()
    buried_at = instant(_numbers(id_)[0]) or datetime.max.replace(tzinfo=UTC)  # an id that is no instant
    return DeadJob(id_, queue, buried_at, DeadLetter.from_fields(fields))


def _is_wanted(dead: DeadJob, wanted: DeadFilter) -> bool:
    provider, code = wanted.get("provider"), wanted.get("code")
    return provider in (None, dead.letter.provider) and code in (None, dead.letter.code)


def _ms(span: float | timedelta | None) -> int:
    seconds = span.total_seconds() if isinstance(span, timedelta) else span or 0
    return int(seconds * 1000)


def _numbers(stream_id: str) -> tuple[int, int]:
    ms, _, number = stream_id.partition("-")
    return int(ms), int(number)


# -- a new life ------------------------------------------------------------------------------------------------


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
    frame = queued_frame(dead.queue)
    what = (dead.queue, life.provider, life.model, life.created_at)
    return scripts.REVIVE.on(
        names, frame, UNCONFIRMED_MS, *what, acceptance, *_numbers(dead.id), life.deadline
    )
