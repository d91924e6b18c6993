"""Looking without touching: one job's record, and the queues."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from redis.asyncio import Redis

from producer.link import Link
from producer.wire.keys import GROUP, Keys

ENDED = frozenset({"done", "failed", "cancelled"})
"""The statuses that a job does not leave."""

_ABSENT_AFTER_MS = 10_000


@dataclass(frozen=True, slots=True)
class Status:
    """A job's record: ``queued``, ``running``, ``waiting``, ``done``, ``failed`` or ``cancelled``. Times are UTC."""

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

    @property
    def ended(self) -> bool:
        """Whether the job has had its terminal event."""
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class QueueInfo:
    """One queue at this moment.

    ``length`` counts what waits and ``in_flight`` what workers hold; ``oldest_age`` is the seconds since the oldest
    of both was queued.
    """

    name: str
    length: int
    in_flight: int
    oldest_age: float | None
    workers: int


def status_of(job_id: str, record: Mapping[bytes, bytes]) -> Status:
    """Return the status that a job's record holds."""

    def text(name: str) -> str | None:
        return record.get(name.encode(), b"").decode(errors="replace") or None

    return Status(
        job_id=job_id,
        status=text("status") or "unknown",
        queue=text("queue") or "",
        provider=text("provider"),
        model=text("model"),
        worker=text("worker"),
        attempts=int(text("number") or 0),
        created_at=_instant(text("created_at")),
        started_at=_instant(text("started_at")),
        finished_at=_instant(text("finished_at")),
    )


def _instant(ms: str | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(int(ms) / 1000, UTC)


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


async def read_queues(redis: Redis, keys: Keys) -> list[QueueInfo]:
    """Return every queue that has a jobs stream, by name."""
    names = {
        keys.queue_of(key.decode()) async for key in redis.scan_iter(match=keys.jobs_pattern(), count=1000)
    }
    return [await _queue(redis, keys.jobs(name), name) for name in sorted(names)]


async def _queue(redis: Redis, stream: str, name: str) -> QueueInfo:
    async with redis.pipeline(transaction=False) as pipe:
        pipe.xlen(stream)
        pipe.xrange(stream, count=1)
        pipe.time()
        pipe.xinfo_groups(stream)
        length, oldest, now, groups = await pipe.execute()
    group = next((group for group in groups if group["name"] == GROUP.encode()), None)
    consumers = [] if group is None else await redis.xinfo_consumers(stream, GROUP)
    return QueueInfo(
        name=name,
        length=length,
        in_flight=0 if group is None else group["pending"],
        oldest_age=_age(oldest, now),
        workers=sum(_is_there(consumer) for consumer in consumers),
    )


def _is_there(consumer: Mapping[str, Any]) -> bool:
    """A worker reads every second while it has room, and holds entries while it has none."""
    return bool(consumer["pending"] > 0 or consumer["idle"] < _ABSENT_AFTER_MS)


def _age(oldest: Sequence[tuple[bytes, Any]], now: tuple[int, int]) -> float | None:
    if not oldest:
        return None
    queued_ms = int(oldest[0][0].partition(b"-")[0])
    return max(0.0, now[0] + now[1] / 1e6 - queued_ms / 1000)
