"""What readers have been given already when a job is claimed again."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from producer.wire.codec import WireError
from producer.wire.events import Chunk, Event, EventId, Reasoning, Started, ToolCall
from producer.wire.frames import Frame, decode_frame
from producer.wire.keys import FRAME_FIELD, Keys
from worker import scripts
from worker.pending import Sender

_PAGE = 64
"""Frames in one reply: others wait behind it."""

_FRAME_FIELD = FRAME_FIELD.encode()
_Page = list[tuple[bytes, Sequence[bytes]]]


@dataclass(slots=True)
class Standing:
    """What stands of the answer."""

    pieces: list[str] = field(default_factory=list)
    has_reasoning: bool = False
    has_calls: bool = False
    has_hole: bool = False
    """A server lost a part of it, so that readers may have another text than the log."""

    @property
    def text(self) -> str:
        """The text that readers have."""
        return "".join(self.pieces)

    @property
    def is_empty(self) -> bool:
        """Whether readers have been given nothing."""
        return not (self.pieces or self.has_reasoning or self.has_calls or self.has_hole)

    @property
    def can_be_continued(self) -> bool:
        """Whether there is a text to go on from, and nothing that comes after it."""
        return bool(self.pieces) and not self.has_calls and not self.has_hole

    def add(self, event: Event) -> None:
        """Take in the next event of the log."""
        match event:
            case Started(keeps=keeps):
                self.pieces = [self.text[:keeps]] if keeps else []
                self.has_reasoning = self.has_calls = False
                self.has_hole = self.has_hole and keeps > 0
            case Chunk(text=text):
                self.pieces.append(text)
            case Reasoning():
                self.has_reasoning = True
            case ToolCall():
                self.has_calls = True


class StandingReader:
    """Reads it off the log."""

    def __init__(self, writer: Sender, keys: Keys) -> None:
        self._writer = writer
        self._keys = keys

    async def read(self, job_id: str) -> Standing:
        """Return what stands of the job's answer. While Redis is away, this waits for it.

        Raises:
            redis.exceptions.ResponseError: Redis refuses for good.
        """
        standing, cursor, seen = Standing(), b"0-0", EventId(0, 0)
        while True:
            call = scripts.READ_LOG.on([self._keys.log(job_id)], cursor, _PAGE)
            page: _Page = await self._writer.submit(call, remember=False)
            for _, fields in page:
                if (frame := _frame_in(fields)) is None:
                    continue
                standing.has_hole = standing.has_hole or not frame.follows(seen)
                seen = frame.last
                for event in frame.events:
                    standing.add(event)
            if len(page) < _PAGE:
                return standing
            cursor, _ = page[-1]


def _frame_in(fields: Sequence[bytes]) -> Frame | None:
    """Return the entry's frame; None where nobody can read it, so that no reader has got anything by it."""
    try:
        return decode_frame(dict(zip(fields[::2], fields[1::2], strict=True)).get(_FRAME_FIELD, b""))
    except WireError:
        return None
