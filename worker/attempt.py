"""One run of a job, as far as its log is concerned: the ids of its events, and what waits to be written."""

import asyncio
import time
from itertools import islice

from producer.wire.frames import encode_chunk
from worker.pending import Pending

MAX_MERGED_BYTES = 64 * 1024
"""A frame grows by merging up to this size; a single larger event is a frame of its own."""


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
        "frames",
        "has_output",
        "id",
        "is_announced",
        "is_ending",
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
        self.is_ending = False
        """Whether all that waits goes with the last event."""
        self.waiting_bytes = 0
        """How much waits to be written, without the frame that is on its way."""
        self.is_announced = False
        """Whether the writer will ask for a frame when it puts the next pipeline together."""
        self.bytes_on_their_way = 0
        """The size of the frame that was sent, and has not been answered yet."""
        self.frames: Pending | None = None
        """What the writer is given, once there is something to write."""
        self._claimed_at = time.monotonic()
        self._next_seq = 0
        self._waiting: list[bytes] = []  # a deque without anything in it takes 700 bytes
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

    def put_chunk(self, text: str) -> int:
        """Encode a chunk of the answer's text under the next id, add it to what waits, and return its size.

        Raises:
            WireError: no reader could read it; the id goes to the next event.
        """
        data = encode_chunk(f"{self.id}-{self._next_seq}", text)
        self._next_seq += 1
        self._waiting.append(data)
        size = len(data)
        self.waiting_bytes += size
        return size

    def put(self, event: bytes) -> int:
        """Add an encoded event to what waits, and return its size."""
        self._waiting.append(event)
        size = len(event)
        self.waiting_bytes += size
        return size

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
        count, size = 1, len(self._waiting[0])
        for event in islice(self._waiting, 1, None):
            size += len(event)
            if size > MAX_MERGED_BYTES:
                break
            count += 1
        frame = b"".join(self._waiting[:count])
        del self._waiting[:count]
        return count, frame

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
        self.frames = None
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
