"""A job's log and channel as one sequence: replay, go live, repair, end."""

import asyncio
import random
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Self

from producer.errors import CorruptLog, JobNotFound, Unavailable
from producer.expiry import expire_job
from producer.link import Link
from producer.listener import Listener
from producer.seat import Seat
from producer.status import number_in
from producer.wire.codec import WireError
from producer.wire.events import QUEUED_ID, Cancelled, Event, EventId, Failed, Started
from producer.wire.frames import Frame, decode_frame
from producer.wire.keys import FRAME_FIELD, Keys

PAGE = 128
"""Frames read from the log in one round trip."""

_FRAME_FIELD = FRAME_FIELD.encode()
_BEFORE_ALL = EventId(0, 0)
_Entry = tuple[bytes, list[bytes]]
_Look = tuple[list[_Entry], list[_Entry], float | None]
"""A page of the log, its tail, and the seconds until the deadline, by the server's clock."""

_EXPIRY_JITTER = 0.05  # seconds over which a job's readers spread their looks when its deadline passes


class Subscription:
    """Every event of a job's log, once and in order, to the terminal one. Iterate over it.

    The log is the truth and the channel the wake-up: whenever a frame does not follow what was seen, or frames
    may have been missed, the log is read from the cursor. It may be left at any time and leaves nothing behind.
    A job that no worker has when its deadline passes is ended by whoever reads it, as `Failed`.
    One task reads it at a time.

    Raises, while iterating:
        JobNotFound: no such job, or its retention is over (also if that happens under a waiting reader).
        CorruptLog: the log breaks the contract.
        Unavailable: Redis stayed away for longer than ``patience`` seconds, or could not be subscribed to in time.
        RuntimeError: another task waits for its next event already.
    """

    def __init__(
        self,
        job_id: str,
        *,
        keys: Keys,
        link: Link,
        listener: Listener,
        after: EventId | None = None,
        idle_check: float = 5.0,
        patience: float = 120.0,
    ) -> None:
        self.job_id = job_id
        self.end: Event | None = None
        """The terminal event, once it was read, or found to be where the cursor stood already."""
        self._keys = keys
        self._link = link
        self._listener = listener
        self._seen = after or _BEFORE_ALL
        self._idle_check = idle_check
        self._patience = patience
        self._seat: Seat | None = None
        self._behind = True
        self._expires_at: float | None = None
        self._ended = False
        self._ready: Iterator[Event] = iter(())
        self._silence = 0.0
        self._cursor = None if after is None else str(after)

    @property
    def cursor(self) -> str | None:
        """The id of the last event handed out, for ``subscribe(after=…)``; None before the first."""
        return self._cursor

    @property
    def behind(self) -> bool:
        """Whether the log is known, or suspected, to hold more than was handed out."""
        return self._behind

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = next(self._ready, None)
        if event is None:
            self._ready = iter(await self._next_events())
            event = next(self._ready, None)
            if event is None:
                raise StopAsyncIteration
        self._cursor = event.id
        return event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Leave. A subscription that is merely dropped leaves as well."""
        self._ended = True
        self._ready = iter(())
        self._leave()

    async def read(self) -> Sequence[Event]:
        """Return all events that are ready, at least one; none once the terminal event was handed out."""
        events = tuple(self._ready) or await self._next_events()
        if events:
            self._cursor = events[-1].id
        return events

    async def _next_events(self) -> Sequence[Event]:
        while not self._ended:
            if self._behind:
                events = await self._replay()
            else:
                assert self._seat is not None, "replay comes first"
                events = self._follow(await self._seat.take(self._patience_with_silence()))
            if events:
                if events[-1].terminal:
                    self._end(events[-1])
                return events
        self._leave()  # in case that the seat was taken while another task left
        return ()

    def _end(self, event: Event) -> None:
        self.end = event
        self._ended = True
        self._leave()

    def _leave(self) -> None:
        seat, self._seat = self._seat, None
        if seat is not None:
            seat.leave()

    # -- replay --------------------------------------------------------------------------------------------

    async def _replay(self) -> Sequence[Event]:
        if self._seat is None:  # first listen, then read: what happens between the two is in both
            self._seat = await self._listener.join(self._keys.events(self.job_id))
        frames, tail = await self._read_page()
        self._silence = self._idle_check * random.uniform(0.8, 1.2)
        events = await self._unseen(frames)
        self._behind = len(frames) == PAGE or (bool(frames) and self._seen != frames[-1].last)
        if not events:
            await self._look_at_rest(tail)
        return events

    async def _unseen(self, frames: Sequence[Frame]) -> list[Event]:
        """Return what is new in the next frames of the log, which is seen from now on."""
        events: list[Event] = []
        for number, frame in enumerate(frames):
            if not frame.follows(self._seen):
                if events:
                    break  # what came before the hole is handed out first: nothing is held while the log is looked at
                if not await self._matters_to_nobody(frames[number:]):
                    # Nothing can come in between any more: a server forgot it, and nobody could say it again.
                    text = f"the log of job {self.job_id!r} misses what came between {self._seen} and {frame.last}"
                    raise CorruptLog(text)
            events += frame.after(self._seen)
            self._seen = frame.last
        return events

    async def _matters_to_nobody(self, frames: Sequence[Frame]) -> bool:
        """Whether what is missing before these frames is of no answer: it begins afresh later, or never becomes one."""
        while not any(map(_makes_up_for_a_hole, frames)):
            page, _, _ = await self._ask_patiently(frames[-1].last)
            if not page:
                return False
            frames = self._frames(page)
        return True

    async def _look_at_rest(self, tail: Frame) -> None:
        """All of the log was read: is it over, or is its time?"""
        if not tail.events[-1].terminal:
            await self._expire()
        elif tail.last <= self._seen:
            self._end(tail.events[-1])
        else:  # it was written between the two looks
            self._behind = True

    async def _expire(self) -> None:
        """End the job if its deadline has passed. A worker that runs it does that itself."""
        if self._expires_at is None or asyncio.get_running_loop().time() < self._expires_at:
            return
        self._expires_at = None  # until the log is read again
        with suppress(Unavailable):  # also where this reader may not write: another one will, or a worker
            self._behind = await expire_job(self._link, self._keys, self.job_id)

    async def _read_page(self) -> tuple[list[Frame], Frame]:
        page, tail, deadline_in = await self._ask_patiently(self._seen)
        now = asyncio.get_running_loop().time()
        self._expires_at = None if deadline_in is None else now + deadline_in
        if not tail:
            raise JobNotFound(self.job_id)
        frames = self._frames([*page, *tail])
        return frames[:-1], frames[-1]

    def _frames(self, entries: Sequence[_Entry]) -> list[Frame]:
        try:
            return [_frame(entry) for entry in entries]
        except WireError as error:
            raise CorruptLog(f"the log of job {self.job_id!r} cannot be read: {error}") from error

    async def _ask_patiently(self, after: EventId) -> _Look:
        log, record = self._keys.log(self.job_id), self._keys.record(self.job_id)
        commands = (
            ("XRANGE", log, f"({after}", "+", "COUNT", PAGE),
            ("XREVRANGE", log, "+", "-", "COUNT", 1),
            ("HGET", record, "deadline"),
            ("TIME",),
        )
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience
        while True:
            try:
                async with asyncio.timeout_at(give_up_at + self._link.timeout):  # others may be before us
                    page, tail, deadline, (seconds, microseconds) = await self._link.read(*commands)
            except TimeoutError as error:
                raise Unavailable(
                    f"the log of job {self.job_id!r} cannot be looked at", passing=True
                ) from error
            except Unavailable as error:
                if not error.passing or loop.time() > give_up_at:
                    raise
                continue
            deadline_ms = number_in({b"deadline": deadline or b""}, "deadline")
            now = int(seconds) + int(microseconds) / 1e6
            return page, tail, deadline_ms / 1000 - now if deadline_ms else None

    # -- live ----------------------------------------------------------------------------------------------

    def _follow(self, frames: Sequence[Frame] | None) -> Sequence[Event]:
        """Return what is new in the frames, as far as they follow what was seen."""
        if frames is None:
            self._behind = True
            return ()
        news: list[Sequence[Event]] = []
        for frame in frames:
            if frame.last <= self._seen:
                continue
            if not _follows(frame, self._seen):
                self._behind = True
                break
            news.append(frame.after(self._seen))
            self._seen = frame.last
            if news[-1][-1].terminal:
                break
        # A frame's events are shared by all who read it, so nothing is copied where it came alone.
        return news[0] if len(news) == 1 else [event for events in news for event in events]

    def _patience_with_silence(self) -> float:
        if self._expires_at is None:
            return self._silence
        until_deadline = max(0.0, self._expires_at - asyncio.get_running_loop().time())
        return min(self._silence, until_deadline + random.uniform(0, _EXPIRY_JITTER))


def _makes_up_for_a_hole(frame: Frame) -> bool:
    return any(
        isinstance(event, (Failed, Cancelled)) or (isinstance(event, Started) and not event.keeps)
        for event in frame.events
    )


def _follows(frame: Frame, seen: EventId) -> bool:
    if frame.attempt == seen.attempt:
        return frame.first_seq <= seen.seq + 1
    # A later attempt: what the earlier one wrote last may have been missed, so the log is asked,
    # except right after `queued`, which nothing but an attempt's beginning can follow.
    return seen == QUEUED_ID and frame.first_seq == 0


def _frame(entry: _Entry) -> Frame:
    entry_id, fields = entry
    data = dict(zip(fields[::2], fields[1::2], strict=True)).get(_FRAME_FIELD)
    if data is None:
        raise WireError(f"entry {entry_id.decode()} has no field {FRAME_FIELD!r}")
    frame = decode_frame(data)
    if str(frame.last) != entry_id.decode():
        raise WireError(f"entry {entry_id.decode()} holds a frame that ends with {frame.last}")
    return frame
