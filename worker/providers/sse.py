"""Server-sent events, decoded from bytes that may be split anywhere. No I/O.

A fast answer comes as reads that hold hundreds of whole events, each a single line of data. Line by line, such an
event costs four times as much as when all are split in one go, and more than to parse its JSON; so that is what is
done with the bytes between the first blank line of a read and its last, where they have that plain form. Everything
else is read line by line, and gives the same.
"""

import codecs
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from worker.providers.errors import Broken

MAX_EVENT_BYTES = 4 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\r|\n")
_BLANK, _BLANK_CRLF = b"\n\n", b"\r\n\r\n"
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

    __slots__ = ("_at_start", "_data", "_event", "_line", "_max_event_bytes", "_size", "_skip_lf")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_event_bytes = max_event_bytes
        self._line = bytearray()  # the start of a line whose end has not come yet
        self._data: list[str] = []
        self._event = ""
        self._size = 0  # bytes held for the event that is being read
        self._skip_lf = False  # the last byte was CR: an LF right after it belongs to that line end
        self._at_start = True

    def feed(self, data: bytes) -> Iterable[ServerSentEvent]:
        """Return the events that ``data`` completes, to be taken before the next call.

        Raises:
            Broken: an event is larger than the limit; raised behind the events before it.
        """
        if self._size == 0 and not self._skip_lf and (events := self._plain_events(data)):
            self._at_start = False  # and there was no BOM
            return events
        return self._feed_around(data)

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

    def _feed_around(self, data: bytes) -> Iterator[ServerSentEvent]:
        """Read what stands between the first blank line and the last in one go, where it is plain."""
        blank = _blank_in(data)
        # Whatever is held, a blank line ends it, and behind it events begin anew.
        begin = data.find(blank) + len(blank)
        end = data.rfind(blank) + len(blank)
        events = self._plain_events(data[begin:end]) if begin < end else []
        if not events:
            begin = end = len(data)
        yield from self._feed_lines(data[:begin])
        yield from events
        yield from self._feed_lines(data[end:])

    def _plain_events(self, data: bytes) -> list[ServerSentEvent]:
        """Return the events of ``data`` if it is nothing but whole ones, each a single line of data; else none."""
        blank = _blank_in(data)
        if not (data.startswith(b"data:") and data.endswith(blank)) or len(data) > self._max_event_bytes:
            return []
        ends = data.count(b"\n")
        if ends == 2 and b"\r" not in data:  # a single one, as a slow answer comes
            return [ServerSentEvent(data[5:-2].decode("utf-8", errors="replace").removeprefix(" "))]
        text = data[5 : -len(blank)].decode("utf-8", errors="replace")
        lines = text.split("\n\ndata:" if blank == _BLANK else "\r\n\r\ndata:")
        line_ends = 2 * len(lines)
        if ends != line_ends or data.count(b"\r") != (0 if blank == _BLANK else line_ends):
            return []
        return [ServerSentEvent(line.removeprefix(" ")) for line in lines]

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


def _blank_in(data: bytes) -> bytes:
    return _BLANK_CRLF if b"\r\n" in data else _BLANK


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
