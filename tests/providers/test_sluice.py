"""However much arrives in one moment, it is taken in step by step, in order, and by everybody in turn."""

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest

from worker.providers import sluice
from worker.providers.http import open_session
from worker.providers.part_stream import PartStream
from worker.providers.sluice import STEP_BYTES, TURNS, Gate, GatedConnector, Sluice

from .protocols import ACYTOO, OPENAI, collect, delta, poured, sse, text_of
from .upstream import PATIENCE, Upstream, answering, tls_without_certificates


class Sink(asyncio.Protocol):
    """What stands behind a gate."""

    def __init__(self) -> None:
        self.taken = b""
        self.at_data: Callable[[], None] = lambda: None
        self.at_loss: Callable[[], None] = lambda: None

    def data_received(self, data: bytes) -> None:
        self.taken += data
        self.at_data()

    def connection_lost(self, exc: Exception | None) -> None:
        self.at_loss()


class Wire(asyncio.Transport):
    """A connection behind a gate; `arrived` lies in the kernel."""

    def __init__(self, of: Sluice, arrived: bytes = b"") -> None:
        super().__init__()
        self.arrived = arrived
        self.sink = Sink()
        self.is_paused = False
        self._protocol: Any = self.sink
        self.gate = Gate(of, self)

    def get_protocol(self) -> Any:
        return self._protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def is_closing(self) -> bool:
        return False

    def read(self) -> None:
        """Do what a loop does when it finds something here: read on for as long as what it is given is filled."""
        is_filled = True
        while is_filled and self.arrived and not self.is_paused:
            room = self._protocol.get_buffer(-1)
            size = min(len(room), len(self.arrived))
            room[:size], self.arrived = self.arrived[:size], self.arrived[size:]
            is_filled = size == len(room)
            self._protocol.buffer_updated(size)


async def test_what_arrives_in_one_moment_is_taken_in_step_by_step() -> None:
    of = Sluice()
    texts = [b"%05d" % number * 4000 for number in range(200)]
    wires = [Wire(of, text) for text in texts]
    ended: list[Wire] = []
    before = steps = 0
    while len(ended) < len(wires):
        for wire in wires:
            wire.read()
        taken = sum(len(wire.sink.taken) for wire in wires)
        assert 0 < taken - before <= 2 * STEP_BYTES
        ended += [wire for wire in wires if not wire.arrived and wire not in ended]
        before, steps = taken, steps + 1
        await asyncio.sleep(0)
    assert [wire.sink.taken for wire in wires] == texts
    assert ended == wires  # first come, first served
    assert steps >= 200 * 20_000 / STEP_BYTES / 2


async def test_everybody_gets_a_turn_while_others_never_come_to_an_end() -> None:
    of = Sluice()
    flood = [Wire(of) for _ in range(2 * TURNS)]
    modest = Wire(of, b"hello")
    for _ in range(10):
        for wire in flood:
            wire.arrived = bytes(STEP_BYTES)
            wire.read()
        modest.read()
        await asyncio.sleep(0)
    assert modest.sink.taken == b"hello"


def shut() -> Sluice:
    """A sluice that lets nobody in without a turn."""
    of = Sluice()
    of.took(STEP_BYTES)
    return of


async def test_a_byte_that_nothing_follows_is_handed_on_in_its_turn() -> None:
    wire = Wire(shut(), b"x")
    wire.read()
    assert wire.is_paused
    assert wire.sink.taken == b""
    await asyncio.sleep(0)
    assert wire.sink.taken == b"x"
    assert not wire.is_paused


async def test_a_protocol_that_fails_keeps_nobody_else_waiting() -> None:
    def fail() -> None:
        raise ValueError("on purpose")

    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: failures.append(what["exception"]))
    of = shut()
    failing, other = Wire(of, b"x"), Wire(of, b"y")
    failing.sink.at_data = fail
    for wire in (failing, other):
        wire.read()
    for _ in range(2):
        await asyncio.sleep(0)
    assert [type(failure) for failure in failures] == [ValueError]
    assert other.sink.taken == b"y"
    assert not other.is_paused


async def test_a_protocol_that_has_enough_stays_paused() -> None:
    wire = Wire(shut(), b"hello")
    wire.sink.at_data = wire.pause_reading  # as aiohttp does when its buffer is full
    wire.read()
    await asyncio.sleep(0)
    assert wire.sink.taken == b"h"
    assert wire.is_paused


async def test_whoever_resumes_the_reading_too_early_gets_all_in_order() -> None:
    wire = Wire(shut(), b"hello")
    for _ in range(2):
        wire.read()
        wire.resume_reading()
    await asyncio.sleep(0)
    wire.read()
    assert wire.sink.taken == b"hello"


@pytest.mark.parametrize("error", [None, ConnectionResetError()], ids=["closed", "reset"])
async def test_what_was_read_comes_before_the_loss_of_the_connection(error: Exception | None) -> None:
    wire = Wire(shut(), b"x")
    wire.read()
    wire.resume_reading()  # by aiohttp, whenever somebody reads: then the loss is heard of before the turn comes
    taken_before: list[bytes] = []
    wire.sink.at_loss = lambda: taken_before.append(wire.sink.taken)
    wire.gate.connection_lost(error)
    await asyncio.sleep(0)
    assert taken_before == [b"x"] == [wire.sink.taken]


async def test_a_kept_connection_over_which_something_came_unasked_serves_no_call(
    http: aiohttp.ClientSession,
) -> None:
    connector = http.connector
    assert isinstance(connector, GatedConnector)
    script = answering(*OPENAI.chunked([sse(delta("hello"), "[DONE]")]))
    async with Upstream(script) as upstream, asyncio.timeout(PATIENCE):
        assert text_of(await collect(OPENAI.ask(upstream.url, http=http))) == "hello"
        [[(kept, _)]] = connector._conns.values()
        assert kept.transport is not None
        gate = kept.transport.get_protocol()
        assert isinstance(gate, Gate)
        gate._held = b"H"  # of a 408, say, while many others wait for their turns
        assert text_of(await collect(OPENAI.ask(upstream.url, http=http))) == "hello"
    assert upstream.connections == 2


def _uvloop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = pytest.importorskip("uvloop").new_event_loop()
    return loop


BOTH_LOOPS = pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, _uvloop], ids=["asyncio", "uvloop"]
)


@BOTH_LOOPS
@pytest.mark.parametrize("step_bytes", [1, 1000, STEP_BYTES])
def test_answers_that_arrive_together_are_each_whole(
    step_bytes: int,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sluice, "STEP_BYTES", step_bytes)
    monkeypatch.setattr(sluice, "TURNS", 2)
    texts = [f"{number} " for number in range(300)]
    whole = b"".join(OPENAI.chunked([*(sse(delta(text)) for text in texts), sse("[DONE]")]))

    async def all_together() -> None:
        async with Upstream(answering(whole)) as upstream, open_session() as http, asyncio.timeout(PATIENCE):

            async def one(stops: int) -> str:
                answer = OPENAI.ask(upstream.url, http=http)
                assert isinstance(answer, PartStream)
                return text_of(await poured(answer, stops=stops))

            answers = await asyncio.gather(*(one(number % 4) for number in range(40)))
        assert answers == ["".join(texts)] * 40

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(all_together())


@BOTH_LOOPS
@pytest.mark.parametrize("step_bytes", [1, STEP_BYTES])
def test_an_answer_over_tls_is_whole_though_its_connection_ends_with_it(
    step_bytes: int,
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has no end of its own: nobody would notice if the rest was missing."""
    monkeypatch.setattr(sluice, "STEP_BYTES", step_bytes)
    text = "".join(f"{number:07} " for number in range(20_000))

    all_sent = threading.Event()

    def answer_and_close(listener: socket.socket, loop: asyncio.AbstractEventLoop) -> None:
        tls = tls_without_certificates(ssl.PROTOCOL_TLS_SERVER)
        accepted, _ = listener.accept()
        accepted.settimeout(PATIENCE)
        accepted.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1024 * 1024)
        with tls.wrap_socket(accepted, server_side=True) as connection:
            connection.recv(65536)
            loop.call_soon_threadsafe(
                all_sent.wait, PATIENCE
            )  # it was busy, and then finds all of it at once
            connection.sendall(ACYTOO.head(connection="close") + text.encode())
            connection.shutdown(socket.SHUT_WR)  # of the connection: TLS is told nothing
            all_sent.set()
            while connection.recv(65536):
                pass

    async def both_sides() -> str:
        connector = GatedConnector(ssl=tls_without_certificates(ssl.PROTOCOL_TLS_CLIENT))
        with socket.create_server(("127.0.0.1", 0)) as listener:
            service = asyncio.create_task(
                asyncio.to_thread(answer_and_close, listener, asyncio.get_running_loop())
            )
            async with aiohttp.ClientSession(connector=connector) as http, asyncio.timeout(PATIENCE):
                url = f"https://127.0.0.1:{listener.getsockname()[1]}"
                answer = ACYTOO.ask(url, http=http)
                assert isinstance(answer, PartStream)
                taken = text_of(await poured(answer))
            await service
        return taken

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        assert runner.run(both_sides()) == text
