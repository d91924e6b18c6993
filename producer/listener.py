"""One pub/sub connection, shared by all subscriptions of a process."""

import asyncio
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Url
from producer.connection.conversation import Conversation
from producer.connection.packing import pack
from producer.connection.tasks import end
from producer.errors import Unavailable
from producer.home_loop import HomeLoop
from producer.seat import Room, Seat

logger = logging.getLogger("chatrelay.listener")
logger.addHandler(logging.NullHandler())  # a library is silent unless its user wants to hear it

_PING_INTERVAL = 10.0  # seconds between two words of ours, so that a dead peer shows
_SILENT_INTERVALS = 2  # after so many without any word of the peer's it is dead
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds between two attempts to connect


class Listener:
    """Keeps the connection up, and hands each frame, decoded once, to every seat of its channel."""

    def __init__(self, url: Url, timeout: float) -> None:
        self._url = url
        self._timeout = timeout
        self._rooms: dict[bytes, Room] = {}
        self._acks_due: Counter[bytes] = Counter()
        self._conversation: _Channels | None = None
        self._task: asyncio.Task[None] | None = None
        self._last_error: Exception | None = None
        self._home = HomeLoop()
        self._closed = False

    @property
    def channels(self) -> frozenset[str]:
        """The channels that have a reader."""
        return frozenset(name.decode() for name in self._rooms)

    async def join(self, channel: str) -> Seat:
        """Take a seat at ``channel``; when this returns, Redis has acknowledged the subscription.

        Raises:
            Unavailable: it did not within the timeout, or the listener is closed.
        """
        self._home.check()
        if self._closed:
            raise Unavailable("this Producer is closed: open it with `async with Producer(...)`")
        if self._task is None:
            self._task = asyncio.create_task(self._keep_listening(), name="chatrelay-listener")
        room = self._room(channel.encode())
        seat = room.sit_down()
        if room.pending is not None:
            try:
                await self._acknowledgement(room.pending)
            except BaseException:
                seat.leave()
                raise
        return seat

    def move(self) -> None:
        """Leave the server for the one to which a new connection leads."""
        if self._conversation is not None:
            self._conversation.lose(RedisConnectionError("another server has taken its place"))

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

    def _room(self, name: bytes) -> Room:
        room = self._rooms.get(name)
        if room is None:
            room = self._rooms[name] = Room(name, self._leave)
            self._subscribe(name)
        return room

    async def _acknowledgement(self, pending: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await pending.wait()
        except TimeoutError:
            why = str(self._last_error or "") or f"no acknowledgement within {self._timeout:g} s"
            raise Unavailable(f"Redis at {self._url} cannot be subscribed to: {why}") from self._last_error
        if self._closed:
            raise Unavailable("this Producer was closed")

    def _leave(self, room: Room) -> None:
        if self._rooms.get(room.channel) is room:
            del self._rooms[room.channel]
            if self._conversation is not None:
                self._conversation.tell("UNSUBSCRIBE", room.channel)

    def _subscribe(self, name: bytes) -> None:
        if self._conversation is not None:  # otherwise it is said when there is one
            self._acks_due[name] += 1
            self._conversation.tell("SUBSCRIBE", name)

    def _acknowledge(self, name: bytes) -> None:
        # A channel that was left and joined again quickly has two acknowledgements under way,
        # with an UNSUBSCRIBE between them: only the last one counts.
        self._acks_due[name] -= 1
        if self._acks_due[name] <= 0:
            del self._acks_due[name]
            if room := self._rooms.get(name):
                room.acknowledge()

    # -- the connection ------------------------------------------------------------------------------------

    async def _keep_listening(self) -> None:
        pause = _FIRST_PAUSE
        while True:
            try:
                conversation = await self._connect()
                pause, self._last_error = _FIRST_PAUSE, None
                await self._converse(conversation)
            except Exception as error:  # noqa: BLE001 - whatever broke it: readers count on it coming back
                self._last_error = error
                why = str(error) or type(error).__name__
                logger.warning("pub/sub connection to %s is down, connecting again: %s", self._url, why)
            for room in self._rooms.values():
                room.cut_off()
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _connect(self) -> "_Channels":
        connection = self._url.new_connection()
        try:
            async with asyncio.timeout(self._timeout):
                await connection.connect()
            conversation = _Channels(self._hear)
            conversation.begin(connection)
            return conversation
        finally:
            await connection.disconnect(nowait=True)  # of no effect once it was handed over

    async def _converse(self, conversation: "_Channels") -> None:
        self._conversation = conversation
        self._acks_due.clear()
        for name in self._rooms:
            self._subscribe(name)
        silent = 0
        try:
            while silent < _SILENT_INTERVALS:
                await asyncio.wait([conversation.lost], timeout=_PING_INTERVAL)
                if conversation.lost.done():
                    raise conversation.lost.result()
                silent = 0 if conversation.has_spoken() else silent + 1
                conversation.tell("PING")
        finally:
            self._conversation = None
            conversation.lose(RedisConnectionError("it was closed here"))
        raise RedisConnectionError(f"no sign of life for {_SILENT_INTERVALS * _PING_INTERVAL:g} s")

    def _hear(self, replies: Iterable[Any]) -> None:
        """Take in all that one read of the connection brought."""
        arrived: dict[bytes, list[bytes]] = {}
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
            if isinstance(reply, list) and len(reply) == 3:
                kind, name, data = reply
                if kind == b"message":
                    arrived.setdefault(name, []).append(data)
                elif kind == b"subscribe":
                    self._acknowledge(name)
        for name, published in arrived.items():
            if room := self._rooms.get(name):
                room.hand_out(published)


class _Channels(Conversation):
    """What is said and heard of channels over one connection: ``lost`` becomes what ended it."""

    def __init__(self, hear: Callable[[Iterable[Any]], None]) -> None:
        super().__init__()
        self.lost: asyncio.Future[Exception] = self.loop.create_future()
        self._hear = hear
        self._has_spoken = False

    def tell(self, *command: str | bytes) -> None:
        """Send a command."""
        self.say([pack(*command)])

    def has_spoken(self) -> bool:
        """Return whether anything came since this was asked last."""
        has_spoken, self._has_spoken = self._has_spoken, False
        return has_spoken

    def hear(self, replies: Iterable[Any]) -> None:
        self._has_spoken = True
        self._hear(replies)

    def ended(self, error: Exception) -> None:
        self.lost.set_result(error)
