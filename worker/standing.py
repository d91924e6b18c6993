"""What readers have been given already when a job is claimed again."""

from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from producer.connection import bounded
from producer.wire.events import Chunk, Event, Reasoning, Started, ToolCall, decode_frame
from producer.wire.keys import FRAME_FIELD, Keys

_PAGE = 128


@dataclass(slots=True)
class Standing:
    """What stands of the answer."""

    pieces: list[str] = field(default_factory=list)
    has_reasoning: bool = False
    has_calls: bool = False

    @property
    def text(self) -> str:
        """The text that readers have."""
        return "".join(self.pieces)

    @property
    def is_empty(self) -> bool:
        """Whether readers have been given nothing."""
        return not (self.pieces or self.has_reasoning or self.has_calls)

    @property
    def can_be_continued(self) -> bool:
        """Whether there is a text to go on from, and nothing that comes after it."""
        return bool(self.pieces) and not self.has_calls

    def add(self, event: Event) -> None:
        """Take in the next event of the log."""
        match event:
            case Started(keeps=keeps):
                self.pieces = [self.text[:keeps]] if keeps else []
                self.has_reasoning = self.has_calls = False
            case Chunk(text=text):
                self.pieces.append(text)
            case Reasoning():
                self.has_reasoning = True
            case ToolCall():
                self.has_calls = True


class StandingReader:
    """Reads it off the log."""

    def __init__(self, redis: Redis, keys: Keys, timeout: float) -> None:
        self._redis = redis
        self._keys = keys
        self._timeout = timeout

    async def read(self, job_id: str) -> Standing:
        """Return what stands of the job's answer.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached.
            WireError: the log holds what nobody can read.
        """
        standing, cursor = Standing(), "-"
        while True:
            async with bounded(self._timeout):
                page: Any = await self._redis.xrange(self._keys.log(job_id), min=cursor, count=_PAGE)
            for entry_id, fields in page:
                for event in decode_frame(fields[FRAME_FIELD.encode()]).events:
                    standing.add(event)
                cursor = f"({entry_id.decode()}"
            if len(page) < _PAGE:
                return standing
