"""How much of all responses is taken in during one step of the loop: as much as the next step works off.

When thousands of answers arrive in the same moment, an event loop reads all of them before anybody can pass on any.
As Python's objects they take five times the room that they take on the wire: 2,000 answers of 200 chunks are 100 MB.
So what arrives when enough was taken in has to wait for its turn. But for one byte it is not read: it stays in the
kernel's buffers, and behind them with the service. Turns are given in the order in which they were asked for.
"""

import asyncio
from collections import deque
from typing import Any

import aiohttp
from aiohttp.connector import Connection

STEP_BYTES = 1024 * 1024
"""What is taken in before all others wait for the next step of the loop: 60 ms of work, if it is a fast answer's. The
smaller the steps, the smaller are the pipelines to Redis, and the more of them there are."""

TURNS = 64
"""How many of those who wait get their turn in one step, whatever the others take in meanwhile."""

_READ_BYTES = 64 * 1024  # of one connection at a time; what lies there beyond them comes with the next read


class Sluice:
    """What the connections of a session share."""

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_READ_BYTES))
        """Where whoever reads just now reads to."""
        self.is_open = True
        """Whether more may be taken in during this step."""
        self._left = STEP_BYTES
        self._waiting: deque[Gate] = deque()
        self._next_step: asyncio.Handle | None = None

    def took(self, size: int) -> None:
        """Count what was taken in. Slow answers need many steps until it is enough, and pay for none of them."""
        self._left -= size
        if self._left <= 0:
            self.is_open = False
            self._expect_next_step()

    def wait(self, gate: "Gate") -> None:
        """Let it in when its turn comes."""
        self._waiting.append(gate)
        self._expect_next_step()

    def _expect_next_step(self) -> None:
        if self._next_step is None:
            self._next_step = asyncio.get_running_loop().call_soon(self._begin_step)

    def _begin_step(self) -> None:
        self._next_step = None
        self._left, self.is_open = STEP_BYTES, True
        try:
            for _ in range(min(TURNS, len(self._waiting))):
                self._waiting.popleft().let_in()
        finally:  # whoever fails must not keep all others waiting
            if self._waiting:
                self._expect_next_step()


class Gate(asyncio.BufferedProtocol):
    """Stands between a connection and its protocol, for as long as there is the connection."""

    __slots__ = ("_has_turn", "_held", "_is_shut", "_protocol", "_sluice", "_transport")

    def __init__(self, sluice: Sluice, transport: asyncio.Transport) -> None:
        self._sluice = sluice
        self._transport = transport
        self._protocol: Any = transport.get_protocol()
        self._held = b""  # what was read of that which waits
        self._has_turn = False
        self._is_shut = False
        transport.set_protocol(self)

    @property
    def holds_something(self) -> bool:
        """Whether something has come that waits for its turn."""
        return bool(self._held)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand on to this one from now on."""
        self._protocol = protocol

    def is_closing(self) -> bool:
        """Whether the connection is."""
        return self._transport.is_closing()

    def let_in(self) -> None:
        """Have the turn that was waited for; it is good for one read."""
        if not self._held or self._transport.is_closing():
            return
        self._has_turn = True
        # In this order: the protocol may find that it has enough, and pause the reading itself.
        self._transport.resume_reading()
        self._hand_on_held()

    def _hand_on_held(self) -> None:
        held, self._held = self._held, b""
        if held:
            self._sluice.took(len(held))
            self._protocol.data_received(held)

    # -- the transport calls these -----------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:
        """Offer room for what has arrived; for a single byte, where the rest has to wait."""
        self._is_shut = not (self._has_turn or self._sluice.is_open)
        return self._sluice.buffer[:1] if self._is_shut else self._sluice.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand on what was read, or wait for the turn to read the rest."""
        data = bytes(self._sluice.buffer[:nbytes])
        if self._is_shut:
            self._transport.pause_reading()  # only here: within `get_buffer`, uvloop would crash
            if not self._held:
                self._sluice.wait(self)
            self._held += data
        else:
            self._has_turn = False
            self._sluice.took(nbytes)
            if self._held:  # somebody else read on before the turn came
                self._hand_on_held()
            self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        """Hand it on."""
        self._hand_on_held()
        stays_open: bool | None = self._protocol.eof_received()
        return stays_open

    def connection_lost(self, exc: Exception | None) -> None:
        """Hand it on, behind what was read before."""
        self._hand_on_held()
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """Hand it on."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """Hand it on."""
        self._protocol.resume_writing()


class GatedConnector(aiohttp.TCPConnector):
    """Makes connections that share a sluice, but for those over TLS.

    What comes over these has left the kernel before anybody hears of it. And where it is not taken as it comes, it may
    be lost: when the service closes the connection, the TLS of asyncio and of uvloop forgets what it could not hand on.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._sluice = Sluice()

    async def connect(self, *args: Any, **kwargs: Any) -> Connection:
        """Return a connection, new or kept, behind its gate."""
        while True:
            connection = await super().connect(*args, **kwargs)
            transport = connection.transport
            if transport is None:
                return connection
            gate = transport.get_protocol()
            if not isinstance(gate, Gate):
                if transport.get_extra_info("sslcontext") is None:
                    Gate(self._sluice, transport)
                return connection
            if not gate.holds_something:
                return connection
            connection.close()  # what came unasked is a farewell, and would be taken for the answer


def place_of_protocol(transport: asyncio.Transport) -> asyncio.Transport | Gate:
    """Return where a connection's protocol is exchanged: at its gate, if it has one."""
    outermost = transport.get_protocol()
    return outermost if isinstance(outermost, Gate) else transport
