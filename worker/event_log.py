"""What attempts write: events become frames, frames go to the log and the channel, behind the fence."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from producer.connection import Call
from producer.connection.script import Prepared
from producer.wire.codec import WireError
from producer.wire.events import Event
from producer.wire.frames import encode, encode_started
from producer.wire.keys import Keys
from worker import scripts
from worker.attempt import MAX_MERGED_BYTES, Attempt, LeaseLost
from worker.pending import Asked, Pending, Sender

MAX_WAITING_BYTES = 1024 * 1024
"""What one attempt may have waiting to be written before its provider is read no further."""

MAX_ALL_WAITING_BYTES = 64 * 1024 * 1024
"""What all attempts of a worker may have waiting together, before no provider is read any further."""

PATIENCE = 0.002
"""Seconds for which a beginning waits at most: longer than a service on the same machine takes to answer, and shorter
than anybody notices. What comes just after it went out alone has to wait until it is in the log."""


class End(NamedTuple):
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
    """Appends events to their job's log: `append` as they come, `flush` to be sure, `finish` at the end.

    ``patience``: seconds for which the beginning of an answer waits, at most, for what it could go with.
    """

    def __init__(self, writer: Sender, keys: Keys, patience: float = PATIENCE) -> None:
        self._writer = writer
        self._keys = keys
        self._patience = patience
        self._unwritten_bytes = 0
        self._begun: list[Attempt] = []

    def is_full(self, attempt: Attempt) -> bool:
        """Whether so much waits to be written, of this attempt or of all, that no more should be read."""
        return attempt.waiting_bytes > MAX_WAITING_BYTES or self._unwritten_bytes > MAX_ALL_WAITING_BYTES

    def begin(self, attempt: Attempt, provider: str, worker: str, model: str | None) -> None:
        """Write that the attempt has begun; it raises what `append` does.

        That may wait for a moment: what comes next takes it along, be it the last event, and need not wait until it is
        in the log.
        """
        who = (attempt.number, provider, worker, model)
        self._put(attempt, lambda: encode_started(attempt.next_id(), *who, attempt.keeps))
        if self._patience:
            self._announce_later(attempt)
        else:
            self._announce(attempt)

    def append(self, attempt: Attempt, event: Event) -> None:
        """Write ``event`` with the next pipeline. While `is_full`, `flush` before going on.

        Raises:
            LeaseLost: the job has another owner.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
            WireError: no reader could read this event; its id goes to the next one.
        """
        self._put(attempt, lambda: encode(event))
        self._announce(attempt)

    def append_chunk(self, attempt: Attempt, text: str) -> None:
        """Write a chunk of the answer's text, as `append` does an event that has the attempt's next id."""
        if attempt.lost or attempt.sealed:
            _raise_why_closed(attempt)
        self._unwritten_bytes += attempt.put_chunk(text)
        self._announce(attempt)

    async def flush(self, attempt: Attempt) -> None:
        """Wait until all that was appended is in the log.

        Raises:
            LeaseLost: the job has another owner.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
        """
        while (attempt.waiting_bytes or attempt.bytes_on_their_way) and not attempt.lost:
            await attempt.settled()
        attempt.check()

    def finish(self, attempt: Attempt, end: End) -> Awaitable[str | None]:
        """Write the attempt's last event with all that still waits, and what is known of the job from then on.

        Awaited, it becomes None, or the reason of a cancel that was promised to somebody meanwhile; then nothing was
        written, and the attempt has to finish as cancelled, with an event of the same id.

        Raises:
            WireError: no reader could read this event; finish with another one of the same id.

        Awaited, raises:
            LeaseLost: the job has another owner; nothing was written.
            redis.exceptions.ResponseError: Redis refuses what the attempt writes.
        """
        return self._finish(attempt, end, encode(end.event))

    async def _finish(self, attempt: Attempt, end: End, last: bytes) -> str | None:
        attempt.sealed = True
        while not attempt.lost and (attempt.bytes_on_their_way or attempt.waiting_bytes > MAX_MERGED_BYTES):
            await attempt.settled()
        attempt.check()

        def make() -> Call:
            self._unwritten_bytes -= attempt.waiting_bytes
            frame = attempt.take_rest() + last
            attempt.settle()
            return self._finish_call(attempt, end, frame)

        attempt.is_ending = True
        finishing = _Finish(make, self._writer.loop)
        self._writer.add(finishing)
        match await finishing.future:
            case b"written" | b"repeated":
                attempt.frames = None
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

    def _put(self, attempt: Attempt, encoded: Callable[[], bytes]) -> None:
        if attempt.lost or attempt.sealed:
            _raise_why_closed(attempt)
        try:
            self._unwritten_bytes += attempt.put(encoded())
        except WireError:
            attempt.take_back_id()
            raise

    def _announce(self, attempt: Attempt) -> None:
        """Let the writer ask for a frame. It is made when it is sent: until then it grows."""
        if attempt.is_announced or attempt.bytes_on_their_way or not attempt.waiting_bytes:
            return
        attempt.is_announced = True
        if attempt.frames is None:
            attempt.frames = _Frames(self, attempt, self._keys)
        self._writer.add(attempt.frames)

    def _announce_later(self, attempt: Attempt) -> None:
        if not self._begun:
            self._writer.loop.call_later(self._patience, self._lose_patience)
        self._begun.append(attempt)

    def _lose_patience(self) -> None:
        attempts, self._begun = self._begun, []
        # Behind those who are being woken just now because their answer is over.
        self._writer.loop.call_soon(self._announce_all, attempts)

    def _announce_all(self, attempts: Sequence[Attempt]) -> None:
        for attempt in attempts:
            if not attempt.is_ending:
                self._announce(attempt)

    def after_write(self, attempt: Attempt, result: Any) -> None:
        """Go on with the attempt's next frame, or give it up."""
        self._unwritten_bytes -= attempt.bytes_on_their_way
        attempt.bytes_on_their_way = 0
        if result not in (b"written", b"repeated"):
            attempt.refusal = result if isinstance(result, Exception) else None
            self._unwritten_bytes -= attempt.waiting_bytes
            attempt.lose()
        elif not attempt.sealed or attempt.waiting_bytes > MAX_MERGED_BYTES:
            self._announce(attempt)
        attempt.settle()


class _Frames(Pending):
    """The frames of an attempt, one after the other: at most one of them waits, or is on its way."""

    __slots__ = ("_append", "_attempt", "_keys", "_log")

    def __init__(self, log: EventLog, attempt: Attempt, keys: Keys) -> None:
        super().__init__()
        self._log = log
        self._attempt = attempt
        self._keys = keys
        self._append: Prepared | None = None

    def prepare(self) -> Call | None:
        """Make a frame of all that waits. There is nothing if it goes with the last event, or was dropped."""
        if self.call is None:
            self._attempt.is_announced = False
            if not self._attempt.is_ending and (taken := self._attempt.take_frame()) is not None:
                last_id, frame = taken
                self._attempt.bytes_on_their_way = len(frame)
                self._append = self._append or self._prepared()
                self.call = self._append.on(last_id.encode(), frame)
        return self.call

    def _prepared(self) -> Prepared:
        job_id = self._attempt.job_id
        return scripts.APPEND.prepared([self._keys.log(job_id), self._keys.events(job_id)])

    def tell(self, result: Any) -> None:
        """Let the attempt go on."""
        self.call = None
        self._log.after_write(self._attempt, result)


class _Finish(Asked):
    """The end of an attempt. It is made when it is sent: it may carry a whole answer, and thousands may wait."""

    __slots__ = ("_make",)

    def __init__(self, make: Callable[[], Call], loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(None, loop, remembered=True, repeated=True)
        self._make = make

    def prepare(self) -> Call:
        """Make it, the first time."""
        if self.call is None:
            self.call = self._make()
        return self.call


def _raise_why_closed(attempt: Attempt) -> NoReturn:
    attempt.check()
    raise LeaseLost(attempt.job_id)
