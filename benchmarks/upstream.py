"""An OpenAI-compatible service that is not the bottleneck: a bare protocol on uvloop, bodies made beforehand.

It prints its base URL and serves until it is terminated. What it answers says the prompt, see `benchmarks.plan`:

- fast: all chunks in one write, each an HTTP chunk of its own, as a service that flushes each of them sends them;
- paced: the first chunk with the response's head, then one write for each, its text the clock at that write;
- gated: not before the gate is opened, and then paced ones evenly spread from their first chunk on.

``GET /figures`` tells what it sent since the last time it was asked, ``GET /held`` how many calls wait at the gate;
``GET /open`` opens it, ``GET /shut`` shuts it again.
"""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from benchmarks.plan import Plan, stamped

_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)
_DELTA = b'data: {"choices":[{"index":0,"delta":{"content":"%b"}}]}\n\n'
_FINISH = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
_DONE = b"data: [DONE]\n\n"
_GOLDEN = (5**0.5 - 1) / 2
_TICK = 0.001  # seconds: libuv's timers know no shorter time


def http_chunk(data: bytes) -> bytes:
    """Return ``data`` as one chunk of a chunked body; without data, the last one."""
    return b"%x\r\n%b\r\n" % (len(data), data)


END = http_chunk(_FINISH) + http_chunk(_DONE) + http_chunk(b"")


@lru_cache
def fast_answer(plan: Plan) -> bytes:
    """Return the whole response of a fast plan."""
    texts = (plan.fast_text(seq).encode() for seq in range(plan.chunks))
    return _HEAD + b"".join(http_chunk(_DELTA % text) for text in texts) + END


class Figures:
    """What was sent. Times are those of the monotonic clock, in ns; 0 if nothing was."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self.calls = self.chunks = self.cut = self.running = 0
        self.first_at = self.last_at = 0

    def add(self, chunks: int, now_ns: int) -> None:
        self.chunks += chunks
        self.first_at = self.first_at or now_ns
        self.last_at = now_ns

    def take(self) -> bytes:
        """Return them as JSON, and begin anew."""
        said = json.dumps(vars(self)).encode()
        running = self.running
        self.clear()
        self.running = running
        return said


class PacedAnswer:
    """One answer under way."""

    __slots__ = ("_figures", "_plan", "_sent", "_transport")

    def __init__(self, plan: Plan, transport: asyncio.WriteTransport, figures: Figures) -> None:
        self._plan, self._transport, self._figures = plan, transport, figures
        self._sent = 0
        figures.running += 1

    def write_next(self) -> bool:
        """Write one chunk; return whether there is another one."""
        if self._transport.is_closing():
            self._figures.cut += 1
            self._figures.running -= 1
            return False
        now_ns = time.monotonic_ns()
        data = http_chunk(_DELTA % stamped(now_ns, self._sent))
        self._sent += 1
        is_last = self._sent == self._plan.chunks
        self._transport.write((_HEAD if self._sent == 1 else b"") + data + (END if is_last else b""))
        self._figures.add(1, now_ns)
        self._figures.running -= is_last
        return not is_last


class Wheel:
    """All answers of one rate: each has a place on the wheel, so that they are spread evenly over a turn."""

    def __init__(self, rate: float) -> None:
        places = max(1, round(1 / rate / _TICK))
        self._step = 1 / rate / places
        self._places: list[list[PacedAnswer]] = [[] for _ in range(places)]
        self._loop = asyncio.get_running_loop()
        self._place = 0.0  # of the answer that was added last, as a share of a turn
        self._now = 0  # how many places have had their turn
        self._next_at = 0.0
        self._is_turning = False

    def add(self, answer: PacedAnswer) -> None:
        """Let a chunk be written whenever its place has its turn."""
        # A step of the golden section, again and again, leaves no place far from its even share, at any number.
        self._place = (self._place + _GOLDEN) % 1.0
        self._places[int(self._place * len(self._places))].append(answer)
        if not self._is_turning:
            self._is_turning = True
            self._next_at = time.monotonic() + self._step
            self._loop.call_later(_TICK, self._turn)

    def _turn(self) -> None:
        while self._next_at <= time.monotonic():
            place = self._now % len(self._places)
            self._places[place] = [answer for answer in self._places[place] if answer.write_next()]
            self._now += 1
            self._next_at += self._step
        self._is_turning = any(self._places)
        if self._is_turning:
            # Not at the instant itself: uvloop would round a wait below half a millisecond down to none, and spin.
            self._loop.call_later(_TICK, self._turn)


class Service:
    """What all connections share."""

    def __init__(self) -> None:
        self.figures = Figures()
        self._wheels: dict[float, Wheel] = {}
        self._held: list[Callable[[], None]] = []
        self._is_open = False

    def begin(self, plan: Plan, transport: asyncio.WriteTransport) -> None:
        """Answer a call, now or when the gate opens."""
        self.figures.calls += 1
        if plan.gated and not self._is_open:
            self._held.append(lambda: self._answer(plan, transport))
        else:
            self._answer(plan, transport)

    def told(self, path: bytes) -> bytes:
        """Answer a question of whoever measures."""
        if path == b"/figures":
            return self.figures.take()
        waiting = len(self._held)
        if path in (b"/open", b"/shut"):
            self._is_open = path == b"/open"
        if self._is_open:
            held, self._held = self._held, []
            for answer in held:
                answer()
        return b"%d" % waiting

    def _answer(self, plan: Plan, transport: asyncio.WriteTransport) -> None:
        if plan.rate:
            wheel = self._wheels.get(plan.rate) or self._wheels.setdefault(plan.rate, Wheel(plan.rate))
            answer = PacedAnswer(plan, transport, self.figures)
            # Behind a gate many begin together: their first chunks are spread as well.
            if plan.gated or answer.write_next():
                wheel.add(answer)
        else:
            self.figures.add(plan.chunks, time.monotonic_ns())
            transport.write(fast_answer(plan))


class Connection(asyncio.Protocol):
    """One keep-alive connection: a request, its answer, the next request."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._data = b""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._data += data
        while (end := self._data.find(b"\r\n\r\n")) >= 0:
            head, rest = self._data[:end], self._data[end + 4 :]
            length = _content_length(head)
            if len(rest) < length:
                return
            self._data = rest[length:]
            self._serve(head, rest[:length])

    def _serve(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"POST "):
            self._service.begin(Plan.read(json.loads(body)), self._transport)
        else:
            told = self._service.told(head.split(b" ", 2)[1])
            kind = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            self._transport.write(kind % len(told) + told)


def _content_length(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def serve() -> None:
    loop, service, stop = asyncio.get_running_loop(), Service(), asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    server = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}/v1", flush=True)
    await stop.wait()
    server.close()


def main() -> None:
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve())


if __name__ == "__main__":
    main()
