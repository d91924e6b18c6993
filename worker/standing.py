"""What readers have been given already when a job is claimed again."""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from producer.connection import bounded
from producer.wire.codec import WireError
from producer.wire.events import Chunk, Event, Reasoning, Started, ToolCall
from producer.wire.frames import decode_frame
from producer.wire.keys import FRAME_FIELD, Keys
from worker.refusals import is_refusal

logger = structlog.get_logger("chatrelay.standing")

_PAGE = 128
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0  # seconds


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
        """Return what stands of the job's answer. While Redis is away, this waits for it.

        Raises:
            redis.exceptions.ResponseError: Redis refuses for good.
        """
        standing, cursor = Standing(), "-"
        while True:
            page = await self._page(job_id, cursor)
            for entry_id, fields in page:
                for event in _events_in(fields):
                    standing.add(event)
                cursor = f"({entry_id.decode()}"
            if len(page) < _PAGE:
                return standing

    async def _page(self, job_id: str, cursor: str) -> Any:
        pause = _FIRST_PAUSE
        while True:
            try:
                async with bounded(self._timeout):
                    return await self._redis.xrange(self._keys.log(job_id), min=cursor, count=_PAGE)
            except (RedisError, OSError) as error:
                if is_refusal(error):
                    raise
                logger.warning("an answer's log cannot be read, trying again", job=job_id, error=str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, _LONGEST_PAUSE)


def _events_in(fields: dict[bytes, bytes]) -> Sequence[Event]:
    """Return the entry's events; none where nobody can read it, so that no reader has got anything by it."""
    try:
        return decode_frame(fields.get(FRAME_FIELD.encode(), b"")).events
    except WireError:
        return ()
