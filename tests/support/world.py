"""All that Redis holds of one queue and its jobs, read in one step, and what must be true of it at every moment."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import redis as sync_redis

from producer.wire.events import QUEUED_ID, Event, EventId, Queued, Waiting
from producer.wire.frames import decode_frame
from producer.wire.job import Job
from producer.wire.keys import GROUP, Keys
from producer.wire.lifetimes import UNCONFIRMED_MS
from tests.support.puppets import LEASE_MS, QUEUE

ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Hold:
    """Who holds an entry, how often it was handed over, and whether its lease is over."""

    consumer: str
    deliveries: int
    is_over: bool


@dataclass(frozen=True)
class JobState:
    """What stands under a job's keys."""

    log: tuple[tuple[str, bytes], ...]
    fence: str
    record: Mapping[str, Any]
    mark: bytes | None
    ttls: tuple[int, ...] = field(compare=False)

    @property
    def status(self) -> str | None:
        return self.record.get("status")

    @property
    def attempt(self) -> int:
        return int(self.record.get("attempt", 0))

    @property
    def number(self) -> int:
        return int(self.record.get("number", 0))

    @property
    def is_provisional(self) -> bool:
        """Whether its producer is still at it, or has died: nobody was told that it is accepted."""
        return self.status == "queued" and "confirmed" not in self.record

    def events(self) -> list[Event]:
        return [event for _, frame in self.log for event in decode_frame(frame).events]

    def has(self, event_id: str) -> bool:
        return any(entry_id == event_id for entry_id, _ in self.log)


@dataclass(frozen=True)
class World:
    """A queue and its jobs at one moment."""

    entries: Mapping[str, bytes]
    held: Mapping[str, Hold]
    last_delivered: EventId
    later: Mapping[bytes, float]
    dead: Sequence[tuple[str, str]]
    """The letters' ids, and their jobs'."""
    jobs: Mapping[str, JobState]
    now: int

    def holder_of(self, entry: str) -> str | None:
        return self.held[entry].consumer if entry in self.held else None

    def entries_of(self, job_id: str) -> list[str]:
        """Those that some worker can still come to."""
        return [
            entry
            for entry, body in self.entries.items()
            if Job.id_in(body) == job_id
            and (entry in self.held or EventId.parse(entry) > self.last_delivered)
        ]

    def can_be_found(self, job_id: str) -> bool:
        """Whether some worker comes to the job, sooner or later."""
        return bool(self.entries_of(job_id)) or any(Job.id_in(body) == job_id for body in self.later)

    def letters_of(self, job_id: str) -> int:
        return sum(owner == job_id for _, owner in self.dead)

    def differs_from(self, other: "World") -> set[str]:
        """Which parts are not the same: of the queue by their name, of a job as ``job.part``."""
        parts = {
            name
            for name in ("entries", "held", "later", "dead")
            if getattr(self, name) != getattr(other, name)
        }
        for job_id, state in self.jobs.items():
            for part in ("log", "fence", "record", "mark"):
                if getattr(state, part) != getattr(other.jobs[job_id], part):
                    parts.add(f"{job_id}.{part}")
        return parts


class Observer:
    """Reads the world."""

    def __init__(self, client: sync_redis.Redis, keys: Keys, job_ids: Collection[str]) -> None:
        self._redis = client
        self._keys = keys
        self._job_ids = job_ids

    def look(self) -> World:
        keys = self._keys
        jobs = keys.jobs(QUEUE)
        with self._redis.pipeline(transaction=True) as pipe:
            pipe.xrange(jobs)
            pipe.xpending_range(jobs, GROUP, "-", "+", 1000)
            pipe.xinfo_groups(jobs)
            pipe.zrange(keys.later(QUEUE), 0, -1, withscores=True)
            pipe.xrange(keys.dead(QUEUE))
            pipe.time()
            for job_id in self._job_ids:
                self._ask_for(pipe, job_id)
            entries, pending, groups, later, dead, time, *rest = pipe.execute(raise_on_error=False)
        states = [self._state(rest[start : start + 7]) for start in range(0, len(rest), 7)]
        return World(
            entries={entry.decode(): fields[b"job"] for entry, fields in entries},
            held={one["message_id"].decode(): _hold(one) for one in pending},
            last_delivered=EventId.parse(groups[0]["last-delivered-id"].decode()),
            later=dict(later),
            dead=[(entry.decode(), fields[b"id"].decode()) for entry, fields in dead],
            jobs=dict(zip(self._job_ids, states, strict=True)),
            now=time[0] * 1000 + time[1] // 1000,
        )

    def _ask_for(self, pipe: Any, job_id: str) -> None:
        keys = self._keys
        log, record, mark = keys.log(job_id), keys.record(job_id), keys.cancel(job_id)
        pipe.xrange(log)
        pipe.xinfo_stream(log)
        pipe.hgetall(record)
        pipe.get(mark)
        for key in (log, record, mark):
            pipe.pttl(key)

    def _state(self, replies: Sequence[Any]) -> JobState:
        log, info, record, mark, *ttls = replies
        return JobState(
            log=tuple((entry.decode(), fields[b"f"]) for entry, fields in log),
            fence=info["last-generated-id"].decode() if isinstance(info, dict) else "",
            record={name.decode(): value.decode(errors="replace") for name, value in record.items()},
            mark=mark,
            ttls=tuple(ttls),
        )


def _hold(pending: Any) -> Hold:
    is_over = pending["time_since_delivered"] >= LEASE_MS
    return Hold(pending["consumer"].decode(), pending["times_delivered"], is_over)


def check_world(world: World, letters_due: Mapping[str, int]) -> None:
    """Raise what is wrong at this moment. ``letters_due``: how many lives of each job ended in a dead letter."""
    assert world.held.keys() <= world.entries.keys(), "an entry is pending whose bytes are gone"
    for job_id, job in world.jobs.items():
        check_log(job)
        check_record(job)
        assert -1 not in job.ttls, f"a key of {job_id} has no TTL"
        letters, due = world.letters_of(job_id), letters_due.get(job_id, 0)
        assert letters <= due, f"{job_id} has {letters} dead letters, {due} are due"
        if letters < due:
            assert world.entries_of(job_id), f"a dead letter of {job_id} is lost"
        if job.status in ("running", "waiting") or (job.status == "queued" and not job.is_provisional):
            assert world.can_be_found(job_id), f"{job_id} is lost: {job.status}, and nobody will come to it"
        if job.is_provisional:
            assert max(job.ttls[:2]) <= UNCONFIRMED_MS, f"{job_id} is not confirmed, and lives long"


def check_log(job: JobState) -> None:
    """Raise what a reader of the log would stumble over."""
    events = job.events()
    if not events:
        assert job.status is None, "a record without a log"
        return
    assert isinstance(events[0], Queued)
    assert events[0].id == str(QUEUED_ID)
    for entry_id, frame in job.log:
        assert entry_id == str(decode_frame(frame).last), "a log entry is not named after its last event"
    for before, after in pairwise(map(EventId.parse, (event.id for event in events))):
        assert before < after, "ids do not rise"
        due = before.seq + 1 if after.attempt == before.attempt else 0
        assert after.seq == due, f"{after} stands where seq {due} is due"
    assert not any(event.terminal for event in events[:-1]), "something follows the terminal event"


def check_record(job: JobState) -> None:
    """Raise where the record tells another story than the log."""
    if job.status is None:
        return
    last = job.events()[-1]
    if last.terminal:
        assert job.status == last.type
    elif isinstance(last, Waiting) and EventId.parse(last.id).attempt == job.attempt:
        assert job.status == "waiting"
    else:
        assert job.status in ("queued", "running")
    assert EventId.parse(last.id).attempt <= job.attempt, "the log is ahead of the record"
