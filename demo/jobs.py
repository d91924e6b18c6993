"""The jobs: all enqueued together, each one followed to its end."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from demo.questions import Question
from producer import (
    Cancelled,
    ChatRelayError,
    Chunk,
    Done,
    Event,
    Failed,
    Producer,
    Reasoning,
    Started,
)


@dataclass(slots=True)
class Track:
    """What has been seen of one job. Times are seconds since it was enqueued."""

    question: Question
    asked_at: float = 0.0
    text: str = ""
    reasoning: str = ""
    chunks: int = 0
    worker: str = ""
    first_chunk: float | None = None
    total: float | None = None
    trouble: str | None = None

    def see(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case Started(worker=worker, keeps=keeps):
                self.worker = worker
                self.text, self.reasoning, self.chunks = self.text[:keeps], "", 0
            case Chunk(text=text):
                self.text += text
                self.chunks += 1
                self.first_chunk = self.first_chunk or self.age()
            case Reasoning(text=text):
                self.reasoning += text
            case Failed(code=code, message=message):
                self.trouble = f"failed ({code}): {message}"
            case Cancelled(reason=reason):
                self.trouble = f"was cancelled: {reason}"
            case Done():
                self.total = self.age()

    def age(self) -> float:
        """Seconds since the job was enqueued."""
        return time.monotonic() - self.asked_at


Observer = Callable[[Track, Event], None]


async def ask_all(producer: Producer, tracks: Sequence[Track], observe: Observer) -> None:
    """Enqueue a job for every track, all together, and follow them to their ends."""
    await asyncio.gather(*(_ask(producer, track, observe) for track in tracks))


async def _ask(producer: Producer, track: Track, observe: Observer) -> None:
    question = track.question
    track.asked_at = time.monotonic()
    try:
        job = await producer.enqueue(question.text, provider=question.provider, model=question.model)
        async for event in producer.subscribe(job.id):
            track.see(event)
            observe(track, event)
    except ChatRelayError as error:
        track.trouble = str(error)
