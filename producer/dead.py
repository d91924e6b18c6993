"""Dead letters, for operators: list them, find them, drop them. `revival` gives their jobs a new life."""

import heapq
import re
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self, TypedDict

from redis.asyncio import Redis
from redis.exceptions import RedisError

from producer.connection.refusals import is_busy
from producer.link import Link
from producer.status import instant, queues_of, server_ms
from producer.wire.dead import DeadLetter
from producer.wire.keys import Keys

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
    def numbers(self) -> tuple[int, int]:
        """The id as numbers, in the order in which letters were buried."""
        ms, _, number = self.id.partition("-")
        return int(ms), int(number)

    @property
    def job_id(self) -> str:
        """The job's id; empty if none could be read."""
        return self.letter.job_id


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
    return list(heapq.merge(*per_queue, key=lambda dead: dead.numbers))[:limit]


async def find_dead(link: Link, keys: Keys, queue: str | None, ids: Collection[str]) -> list[DeadJob]:
    """Return the dead letters of these ids, each a letter's or a job's; of all queues, or of one.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    queues = await _dead_queues(link, keys, queue)
    wanted = list(dict.fromkeys(ids))
    found = [dead for name in queues for dead in await _look_up(link, keys, name, wanted)]
    letters = {dead.id for dead in found}
    job_ids = set(wanted) - letters
    if job_ids:  # only a walk tells where a job's letter stands
        walk = DeadJobs(link, keys, queue, {})
        found += [dead async for dead in walk if dead.job_id in job_ids and dead.id not in letters]
    return found


async def drop_dead(link: Link, keys: Keys, dead: DeadJob) -> bool:
    """Delete the letter; false if it stands there no more.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    may_be_done = False

    async def delete(redis: Redis) -> bool:
        nonlocal may_be_done
        try:
            return bool(await redis.xdel(keys.dead(dead.queue), dead.id)) or may_be_done
        except RedisError as error:
            may_be_done = may_be_done or not is_busy(error)  # its reply was lost
            raise

    return await link.ask(delete)


# -- reading ---------------------------------------------------------------------------------------------------


async def _dead_queues(link: Link, keys: Keys, queue: str | None) -> list[str]:
    if queue is not None:
        return [queue]
    return sorted(await queues_of(link, keys.dead))


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
    buried_at = instant(int(id_.partition("-")[0])) or datetime.max.replace(
        tzinfo=UTC
    )  # an id that is no instant
    return DeadJob(id_, queue, buried_at, DeadLetter.from_fields(fields))


def _is_wanted(dead: DeadJob, wanted: DeadFilter) -> bool:
    provider, code = wanted.get("provider"), wanted.get("code")
    return provider in (None, dead.letter.provider) and code in (None, dead.letter.code)


def _ms(span: float | timedelta | None) -> int:
    seconds = span.total_seconds() if isinstance(span, timedelta) else span or 0
    return int(seconds * 1000)
