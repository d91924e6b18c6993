"""The body of a response, decoded as it comes: read by whoever wants more, or poured out as it arrives.

To read, a task is woken for each piece that arrives, and goes down through all that its answer is made of to take it.
What is poured out is decoded and handed on in the step of the loop in which it arrives: with hundreds of answers at a
time that saves a worker a tenth of what it does per chunk, or more (`benchmarks.relay`: `drop` and `poured`).
"""

import asyncio
from collections.abc import Callable, Iterator
from typing import Protocol

import aiohttp

from worker.providers.base import Part
from worker.providers.sluice import Gate, place_of_protocol

AT_ONCE = 256 * 1024
"""Bytes that are decoded in one step of the loop, more or less: as many as a socket gives at once. A compressed body
may hold a thousand times what was read of it."""

Take = Callable[[list[Part]], bool]
"""Takes parts, at least one; returns whether it can take more at once."""


class Decoder(Protocol):
    """Makes parts of bytes."""

    @property
    def is_complete(self) -> bool:
        """Whether the answer has come to its own end: what follows is not read."""

    def feed(self, data: bytes) -> Iterator[list[Part]]:
        """Yield the parts that ``data`` completes, no empty list; a failure is raised behind them."""


_Next = bool | None
_MORE, _REST, _FULL = None, True, False
"""What comes next: more arrives; nothing does, and what is left can be read; there is no room for more for now."""


class Flow:
    """What is left of a response's body. Whatever aiohttp raises when it is lost or broken comes through."""

    __slots__ = ("_content", "_decoded", "_decoder", "_response", "_until_pause")

    def __init__(self, response: aiohttp.ClientResponse, decoder: Decoder) -> None:
        self._response = response
        self._content = response.content
        self._decoder = decoder
        self._decoded: Iterator[list[Part]] = iter(())
        self._until_pause = AT_ONCE

    async def read(self) -> list[Part] | None:
        """Return the parts that are ready next, none where what came is no part yet; None at the end."""
        while True:
            for parts in self._decoded:
                return parts
            if self._decoder.is_complete:
                return None
            if self._until_pause <= 0 and not self._content.at_eof():
                self._until_pause = AT_ONCE
                await asyncio.sleep(0)
            if not (data := await self._next_bytes()):
                return None
            self._until_pause -= len(data)
            self._decoded = self._decoder.feed(data)

    async def pour(self, take: Take) -> bool:
        """Hand over the parts as they arrive; return whether that was all, or ``take`` could take no more at once."""
        if not _all_taken(self._decoded, take):
            return False
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        protocol = connection.protocol if connection is not None else None
        if transport is not None and protocol is not None and not transport.is_closing():
            spout = _Spout(self._content, self._decoder, take)
            if not await spout.pour(place_of_protocol(transport), protocol):
                return False
            self._until_pause = 0  # what was too much for one step must not go on in this one
        # What arrived already, and was cut off or too much for one step.
        while (parts := await self.read()) is not None:
            if not take(parts):
                return False
        return True

    async def _next_bytes(self) -> bytes:
        """Return what has arrived, or arrives next; nothing at the end."""
        if data := _take_arrived(self._content):
            return data
        try:
            return await self._content.readany()
        except RuntimeError as error:
            # Whoever waits is told of a loss, but who comes just after it, before the body has heard of it, is not.
            if (connection := self._response.connection) is None or not connection.closed:
                raise
            raise aiohttp.ClientConnectionError("connection lost") from error


def _take_arrived(content: aiohttp.StreamReader) -> bytes:
    """Take what has arrived. What came before a failure counts; aiohttp would tell of the failure alone."""
    error = content.exception()
    if error is None:
        return content.read_nowait()
    content.set_exception(None)  # type: ignore[arg-type]
    try:
        return content.read_nowait()
    finally:
        content.set_exception(error)


def _all_taken(decoded: Iterator[list[Part]], take: Take) -> bool:
    """Hand over all that is decoded; return whether there is room for more."""
    has_room = True
    for parts in decoded:
        has_room = take(parts) and has_room
    return has_room


class _Spout(asyncio.Protocol):
    """Stands before aiohttp's own protocol, and pours out each piece when that one has taken it in.

    It goes in the very step in which it has poured enough: the next call over the same connection may begin in it. All
    that it needs for a piece it holds itself: between two pieces of an answer there are those of hundreds of others,
    and each further object is one more that has left the processor's cache.
    """

    __slots__ = ("_content", "_decoder", "_goes_on", "_handler", "_is_there", "_place", "_take")

    def __init__(self, content: aiohttp.StreamReader, decoder: Decoder, take: Take) -> None:
        self._content = content
        self._decoder = decoder
        self._take = take
        self._goes_on: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._is_there = False

    async def pour(self, place: asyncio.Transport | Gate, handler: asyncio.Protocol) -> bool:
        """Pour out all that has arrived and what arrives from now on; return whether the rest can be read at once.

        ``handler``: aiohttp's protocol, which stands at ``place`` again afterwards.
        """
        self._place, self._handler = place, handler
        place.set_protocol(self)
        self._is_there = True
        try:
            self._pour_arrived()
            return await self._goes_on
        finally:
            self._go()

    def _pour_arrived(self) -> None:
        if self._goes_on.done():  # also where `pour` was cancelled, and has yet to notice
            return
        try:
            comes_next = self._hand_over()
        except Exception as error:  # noqa: BLE001 - `pour` raises it
            self._tell(error)
        else:
            if comes_next is not None:
                self._tell(comes_next)

    def _hand_over(self) -> _Next:
        """Hand over all that has arrived."""
        content, decoder = self._content, self._decoder
        has_room, until_pause, seen = True, AT_ONCE, -1
        # Again where more was unpacked, once there was room for it.
        while has_room and until_pause > 0 and not decoder.is_complete and content.total_bytes != seen:
            seen = content.total_bytes
            if data := _take_arrived(content):
                until_pause -= len(data)
                has_room = _all_taken(decoder.feed(data), self._take)
        if not has_room:
            return _FULL
        is_over = (
            until_pause <= 0 or decoder.is_complete or content.is_eof() or content.exception() is not None
        )
        return _REST if is_over else _MORE

    def _tell(self, result: bool | Exception) -> None:
        self._go()
        if self._goes_on.done():  # whoever took the parts has cancelled the call over them
            return
        if isinstance(result, Exception):
            self._goes_on.set_exception(result)
        else:
            self._goes_on.set_result(result)

    def _go(self) -> None:
        if self._is_there:
            self._is_there = False
            # One that is closing serves no other call, and what still comes is passed on. It must be left as it is:
            # a TLS transport of asyncio that was closed twice, as aiohttp does, can no longer be told anything.
            if not self._place.is_closing():
                self._place.set_protocol(self._handler)

    # -- the transport calls these -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Let aiohttp take it in, and pour it out."""
        self._handler.data_received(data)
        self._pour_arrived()

    def eof_received(self) -> bool | None:
        """Let aiohttp decide."""
        return self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Pour out what is left; what the loss means for the answer is told to whoever reads on."""
        self._handler.connection_lost(exc)
        self._pour_arrived()
        self._tell(True)

    def pause_writing(self) -> None:
        """Tell aiohttp."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Tell aiohttp."""
        self._handler.resume_writing()
