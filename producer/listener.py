"""One pub/sub connection, shared by all subscriptions of a process."""

import asyncio
import contextlib
import logging
import random
import weakref
from collections import Counter, deque

from redis.asyncio.connection import AbstractConnection

from producer.connection import Url
from producer.connection.tasks import end
from producer.errors import Unavailable
from producer.wire.codec import WireError
from producer.wire.events import Frame, decode_frame

logger = logging.getLogger("chatrelay.listener")
logger.addHandler(logging.NullHandler())  # a library is silent unless its user wants to hear it

MAX_FRAMES_WAITING = 256
MAX_BYTES_WAITING = 1024 * 1024
"""What a seat holds for a slow reader. Beyond either it forgets, and the reader goes back to the log."""

_PING_INTERVAL = 10.0  # seconds without a word of ours, after which one is said, so that a dead peer shows
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two attempts to connect


class Seat:
    """One reader's place at a channel: the frames that arrived since it last looked."""

    __slots__ = ("__weakref__", "_arrival", "_bytes", "_frames", "_missed")

    def __init__(self) -> None:
        self._frames: deque[Frame] = deque()
        self._bytes = 0
        self._missed = False
        self._arrival = asyncio.Event()

    async def take(self, timeout: float) -> list[Frame] | None:
        """Return the frames that arrived, at least one.

        None says: look at the log. Either frames may have been missed, or none came for ``timeout`` seconds.
        """
        if not self._frames and not self._missed:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout):
                    await self._arrival.wait()
        self._arrival.clear()
        frames, self._frames, self._bytes = list(self._frames), deque(), 0
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
        self._arrival.set()

    def miss(self) -> None:
        """Say that frames may have been missed; what waits here is in the log as well."""
        self._frames.clear()
        self._bytes = 0
        self._missed = True
        self._arrival.set()


class _Room:
    """A channel and who listens to it. The readers own their seats: one that is dropped leaves by itself."""

    def __init__(self) -> None:
        self.seats: weakref.WeakSet[Seat] = weakref.WeakSet()
        self.acknowledged = asyncio.Event()
        self.was_cut_off = False

    def acknowledge(self) -> None:
        self.acknowledged.set()
        if self.was_cut_off:
            self.was_cut_off = False
            self.miss()

    def cut_off(self) -> None:
        self.acknowledged.clear()
        self.was_cut_off = True

    def put(self, frame: Frame, size: int) -> None:
        for seat in self.seats:
            seat.put(frame, size)

    def miss(self) -> None:
        for seat in self.seats:
            seat.miss()


class Listener:
    """Keeps the connection up, and hands each frame, decoded once, to every seat of its channel."""

    def __init__(self, url: Url, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._rooms: dict[str, _Room] = {}
        self._acks_due: Counter[str] = Counter()
        self._to_say: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._last_error: Exception | None = None
        self._closed = False

    @property
    def channels(self) -> frozenset[str]:
        """The channels that have a reader."""
        return frozenset(self._rooms)

    async def join(self, channel: str) -> Seat:
        """Take a seat at ``channel``; when this returns, Redis has acknowledged the subscription.

        Raises:
            Unavailable: it did not within the timeout, or the listener is closed.
        """
        if self._closed:
            raise Unavailable("this Producer is closed: open it with `async with Producer(...)`")
        self._start()
        seat = Seat()
        weakref.finalize(seat, self._seat_left, channel).atexit = False
        room = self._rooms.get(channel)
        if room is None:
            room = self._rooms[channel] = _Room()
            self._say("SUBSCRIBE", channel)
        room.seats.add(seat)
        try:
            async with asyncio.timeout(self._timeout):
                await room.acknowledged.wait()
        except TimeoutError:
            why = str(self._last_error or f"no acknowledgement within {self._timeout:g} s")
            raise Unavailable(f"Redis at {self._url} cannot be subscribed to: {why}") from self._last_error
        if self._closed:
            raise Unavailable("this Producer was closed")
        return seat

    async def aclose(self) -> None:
        """Close the connection. Readers that still wait are woken; they find the client closed."""
        self._closed = True
        if self._task is not None:
            await end(self._task)
            self._task = None
        for room in self._rooms.values():
            room.acknowledge()
            room.miss()
        self._rooms.clear()

    # -- who listens ---------------------------------------------------------------------------------------

    def _seat_left(self, channel: str) -> None:
        # Called by the garbage collector, so possibly from another thread, or after the loop's end.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tidy, channel)

    def _tidy(self, channel: str) -> None:
        room = self._rooms.get(channel)
        if room is not None and not room.seats:
            del self._rooms[channel]
            self._say("UNSUBSCRIBE", channel)

    def _say(self, command: str, channel: str) -> None:
        if command == "SUBSCRIBE":
            self._acks_due[channel] += 1
        self._to_say.put_nowait((command, channel))

    def _acknowledge(self, channel: str) -> None:
        # A channel that was left and joined again quickly has two acknowledgements under way,
        # with an UNSUBSCRIBE between them: only the last one counts.
        self._acks_due[channel] -= 1
        if self._acks_due[channel] <= 0:
            del self._acks_due[channel]
            if room := self._rooms.get(channel):
                room.acknowledge()

    # -- the connection ------------------------------------------------------------------------------------

    def _start(self) -> None:
        if self._task is None:
            self._loop = asyncio.get_running_loop()
            self._task = asyncio.create_task(self._keep_listening(), name="chatrelay-listener")

    async def _keep_listening(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            connection = self._url.new_connection()
            try:
                async with asyncio.timeout(self._timeout):
                    await connection.connect()
                pause, self._last_error = _FIRST_PAUSE, None
                await self._converse(connection)
            except Exception as error:  # noqa: BLE001 - whatever broke it: readers count on it coming back
                self._last_error = error
                logger.warning("pub/sub connection to %s is down, connecting again: %s", self._url, error)
            finally:
                await connection.disconnect(nowait=True)
            for room in self._rooms.values():
                room.cut_off()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _converse(self, connection: AbstractConnection) -> None:
        self._to_say = asyncio.Queue()
        self._acks_due.clear()
        for channel in self._rooms:
            self._say("SUBSCRIBE", channel)
        speaking = asyncio.create_task(self._speak(connection), name="chatrelay-listener-speak")
        listening = asyncio.create_task(self._listen(connection), name="chatrelay-listener-listen")
        try:
            done, _ = await asyncio.wait([speaking, listening], return_when=asyncio.FIRST_COMPLETED)
        finally:
            await end(speaking, listening)
        for task in done:
            task.result()  # raises what broke the conversation

    async def _speak(self, connection: AbstractConnection) -> None:
        while True:
            try:
                async with asyncio.timeout(_PING_INTERVAL):
                    command = await self._to_say.get()
            except TimeoutError:
                command = ("PING", "")
            await connection.send_command(*command, check_health=False)

    async def _listen(self, connection: AbstractConnection) -> None:
        while True:
            reply = await connection.read_response(timeout=2 * _PING_INTERVAL)
            match reply:
                case [b"message", name, data]:
                    self._spread(name.decode(), data)
                case [b"subscribe", name, _]:
                    self._acknowledge(name.decode())
                case None:
                    raise ConnectionError(f"no sign of life for {2 * _PING_INTERVAL:g} s")

    def _spread(self, channel: str, data: bytes) -> None:
        room = self._rooms.get(channel)
        if room is None:
            return
        try:
            room.put(decode_frame(data), len(data))
        except WireError as error:
            # Anybody may publish anything; what counts stands in the log.
            logger.warning("channel %s carried something that is no frame: %s", channel, error)
            room.miss()
