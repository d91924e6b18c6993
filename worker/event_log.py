"""What attempts write: events become frames, frames go to the log and the channel, behind the fence."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass

from producer.connection import Call
from producer.wire.codec import WireError
from producer.wire.events import Event, EventId, encode
from producer.wire.keys import Keys
from worker import scripts
from worker.writer import Writer

MAX_MERGED_BYTES = 64 * 1024
"""A frame grows by merging up to this size; a single larger event is a frame of its own."""

MAX_WAITING_BYTES = 1024 * 1024
"""What one attempt may have waiting to be written before its provider is read no further."""

MAX_ALL_WAITING_BYTES = 64 * 1024 * 1024
"""What all attempts of a worker may have waiting together, before no provider is read any further."""


class LeaseLost(Exception):
    """Another attempt owns the job now, or its log is gone: stop, close the provider call, settle nothing."""


class Attempt:
    """One run of a job: hands out its event ids and holds what waits to be written.

    At most one frame of an attempt is on its way at a time, so that a failed write leaves no hole in ``seq``.
    """

    def __init__(self, job_id: str, id_: int, number: int) -> None:
        self.job_id = job_id
        self.id = id_
        self.number = number
        self.keeps = 0
        """Characters of earlier attempts' text that stand."""
        self.has_output = False
        """Whether readers have been given anything of this attempt's answer."""
        self.lost = False
        self.refusal: BaseException | None = None
        self.sealed = False
        self._claimed_at = time.monotonic()
        self._next_seq = 0
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._taken_seq = -1
        self._written = asyncio.Event()
        self._written.set()

    def now_ms(self) -> int:
        """Return the time by Redis' clock, which is what an attempt's id was when it was claimed."""
        return self.id + round((time.monotonic() - self._claimed_at) * 1000)

    def next_id(self) -> str:
        """Return the id of the event that comes next."""
        seq = self._next_seq
        self._next_seq += 1
        return f"{self.id}-{seq}"

    def take_back_id(self) -> None:
        """Give the last id to the next event instead: a hole in ``seq`` would look like a loss."""
        self._next_seq -= 1

    @property
    def waiting_bytes(self) -> int:
        """How much waits to be written, without the frame that is on its way."""
        return self._waiting_bytes

    @property
    def is_writing(self) -> bool:
        """Whether anything waits or is on its way."""
        return not self._written.is_set()

    def put(self, event: bytes) -> None:
        """Add an encoded event to what waits."""
        self._waiting.append(event)
        self._waiting_bytes += len(event)

    def take_frame(self) -> tuple[str, bytes] | None:
        """Take as many events as one frame may hold; return the last one's id and the frame."""
        if not self._waiting:
            self._written.set()
            return None
        self._written.clear()
        size, pieces = 0, list[bytes]()
        while self._waiting and (not pieces or size + len(self._waiting[0]) <= MAX_MERGED_BYTES):
            pieces.append(self._waiting.popleft())
            size += len(pieces[-1])
        self._waiting_bytes -= size
        self._taken_seq += len(pieces)
        return str(EventId(self.id, self._taken_seq)), b"".join(pieces)

    def seal(self) -> None:
        """Take no further events: the last one is on its way, whatever a provider that would not stop still says."""
        self.sealed = True

    def check(self) -> None:
        """Raise what keeps this attempt from writing, if anything does."""
        if self.refusal is not None:
            raise self.refusal
        if self.lost:
            raise LeaseLost(self.job_id)

    def lose(self) -> None:
        """Note that the job has another owner; what waits is dropped."""
        self.lost = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._written.set()

    async def written(self) -> None:
        """Wait until nothing waits and nothing is on its way."""
        await self._written.wait()


@dataclass(frozen=True, slots=True)
class End:
    """What `finish` writes: the last event and the job's new status; its keys live ``ttl_ms`` from then on.

    ``counts``: whether the attempt counts against the job's ``max_attempts``. ``due_ms``: when a waiting job goes
    on. ``errors``, ``dead``: packed, for the job's record; empty leaves what stands there.
    """

    event: Event
    status: str
    ttl_ms: int
    counts: bool = True
    due_ms: int | None = None
    errors: bytes = b""
    dead: bytes = b""


class EventLog:
    """Appends events to their job's log: `append` as they come, `flush` to be sure, `finish` at the end."""

    def __init__(self, writer: Writer, keys: Keys) -> None:
        self._writer = writer
        self._keys = keys
        self._unwritten_bytes = 0

    def is_full(self, attempt: Attempt) -> bool:
        """Whether so much waits to be written, of this attempt or of all, that no more should be read."""
        return attempt.waiting_bytes > MAX_WAITING_BYTES or self._unwritten_bytes > MAX_ALL_WAITING_BYTES

    def append(self, attempt: Attempt, event: Event) -> None:
        """Write ``event`` with the next round trip. While `is_full`, `flush` before going on.

        Raises:
            LeaseLost: the job has another owner.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
            WireError: no reader could read this event; its id goes to the next one.
        """
        attempt.check()
        if attempt.sealed:
            raise LeaseLost(attempt.job_id)
        try:
            data = encode(event)
        except WireError:
            attempt.take_back_id()
            raise
        attempt.put(data)
        self._unwritten_bytes += len(data)
        if not attempt.is_writing:
            self._write_next(attempt)

    async def flush(self, attempt: Attempt) -> None:
        """Wait until all that was appended is in the log.

        Raises:
            LeaseLost: the job has another owner.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
        """
        await attempt.written()
        attempt.check()

    async def finish(self, attempt: Attempt, end: End) -> str | None:
        """Write the attempt's last event, and what is known of the job from then on.

        Returns None, or the reason of a cancel that was promised to somebody meanwhile; then nothing was written,
        and the attempt has to finish as cancelled, with an event of the same id.

        Raises:
            LeaseLost: the job has another owner; nothing was written.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
            WireError: no reader could read this event; finish with another one of the same id.
        """
        frame = encode(end.event)
        attempt.seal()
        await self.flush(attempt)
        keys = self._keys
        names = [keys.log(attempt.job_id), keys.record(attempt.job_id)]
        names += [keys.cancel(attempt.job_id), keys.events(attempt.job_id)]
        what = (end.status, end.ttl_ms, 0 if end.counts else 1)
        due = "" if end.due_ms is None else end.due_ms
        call = scripts.FINISH.on(names, attempt.id, end.event.id, frame, *what, due, end.errors, end.dead)
        match await self._writer.submit(call):
            case b"written" | b"repeated":
                return None
            case [b"cancel", reason]:
                return str(reason.decode(errors="replace"))
        attempt.lose()
        raise LeaseLost(attempt.job_id)

    def _write_next(self, attempt: Attempt) -> None:
        taken = attempt.take_frame()
        if taken is not None:
            last_id, frame = taken
            written = self._writer.submit(self._append_call(attempt.job_id, last_id, frame))
            written.add_done_callback(lambda future: self._after_write(attempt, len(frame), future))

    def _after_write(self, attempt: Attempt, size: int, written: "asyncio.Future[bytes]") -> None:
        self._unwritten_bytes -= size
        refusal = None if written.cancelled() else written.exception()
        attempt.refusal = refusal
        if written.cancelled() or refusal or written.result() not in (b"written", b"repeated"):
            self._unwritten_bytes -= attempt.waiting_bytes
            attempt.lose()
        else:
            self._write_next(attempt)

    def _append_call(self, job_id: str, last_id: str, frame: bytes) -> Call:
        return scripts.APPEND.on([self._keys.log(job_id), self._keys.events(job_id)], last_id, frame)
