"""What attempts write: events become frames, frames go to the log and the channel, behind the fence."""

import asyncio
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

from producer.connection import Call
from producer.wire.codec import WireError
from producer.wire.events import Event, encode, encode_chunk
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

    __slots__ = (
        "_claimed_at",
        "_next_seq",
        "_rest",
        "_settled",
        "_taken_seq",
        "_waiting",
        "bytes_on_their_way",
        "has_output",
        "id",
        "is_announced",
        "job_id",
        "keeps",
        "lost",
        "number",
        "refusal",
        "sealed",
        "waiting_bytes",
    )

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
        """Whether the last event is on its way: whatever a provider that would not stop still says comes too late."""
        self.waiting_bytes = 0
        """How much waits to be written, without the frame that is on its way."""
        self.is_announced = False
        """Whether the writer will ask for a frame when it puts the next pipeline together."""
        self.bytes_on_their_way = 0
        """The size of the frame that was sent, and has not been answered yet."""
        self._claimed_at = time.monotonic()
        self._next_seq = 0
        self._waiting: deque[bytes] = deque()
        self._taken_seq = -1
        self._rest = b""
        self._settled: asyncio.Event | None = None

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

    def put(self, event: bytes) -> None:
        """Add an encoded event to what waits."""
        self._waiting.append(event)
        self.waiting_bytes += len(event)

    def take_frame(self) -> tuple[str, bytes] | None:
        """Take as many events as one frame may hold; return the last one's id and the frame, None if none waits."""
        if not self._waiting:
            return None
        if self.waiting_bytes <= MAX_MERGED_BYTES:
            count, frame = len(self._waiting), b"".join(self._waiting)
            self._waiting.clear()
        else:
            count, frame = self._take_some()
        self.waiting_bytes -= len(frame)
        self._taken_seq += count
        return f"{self.id}-{self._taken_seq}", frame

    def _take_some(self) -> tuple[int, bytes]:
        size, pieces = 0, list[bytes]()
        while self._waiting and (not pieces or size + len(self._waiting[0]) <= MAX_MERGED_BYTES):
            pieces.append(self._waiting.popleft())
            size += len(pieces[-1])
        return len(pieces), b"".join(pieces)

    def take_rest(self) -> bytes:
        """Return all that is still unwritten, for the attempt's last frame; again, where that was not written."""
        self._rest += b"".join(self._waiting)
        self._waiting.clear()
        self.waiting_bytes = 0
        return self._rest

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
        self.waiting_bytes = 0
        self.settle()

    def settle(self) -> None:
        """Wake whoever waits for a change in what is written."""
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    async def settled(self) -> None:
        """Wait until the frame that waits, or is on its way, has been answered."""
        self._settled = self._settled or asyncio.Event()
        await self._settled.wait()


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
        """Write ``event`` with the next pipeline. While `is_full`, `flush` before going on.

        Raises:
            LeaseLost: the job has another owner.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
            WireError: no reader could read this event; its id goes to the next one.
        """
        _check_open(attempt)
        try:
            data = encode(event)
        except WireError:
            attempt.take_back_id()
            raise
        self._put(attempt, data)

    def append_chunk(self, attempt: Attempt, text: str) -> None:
        """Write a chunk of the answer's text, as `append` does an event that has the attempt's next id."""
        _check_open(attempt)
        try:
            data = encode_chunk(attempt.next_id(), text)
        except WireError:
            attempt.take_back_id()
            raise
        self._put(attempt, data)

    async def flush(self, attempt: Attempt) -> None:
        """Wait until all that was appended is in the log.

        Raises:
            LeaseLost: the job has another owner.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
        """
        while (attempt.waiting_bytes or attempt.bytes_on_their_way) and not attempt.lost:
            await attempt.settled()
        attempt.check()

    async def finish(self, attempt: Attempt, end: End) -> str | None:
        """Write the attempt's last event with all that still waits, and what is known of the job from then on.

        Returns None, or the reason of a cancel that was promised to somebody meanwhile; then nothing was written,
        and the attempt has to finish as cancelled, with an event of the same id.

        Raises:
            LeaseLost: the job has another owner; nothing was written.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
            WireError: no reader could read this event; finish with another one of the same id.
        """
        last = encode(end.event)
        attempt.sealed = True
        while not attempt.lost and (attempt.bytes_on_their_way or attempt.waiting_bytes > MAX_MERGED_BYTES):
            await attempt.settled()
        attempt.check()
        self._unwritten_bytes -= attempt.waiting_bytes
        frame = attempt.take_rest() + last
        attempt.settle()
        match await self._writer.submit(self._finish_call(attempt, end, frame)):
            case b"written" | b"repeated":
                return None
            case [b"cancel", reason]:
                return str(reason.decode(errors="replace"))
        attempt.lose()
        raise LeaseLost(attempt.job_id)

    def _finish_call(self, attempt: Attempt, end: End, frame: bytes) -> Call:
        keys, job_id = self._keys, attempt.job_id
        names = [keys.log(job_id), keys.record(job_id), keys.cancel(job_id), keys.events(job_id)]
        what = (end.status, end.ttl_ms, 0 if end.counts else 1)
        due = "" if end.due_ms is None else end.due_ms
        return scripts.FINISH.on(names, attempt.id, end.event.id, frame, *what, due, end.errors, end.dead)

    # -- frames --------------------------------------------------------------------------------------------

    def _put(self, attempt: Attempt, data: bytes) -> None:
        attempt.put(data)
        self._unwritten_bytes += len(data)
        if not attempt.is_announced and not attempt.bytes_on_their_way:
            self._announce(attempt)

    def _announce(self, attempt: Attempt) -> None:
        # A frame is made when it is sent: until then it grows.
        attempt.is_announced = True
        self._writer.submit_late(partial(self._next_call, attempt), partial(self._after_write, attempt))

    def _next_call(self, attempt: Attempt) -> Call | None:
        attempt.is_announced = False
        taken = attempt.take_frame()
        if taken is None:  # it went with the attempt's last event, or was dropped
            return None
        last_id, frame = taken
        attempt.bytes_on_their_way = len(frame)
        keys, job_id = self._keys, attempt.job_id
        return scripts.APPEND.on([keys.log(job_id), keys.events(job_id)], last_id, frame)

    def _after_write(self, attempt: Attempt, result: Any) -> None:
        self._unwritten_bytes -= attempt.bytes_on_their_way
        attempt.bytes_on_their_way = 0
        if result not in (b"written", b"repeated"):
            attempt.refusal = result if isinstance(result, Exception) else None
            self._unwritten_bytes -= attempt.waiting_bytes
            attempt.lose()
        elif (attempt.waiting_bytes and not attempt.sealed) or attempt.waiting_bytes > MAX_MERGED_BYTES:
            self._announce(attempt)
        attempt.settle()


def _check_open(attempt: Attempt) -> None:
    attempt.check()
    if attempt.sealed:
        raise LeaseLost(attempt.job_id)
