"""Collects from Redis what the checker judges."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from producer.intake import DEFAULT_QUEUE
from producer.wire.codec import WireError
from producer.wire.dead import DeadLetter
from producer.wire.events import Event
from producer.wire.frames import decode_frame
from producer.wire.keys import FRAME_FIELD, GROUP, Keys
from worker.verify.facts import Leftovers
from worker.verify.fleet import PROVIDER

QUEUE = DEFAULT_QUEUE


@dataclass(frozen=True, slots=True)
class JobRead:
    """What Redis holds of a job; see `JobFacts`."""

    log: Sequence[Event] | None
    problem: str | None
    status: str | None


async def read_job(redis: Redis, keys: Keys, job_id: str) -> JobRead:
    """Return what Redis holds of the job."""
    status: Any = await redis.hget(keys.record(job_id), "status")
    log, problem = await _read_log(redis, keys, job_id)
    return JobRead(log, problem, status.decode() if status else None)


async def _read_log(redis: Redis, keys: Keys, job_id: str) -> tuple[Sequence[Event] | None, str | None]:
    entries: Any = await redis.xrange(keys.log(job_id))
    if not entries:
        return None, None
    events: list[Event] = []
    for entry_id, fields in entries:
        try:
            frame = decode_frame(fields[FRAME_FIELD.encode()])
        except (WireError, KeyError) as error:
            return None, f"entry {entry_id.decode()}: {error!r}"
        if str(frame.last) != entry_id.decode():
            return None, f"entry {entry_id.decode()} holds a frame that ends with {frame.last}"
        events += frame.events
    return events, None


async def read_leftovers(
    redis: Redis, keys: Keys, *, jobs: Collection[str], expected_dead: frozenset[str]
) -> Leftovers:
    """Return what is left in Redis; of the dead, those among ``jobs``."""
    stream = keys.jobs(QUEUE)
    try:
        pending = (await redis.xpending(stream, GROUP))["pending"]
        consumers = [one["name"].decode() for one in await redis.xinfo_consumers(stream, GROUP)]
    except ResponseError:  # no stream, or no group: nothing is held
        pending, consumers = 0, []
    buried: Any = await redis.xrange(keys.dead(QUEUE))
    slots: Any = await redis.zrange(keys.slots(PROVIDER), 0, -1)
    letters = [DeadLetter.from_fields(fields) for _, fields in buried]
    return Leftovers(
        waiting=await redis.xlen(stream),
        pending=pending,
        later=await redis.zcard(keys.later(QUEUE)),
        consumers=consumers,
        slots=[slot.decode() for slot in slots],
        keys_without_ttl=await _keys_without_ttl(redis, keys),
        dead=frozenset(letter.job_id for letter in letters) & frozenset(jobs),
        expected_dead=expected_dead,
    )


async def holder_of(redis: Redis, keys: Keys, job_id: str) -> str:
    """Tell, for a job that hangs, who holds its entry, and for how long it was not renewed."""
    entry: Any = await redis.hget(keys.record(job_id), "entry")
    if not entry:
        return "it has no entry"
    held: Any = await redis.xpending_range(keys.jobs(QUEUE), GROUP, min=entry, max=entry, count=1)
    if not held:
        return f"nobody holds its entry {entry.decode()}"
    who, idle_ms, times = (held[0][name] for name in ("consumer", "time_since_delivered", "times_delivered"))
    return f"{who.decode()} holds its entry, renewed {idle_ms / 1000:.1f} s ago, delivered {times} times"


async def longest_idle(redis: Redis, keys: Keys) -> float:
    """Return for how many seconds no entry that is held was renewed: the least of all; 0 if none is held."""
    held: Any = await redis.xpending_range(keys.jobs(QUEUE), GROUP, min="-", max="+", count=1000)
    return min((entry["time_since_delivered"] for entry in held), default=0) / 1000


async def _keys_without_ttl(redis: Redis, keys: Keys) -> Sequence[str]:
    own = {keys.jobs(QUEUE), keys.dead(QUEUE), keys.later(QUEUE), keys.counts(QUEUE)}
    found = [key async for key in redis.scan_iter(match=f"{keys.prefix}:*", count=1000)]
    async with redis.pipeline(transaction=False) as pipe:
        for key in found:
            pipe.pttl(key)
        ttls = await pipe.execute() if found else []
    return [
        key.decode() for key, ttl in zip(found, ttls, strict=True) if ttl == -1 and key.decode() not in own
    ]
