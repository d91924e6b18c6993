"""Readers that keep what they got, and a watch over how far the jobs are."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from producer import ChatRelayError, Chunk, Event, Producer, Started
from worker.verify.facts import Transcript

_LEAVES_AFTER = 7  # events
_SLOW_REST = 0.05  # seconds after each event


class Way(Enum):
    """How a reader reads."""

    EARLY = "early"
    REJOINING = "rejoining"
    """Leaves again and again, and comes back with its cursor."""
    SLOW = "slow"
    LATE = "late"
    """Comes once the job has ended."""


class Stalled(Exception):
    """Something that had to happen did not, within the time that it had."""


@dataclass(slots=True)
class Progress:
    """How far one job is. Times are seconds, monotonic, as a reader gets the events."""

    worker: str | None = None
    chunks: int = 0
    ended: str | None = None
    times: list[tuple[float, str]] = field(default_factory=list)

    @property
    def has_waited(self) -> bool:
        """Whether an attempt of it ended that was not the last one."""
        return any(type_ == "waiting" for _, type_ in self.times)

    def next_after(self, at: float, types: frozenset[str]) -> float | None:
        """Return how long after ``at`` the first event of one of ``types`` came; of any type, if none is named."""
        later = (when - at for when, type_ in self.times if when > at and (not types or type_ in types))
        return next(later, None)

    def restarted_after(self, at: float) -> float | None:
        """Return how long after the failure of a call ``at`` this moment the next attempt started."""
        waited = self.next_after(at, frozenset({"waiting"}))
        if waited is None:
            return None
        started = self.next_after(at + waited, frozenset({"started"}))
        return None if started is None else waited + started


class Watch:
    """What the early readers of all jobs see, as it happens."""

    def __init__(self) -> None:
        self.jobs: dict[str, Progress] = {}
        self._changed = asyncio.Event()

    def expect(self, job_id: str) -> None:
        """Say that there will be a job of this id."""
        self.jobs[job_id] = Progress()

    def forget(self, job_id: str) -> Progress:
        """Stop watching a job, and return how far it came."""
        return self.jobs.pop(job_id)

    def note(self, job_id: str, event: Event) -> None:
        """Take in one event."""
        job = self.jobs[job_id]
        job.times.append((time.monotonic(), event.type))
        if isinstance(event, Started):
            job.worker, job.chunks = event.worker, 0
        elif isinstance(event, Chunk):
            job.chunks += 1
        else:
            job.worker = None  # nobody runs it between two attempts
        if event.terminal:
            job.ended = event.type
        self._changed.set()

    def run_by(self, worker: str) -> list[str]:
        """Return the jobs that this worker runs, as far as is known."""
        return [job_id for job_id, job in self.jobs.items() if job.worker == worker and not job.ended]

    def started(self) -> list[str]:
        """Return the jobs that have started at all."""
        return [job_id for job_id, job in self.jobs.items() if len(job.times) > 1]

    def running(self) -> list[str]:
        """Return the jobs that have text and no end."""
        return [job_id for job_id, job in self.jobs.items() if job.worker and job.chunks and not job.ended]

    async def until(self, what: str, fact: Callable[[], bool], timeout: float) -> None:
        """Wait until ``fact()``, which is looked at whenever an event came.

        Raises:
            Stalled: it did not come about within ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout):
                while not fact():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise Stalled(f"for {timeout:g} s in vain: {what}") from None


async def read(
    producer: Producer, job_id: str, way: Way, note: Callable[[str, Event], None] | None = None
) -> Transcript:
    """Read a job to its end in this way and return what came; an error is a part of that."""
    events: list[Event] = []
    error: str | None = None
    try:
        while not (events and events[-1].terminal):
            read_before = len(events)
            after = events[-1].id if events else None
            async with producer.subscribe(job_id, after) as subscription:
                async for event in subscription:
                    events.append(event)
                    if note is not None:
                        note(job_id, event)
                    if way is Way.SLOW:
                        await asyncio.sleep(_SLOW_REST)
                    if way is Way.REJOINING and len(events) - read_before >= _LEAVES_AFTER:
                        break
    except ChatRelayError as caught:
        error = f"{type(caught).__name__}: {caught}"
    return Transcript(way.value, events, None, error)
