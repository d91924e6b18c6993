"""Looking without touching: one job's record, and the queues."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from producer import scripts
from producer.link import Link
from producer.wire.keys import GROUP, NOBODY, Keys, is_name

ENDED = frozenset({"done", "failed", "cancelled"})
"""The statuses that a job does not leave."""

_SCANNED_AT_ONCE = 1000  # keys
_NOT_TAKEN = frozenset({"queued", "waiting"})


@dataclass(frozen=True, slots=True)
class Status:
    """A job's record: ``queued``, ``running``, ``waiting``, ``done``, ``failed`` or ``cancelled``. Times are UTC.

    ``due``: no worker takes it before then; only while it is queued or waiting, and was given a time.
    """

    job_id: str
    status: str
    queue: str
    provider: str | None
    model: str | None
    worker: str | None
    attempts: int
    created_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    due: datetime | None = None

    @property
    def ended(self) -> bool:
        """Whether the job has had its terminal event."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue at this moment.

    ``length`` counts the jobs that wait to be claimed, for the first time or released, and ``in_flight`` those that
    workers hold; ``oldest_age`` is the seconds since the oldest of both was queued. ``workers`` counts those that are
    connected. ``delayed`` counts the jobs that are not due yet, ``dead`` the dead letters, ``dropped`` those that fell
    over the bound of them.
    """

    name: str
    length: int
    in_flight: int
    oldest_age: float | None
    workers: int
    delayed: int = 0
    dead: int = 0
    dropped: int = 0


def status_of(job_id: str, record: Mapping[bytes, bytes]) -> Status:
    """Return the status that a job's record holds."""

    def text(name: str) -> str | None:
        return record.get(name.encode(), b"").decode(errors="replace") or None

    status = text("status") or "unknown"
    return Status(
        job_id=job_id,
        status=status,
        queue=text("queue") or "",
        provider=text("provider"),
        model=text("model"),
        worker=text("worker"),
        attempts=number_in(record, "number"),
        created_at=instant(number_in(record, "created_at")),
        started_at=instant(number_in(record, "started_at")),
        finished_at=instant(number_in(record, "finished_at")),
        due=instant(number_in(record, "due")) if status in _NOT_TAKEN else None,
    )


def number_in(record: Mapping[bytes, bytes], name: str) -> int:
    """Return a number of the record; 0 where there is none, or no number."""
    value = record.get(name.encode(), b"")
    return int(value) if value.isdigit() and len(value) < 20 else 0


def next_attempt(record: Mapping[bytes, bytes], now_ms: int) -> int:
    """Return an attempt of one's own, by the rule that claims follow: the server's time, and above all before."""
    return max(now_ms, number_in(record, "attempt") + 1)


def instant(ms: int) -> datetime | None:
    """Return ms since 1970 as a datetime; None for 0, and for what a datetime does not reach."""
    try:
        return datetime.fromtimestamp(ms / 1000, UTC) if ms else None
    except (ValueError, OverflowError, OSError):
        return None  # written by something else


async def read_record(link: Link, keys: Keys, job_id: str) -> tuple[dict[bytes, bytes], int]:
    """Return the job's record, empty where there is none, and the server's time in ms.

    Raises:
        Unavailable: Redis cannot be reached.
    """

    async def ask(redis: Redis) -> tuple[dict[bytes, bytes], int]:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.hgetall(keys.record(job_id))
            pipe.time()
            record, (seconds, microseconds) = await pipe.execute()
        return record, seconds * 1000 + microseconds // 1000

    return await link.ask(ask)


async def server_ms(redis: Redis) -> int:
    """Return the server's time in ms."""
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


async def queues_of(link: Link, key_of: Callable[[str], str]) -> set[str]:
    """Return the queues that have the key which ``key_of(queue)`` names.

    All keys of the database are looked through, a page at a time, and each page has the time that a command has.

    Raises:
        Unavailable: Redis cannot be reached.
    """
    pattern = key_of("*")
    before, after = pattern.split("*")  # no name holds what a pattern gives a meaning
    cursor, names, is_asked_again = 0, set[str](), False

    async def page(redis: Redis) -> tuple[int, list[Any]]:
        nonlocal cursor, is_asked_again
        if is_asked_again:
            cursor = 0  # it may be another server by now, or another life of it, where a cursor means something else
        is_asked_again = True
        next_cursor, found = await redis.scan(cursor, match=pattern, count=_SCANNED_AT_ONCE)
        return int(next_cursor), found

    while True:
        is_asked_again = False
        cursor, keys = await link.ask(page)
        names.update(key.decode()[len(before) : -len(after)] for key in keys)
        if not cursor:
            return {name for name in names if is_name(name)}


async def read_queues(link: Link, keys: Keys) -> list[QueueInfo]:
    """Return every queue that has jobs, had some, or has dead letters, by name.

    Raises:
        Unavailable: Redis cannot be reached.
    """

    names = set[str]()
    for key_of in (keys.jobs, keys.later, keys.dead):
        names |= await queues_of(link, key_of)
    return [await _queue(link, keys, name) for name in sorted(names)]


async def _queue(link: Link, keys: Keys, name: str) -> QueueInfo:
    ((length, in_flight, oldest_ms),) = await link.run(scripts.COUNT.on([keys.jobs(name)], GROUP, NOBODY))

    async def ask(redis: Redis) -> list[Any]:
        async with redis.pipeline(transaction=False) as pipe:
            pipe.zcard(keys.later(name))
            pipe.xlen(keys.dead(name))
            pipe.hget(keys.counts(name), "dead_dropped")
            # Whoever serves a queue listens to its control channel; a connection that breaks is gone from the count.
            pipe.execute_command("PUBSUB", "NUMSUB", keys.control(name))
            pipe.time()
            return list(await pipe.execute())

    delayed, dead, dropped, listeners, now = await link.ask(ask)
    return QueueInfo(
        name=name,
        length=length,
        in_flight=in_flight,
        oldest_age=_age(oldest_ms, now),
        workers=int(listeners[-1][-1] if isinstance(listeners[-1], (list, tuple)) else listeners[-1]),
        delayed=delayed,
        dead=dead,
        dropped=number_in({b"dead_dropped": dropped or b""}, "dead_dropped"),
    )


def _age(queued_ms: bytes, now: tuple[int, int]) -> float | None:
    """Return the seconds since ``queued_ms``; None where it is empty."""
    return max(0.0, now[0] + now[1] / 1e6 - int(queued_ms) / 1000) if queued_ms else None
