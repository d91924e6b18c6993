"""A reader of many channels that costs little: it looks at the clock, and for stamps and ends in what is published.

It stands for the readers of 500 jobs, which would be 500 processes elsewhere; what they do with the frames is measured
by `benchmarks.readers`. It knows the protocol's bytes and nothing else, so it reads every way's messages alike.

Orders: ``channels`` to subscribe to, answered when the server has acknowledged them; ``ends`` to wait for, answered
when so many were seen; ``since``, ``last_sent_at``, ``handed``, answered with the figures, and all is forgotten.
"""

import argparse
import asyncio
import re
import time
from typing import Any
from urllib.parse import urlsplit

import hiredis

from benchmarks.delays import Delays
from benchmarks.orders import answer, orders, run
from benchmarks.plan import STAMP_DIGITS

_STAMP = re.compile(rb"@(\d{%d})\d{3}" % STAMP_DIGITS)
_END = re.compile(rb"\xa4type(\xa4done|\xa6failed|\xa9cancelled)")
_TAIL = 400  # bytes in which a frame's last event begins, if it is an end


class Tap(asyncio.Protocol):
    """One connection."""

    def __init__(self) -> None:
        self.delays = Delays()
        self.subscribed = 0
        self.changed = asyncio.Event()
        self._replies = hiredis.Reader()

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def subscribe(self, channels: list[str]) -> None:
        self._write("SUBSCRIBE", *channels)

    def forget(self) -> None:
        self.delays = Delays()
        self.subscribed = 0
        self._write("UNSUBSCRIBE")

    def _write(self, *words: str) -> None:
        self._transport.write(hiredis.pack_command(words))  # type: ignore[arg-type]  # its stub knows single words only

    def data_received(self, data: bytes) -> None:
        now = time.monotonic_ns()
        self._replies.feed(data)
        while (reply := self._replies.gets()) is not False:
            if reply[0] == b"message":
                self._message(reply[1].decode(), reply[2], now)
            elif reply[0] == b"subscribe":
                self.subscribed += 1
                self.changed.set()

    def _message(self, channel: str, frame: bytes, now: int) -> None:
        for stamp in _STAMP.findall(frame):
            self.delays.chunk(channel, int(stamp), now)
        if end := _END.search(frame[-_TAIL:]):
            self.delays.end(now, is_done=end[1] == b"\xa4done")
            self.changed.set()


async def serve(url: str) -> None:
    host, _, port = urlsplit(url).netloc.partition(":")
    tap = Tap()
    await asyncio.get_running_loop().create_connection(lambda: tap, host, int(port))
    answer(ready=True)
    async for order in orders():
        if "channels" in order:
            tap.subscribe(order["channels"])
            while tap.subscribed < len(order["channels"]):
                await _change(tap)
            answer(subscribed=tap.subscribed)
        elif "ends" in order:
            while tap.delays.ends < order["ends"]:
                await _change(tap)
            answer(failures=tap.delays.failures, last_end_at=tap.delays.last_end_at)
        else:
            answer(**tap.delays.report(**order))
            tap.forget()


async def _change(tap: Tap) -> None:
    tap.changed.clear()
    await tap.changed.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    run(serve(parser.parse_args().redis))
