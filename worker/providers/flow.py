"""The body of a response, decoded as it comes: read by whoever wants more, or poured out as it arrives.

To read, a task is woken for each piece that arrives, and goes down through all that its answer is made of to take it.
What is poured out is decoded and handed on in the step of the loop in which it arrives: with hundreds of answers at a
time that saves a worker a tenth of what it does per chunk (`benchmarks.relay`).
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
_LISTEN, _REST, _ENOUGH = None, True, False
"""What comes next: more arrives; nothing does, and what is left can be read; nobody wants more for now."""


class Flow:
    """What is left of a response's body. Whatever aiohttp raises when it is lost or broken comes through."""

    def __init__(self, response: aiohttp.ClientResponse, decoder: Decoder) -> None:
        self._response = response
        self._content = response.content
        self._decoder = decoder
        self._decoded: Iterator[list[Part]] = iter(())
        self._bytes_taken = 0
        self._rest_at = AT_ONCE

    async def read(self) -> list[Part]:
        """Return the parts that are ready next, none at the end."""
        while True:
            for parts in self._decoded:
                return parts
            if self._bytes_taken > self._rest_at and self._has_bytes():
                self._rest_at = self._bytes_taken + AT_ONCE
                await asyncio.sleep(0)
            if self._decoder.is_complete or not (data := await self._next_bytes()):
                return []
            self._decoded = self._decoder.feed(data)

    async def pour(self, take: Take) -> bool:
        """Hand over the parts as they arrive; return whether that was all, or ``take`` could take no more at once."""
        connection = self._response.connection
        transport = connection.transport if connection is not None else None
        protocol = connection.protocol if connection is not None else None
        if transport is not None and protocol is not None and not transport.is_closing():
            ear = _Ear(place_of_protocol(transport), protocol, lambda: self._hand_over(take))
            if not await ear.listen():
                return False
        while parts := await self.read():  # what arrived already, and was cut off or too much for one step
            if not take(parts):
                return False
        return True

    def _hand_over(self, take: Take) -> _Next:
        """Hand over all that has arrived."""
        wants_more = True
        for parts in self._decoded:
            wants_more = take(parts) and wants_more
        most = self._bytes_taken + AT_ONCE
        while wants_more and not self._decoder.is_complete and self._bytes_taken < most:
            if not self._has_bytes():
                is_over = self._content.is_eof() or self._content.exception() is not None
                return _REST if is_over else _LISTEN
            for parts in self._decoder.feed(self._take_bytes()):
                wants_more = take(parts) and wants_more
        return _REST if wants_more else _ENOUGH

    async def _next_bytes(self) -> bytes:
        """Return what has arrived, or arrives next; nothing at the end."""
        if self._has_bytes():
            return self._take_bytes()
        try:
            data = await self._content.readany()
        except RuntimeError as error:
            # Whoever waits is told of a loss, but who comes just after it, before the body has heard of it, is not.
            if (connection := self._response.connection) is None or not connection.closed:
                raise
            raise aiohttp.ClientConnectionError("connection lost") from error
        self._bytes_taken += len(data)
        return data

    def _has_bytes(self) -> bool:
        return self._content.total_bytes != self._bytes_taken

    def _take_bytes(self) -> bytes:
        """Take what has arrived. What came before a failure counts; aiohttp would tell of the failure alone."""
        if (error := self._content.exception()) is not None:
            self._content.set_exception(None)  # type: ignore[arg-type]
        data = self._content.read_nowait()
        if error is not None:
            self._content.set_exception(error)
        self._bytes_taken += len(data)
        return data


class _Ear(asyncio.Protocol):
    """Stands before aiohttp's own protocol, and hears of each piece when that one has taken it in.

    It goes in the very step in which it has heard enough: the next call over the same connection may begin in it.
    """

    def __init__(
        self, place: asyncio.Transport | Gate, handler: asyncio.Protocol, hear: Callable[[], _Next]
    ) -> None:
        self._place = place
        self._handler = handler
        self._hear = hear
        self._heard_enough: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._is_there = False

    async def listen(self) -> bool:
        """Hear all that has arrived and what arrives from now on; return whether the rest is wanted."""
        self._place.set_protocol(self)
        self._is_there = True
        try:
            self._listen_now()
            return await self._heard_enough
        finally:
            self._go()

    def _listen_now(self) -> None:
        if self._heard_enough.done():  # also where `listen` was cancelled, and has yet to notice
            return
        try:
            is_rest_wanted = self._hear()
        except Exception as error:  # noqa: BLE001 - `listen` raises it
            self._tell(error)
        else:
            if is_rest_wanted is not None:
                self._tell(is_rest_wanted)

    def _tell(self, result: bool | Exception) -> None:
        self._go()
        if self._heard_enough.done():  # whoever took the parts has cancelled the call over them
            return
        if isinstance(result, Exception):
            self._heard_enough.set_exception(result)
        else:
            self._heard_enough.set_result(result)

    def _go(self) -> None:
        if self._is_there:
            self._is_there = False
            # One that is closing serves no other call, and what still comes is passed on. It must be left as it is:
            # a TLS transport of asyncio that was closed twice, as aiohttp does, can no longer be told anything.
            if not self._place.is_closing():
                self._place.set_protocol(self._handler)

    # -- the transport calls these -----------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Let aiohttp take it in, and hear of it."""
        self._handler.data_received(data)
        self._listen_now()

    def eof_received(self) -> bool | None:
        """Let aiohttp decide."""
        return self._handler.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """Hear what is left; what the loss means for the answer is told to whoever reads on."""
        self._handler.connection_lost(exc)
        self._listen_now()
        self._tell(True)

    def pause_writing(self) -> None:
        """Tell aiohttp."""
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        """Tell aiohttp."""
        self._handler.resume_writing()
