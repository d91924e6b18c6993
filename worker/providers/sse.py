"""Server-sent events, decoded from bytes that may be split anywhere. No I/O.

A fast answer comes as reads that hold hundreds of whole events, each a single line of data. Line by line, such an
event costs some 4 us, which is more than to parse its JSON; so where the bytes between the first blank line of a read
and its last have that plain form, they are split in one go. Everything else is read line by line, and gives the same.
"""

import codecs
import re
from collections.abc import Iterator
from dataclasses import dataclass

from worker.providers.errors import Broken

MAX_EVENT_BYTES = 4 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BOM = codecs.BOM_UTF8


@dataclass(slots=True)  # not frozen: that would double what making one costs, and there is one per chunk
class ServerSentEvent:
    """One dispatched event; ``id`` and ``retry`` are left out, as nobody reconnects to a chat answer."""

    data: str
    event: str = ""


class EventStreamParser:
    """Feed it bytes as they come, take the events as they complete.

    Follows the WHATWG rules: lines end with LF, CRLF or CR; a leading BOM is skipped; comments are ignored;
    several ``data`` lines make one event; an event is dispatched by the blank line after it.
    """

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()  # the start of a line whose end has not come yet
        self._data: list[str] = []
        self._event = ""
        self._size = 0  # bytes held for the event that is being read
        self._skip_lf = False  # the last byte was CR: an LF right after it belongs to that line end
        self._at_start = True

    def feed(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Yield the events that ``data`` completes.

        Raises:
            Broken: an event is larger than the limit.
        """
        newline = b"\r\n" if b"\r\n" in data else b"\n"
        blank = 2 * newline
        # Whatever is held, a blank line ends it, and behind it events begin anew.
        begin = data.find(blank) + len(blank) if self._is_amid() else 0
        end = data.rfind(blank) + len(blank)
        events = self._plain_events(data[begin:end], newline)
        if not events:
            begin = end = len(data)
        yield from self._feed_lines(data[:begin])
        yield from events
        yield from self._feed_lines(data[end:])

    def unfinished(self) -> str:
        """Return the data of an event whose blank line never came.

        The standard throws it away at EOF; a reader that looks for an end mark may want to see it,
        because services forget that last blank line.
        """
        tail = list(self._data)
        name, value = _field(bytes(self._line))
        if name == "data":
            tail.append(value)
        return "\n".join(tail)

    def _is_amid(self) -> bool:
        """Whether what comes next may be anything but the first byte of an event's first line."""
        return self._size > 0 or self._skip_lf or self._at_start

    def _plain_events(self, data: bytes, newline: bytes) -> list[ServerSentEvent]:
        """Return the events of ``data`` if it is nothing but whole ones, each a single line of data; else none."""
        blank = 2 * newline
        if not (data.startswith(b"data:") and data.endswith(blank)) or len(data) > self._max_event_bytes:
            return []
        pieces = data[5 : -len(blank)].decode("utf-8", errors="replace").split((blank + b"data:").decode())
        line_ends = 2 * len(pieces)
        if data.count(b"\n") != line_ends or data.count(b"\r") != (line_ends if len(newline) == 2 else 0):
            return []
        return [ServerSentEvent(piece.removeprefix(" ")) for piece in pieces]

    def _feed_lines(self, data: bytes) -> Iterator[ServerSentEvent]:
        if not data:
            return
        if self._skip_lf:
            data = data.removeprefix(b"\n")
        *ended, rest = _LINE_END.split(data)
        for piece in ended:
            self._hold(piece)
            if (event := self._end_line()) is not None:
                yield event
        self._hold(rest)
        self._skip_lf = data.endswith(b"\r")

    def _hold(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._max_event_bytes:
            raise Broken(f"an event of the stream is larger than {self._max_event_bytes} bytes")
        self._line += piece

    def _end_line(self) -> ServerSentEvent | None:
        line = bytes(self._line)
        self._line.clear()
        if self._at_start:
            line = line.removeprefix(_BOM)
            self._at_start = False
        if not line:
            return self._dispatch()
        name, value = _field(line)
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        else:  # a comment or a field that nobody reads takes no room in the event
            self._size -= len(line)
        return None

    def _dispatch(self) -> ServerSentEvent | None:
        event = ServerSentEvent("\n".join(self._data), self._event) if self._data else None
        self._data, self._event, self._size = [], "", 0
        return event


def _field(line: bytes) -> tuple[str, str]:
    # A line is decoded whole, so a character split between two reads is whole again here.
    name, _, value = line.decode("utf-8", errors="replace").partition(":")
    return name, value.removeprefix(" ")


def text_decoder() -> codecs.IncrementalDecoder:
    """Return a UTF-8 decoder that keeps a split character until its other bytes come.

    ``decode(data)`` gives the text that is complete, ``decode(b"", final=True)`` what is left at the end;
    bytes that are no UTF-8 become U+FFFD.
    """
    return codecs.getincrementaldecoder("utf-8")(errors="replace")
