"""Who listens to a channel, and what arrived there since each of them looked.

What arrived together is decoded once and wakes each reader once, however many frames and readers there are.
"""

import asyncio
import logging
import weakref
from collections.abc import Callable, Iterable, Sequence

from producer.wire.codec import WireError
from producer.wire.frames import Frame, decode_frame

logger = logging.getLogger("chatrelay.listener")

MAX_FRAMES_WAITING = 256
MAX_BYTES_WAITING = 1024 * 1024
"""What a seat holds for a slow reader. Beyond either it forgets, and the reader goes back to the log."""

_MAX_JOINED_BYTES = MAX_BYTES_WAITING // 4


class Seat:
    """One reader's place at a channel: the frames that arrived since it last looked."""

    __slots__ = ("__weakref__", "_bytes", "_frames", "_missed", "_room", "_timer", "_waiter", "_wake_at")

    def __init__(self, room: "Room | None" = None) -> None:
        self._room = room
        self._frames: list[Frame] = []
        self._bytes = 0
        self._missed = False
        self._waiter: asyncio.Future[None] | None = None
        self._wake_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def take(self, timeout: float) -> list[Frame] | None:
        """Return the frames that arrived, at least one.

        None says: look at the log. Either frames may have been missed, or none came for ``timeout`` seconds.

        Raises:
            RuntimeError: somebody else waits here already.
        """
        if not self._frames and not self._missed:
            await self._arrival(timeout)
        frames, self._frames, self._bytes = self._frames, [], 0
        if self._missed:
            self._missed = False
            return None
        return frames or None

    def put(self, frame: Frame, size: int) -> None:
        """Add a frame of ``size`` bytes."""
        self._bytes += size
        if len(self._frames) >= MAX_FRAMES_WAITING or (self._frames and self._bytes > MAX_BYTES_WAITING):
            self.miss()
            return
        self._frames.append(frame)
        self._wake()

    def miss(self) -> None:
        """Say that frames may have been missed; what waits here is in the log as well."""
        self._frames.clear()
        self._bytes = 0
        self._missed = True
        self._wake()

    def leave(self) -> None:
        """Give the seat up. Whoever waits here is sent to look at the log."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._room is not None:
            self._room.leave(self)
        self.miss()

    def _arrival(self, timeout: float) -> "asyncio.Future[None]":
        if self._waiter is not None and not self._waiter.done():
            raise RuntimeError("somebody waits for this subscription's next event already")
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        self._wake_at = loop.time() + timeout
        # The timer of an earlier wait is left where it is, and moved along only when it rings: a reader who is
        # handed a thousand events a second sets none at all.
        if self._timer is None or self._timer.when() > self._wake_at:
            self._set_timer(loop)
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _set_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(self._wake_at, _ring, weakref.ref(self))

    def ring(self) -> None:
        """Look whether it is time to wake the reader."""
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._waiter is None or self._waiter.done():
            return
        if loop.time() < self._wake_at:
            self._set_timer(loop)
        else:
            self._wake()


def _ring(place: "weakref.ref[Seat]") -> None:
    # By way of a weak reference: a timer must not keep the seat of a reader who is gone.
    seat = place()
    if seat is not None:
        seat.ring()


class Room:
    """A channel and who listens to it. The readers own their seats: one that is dropped leaves by itself.

    ``on_empty`` is called when the last one has left.
    """

    __slots__ = ("_loop", "_on_empty", "_places", "_was_cut_off", "channel", "pending")

    def __init__(self, channel: bytes, on_empty: Callable[["Room"], None]) -> None:
        self.channel = channel
        self.pending: asyncio.Event | None = asyncio.Event()
        """Set when Redis has acknowledged the subscription, and then no more."""
        self._on_empty = on_empty
        self._places: set[weakref.ref[Seat]] = set()
        self._was_cut_off = False
        self._loop = asyncio.get_running_loop()

    @property
    def is_empty(self) -> bool:
        """Whether nobody sits here."""
        return not self._places

    def sit_down(self) -> Seat:
        """Return a new seat."""
        seat = Seat(self)
        self._places.add(weakref.ref(seat, self._was_dropped))
        return seat

    def leave(self, seat: Seat) -> None:
        """Take a seat away."""
        self._clear(weakref.ref(seat))

    def acknowledge(self) -> None:
        """Note that frames arrive from now on."""
        if self.pending is not None:
            self.pending.set()
            self.pending = None
        if self._was_cut_off:
            self._was_cut_off = False
            self.miss()

    def cut_off(self) -> None:
        """Note that nothing arrives until the next acknowledgement."""
        self.pending = self.pending or asyncio.Event()
        self._was_cut_off = True

    def hand_out(self, published: Sequence[bytes]) -> None:
        """Put what was published, in this order, in front of everybody."""
        for frame, size in _decoded(self.channel, published):
            if frame is None:
                self.miss()
                continue
            for place in self._places:
                seat = place()
                if seat is not None:
                    seat.put(frame, size)

    def miss(self) -> None:
        """Say to everybody that frames may have been missed."""
        for place in self._places:
            seat = place()
            if seat is not None:
                seat.miss()

    def _was_dropped(self, place: "weakref.ref[Seat]") -> None:
        # Called by the garbage collector, so possibly from another thread, or after the loop's end.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._clear, place)

    def _clear(self, place: "weakref.ref[Seat]") -> None:
        if place in self._places:
            self._places.remove(place)
            if not self._places:
                self._on_empty(self)


def _decoded(channel: bytes, published: Sequence[bytes]) -> Iterable[tuple[Frame | None, int]]:
    """Return frames with their sizes, as few as possible; None stands for what is none."""
    data = published[0] if len(published) == 1 else b"".join(published)
    if len(data) <= _MAX_JOINED_BYTES or len(published) == 1:
        try:  # nearly always each one follows the one before, and then they are a frame together
            return ((decode_frame(data), len(data)),)
        except WireError as error:
            if len(published) == 1:
                # Anybody may publish anything; what counts stands in the log.
                logger.warning("channel %s carried something that is no frame: %s", channel.decode(), error)
                return ((None, 0),)
    return [found for data in published for found in _decoded(channel, (data,))]
