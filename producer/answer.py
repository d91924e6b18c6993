"""From events to an answer: the text that stands, as a stream or as a whole."""

from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from producer.errors import AnswerRestarted, CorruptLog, JobCancelled, JobFailed
from producer.status import Status
from producer.subscription import Subscription
from producer.wire.events import Cancelled, Chunk, Done, Event, Failed, Reasoning, Started, ToolCall
from producer.wire.job import Job


@dataclass(frozen=True, slots=True)
class Result:
    """A whole answer. Times are UTC; they are None where the job's record was gone already."""

    job_id: str
    text: str
    finish_reason: str
    usage: Mapping[str, Any] | None
    attempts: int
    reasoning: str = ""
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    created_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None


@dataclass(slots=True)
class Answer:
    """What stands of a job's answer, folded from its events."""

    pieces: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    tool_calls: list[Mapping[str, Any]] = field(default_factory=list)
    attempts: int = 0
    end: Event | None = None

    @property
    def text(self) -> str:
        """The text that stands."""
        return "".join(self.pieces)

    def add(self, events: Iterable[Event]) -> None:
        """Take in further events, in their order."""
        for event in events:
            match event:
                case Chunk(text=text):
                    self.pieces.append(text)
                case Reasoning(text=text):
                    self.reasoning.append(text)
                case ToolCall(call=call):
                    self.tool_calls.append(call)
                case Started(number=number, keeps=keeps):
                    self.attempts = number
                    self.pieces = [self.text[:keeps]] if keeps else []
                    self.reasoning, self.tool_calls = [], []
            if event.terminal:
                self.end = event

    def result(self, job_id: str, status: Status) -> Result:
        """Return the whole answer.

        Raises:
            JobFailed: the job failed.
            JobCancelled: the job was cancelled.
            CorruptLog: the log misses a part of the answer.
        """
        done = check_done(job_id, self.end, self.text)
        _check_whole(job_id, done, len(self.text))
        return Result(
            job_id=job_id,
            text=self.text,
            finish_reason=done.finish_reason,
            usage=done.usage,
            attempts=self.attempts,
            reasoning="".join(self.reasoning),
            tool_calls=tuple(self.tool_calls),
            created_at=status.created_at,
            started_at=status.started_at,
            finished_at=status.finished_at,
        )


def check_done(job_id: str, end: Event | None, text: str = "") -> Done:
    """Return the terminal event if it is a `Done`.

    Raises:
        JobFailed: the job failed.
        JobCancelled: the job was cancelled.
    """
    match end:
        case Done():
            return end
        case Failed(code=code, message=message, attempts=attempts):
            raise JobFailed(job_id, code, message, attempts, text)
        case Cancelled(reason=reason):
            raise JobCancelled(job_id, reason, text)
    raise AssertionError("asked before the terminal event")


def _check_whole(job_id: str, done: Done, chars: int) -> None:
    if chars != done.chars:
        have = f"{chars} of the {done.chars} characters of its answer"
        raise CorruptLog(f"the log of job {job_id!r} has {have}: a server lost the others")


_SOME = 2**62
"""More characters than any answer has: stands for a number that is not known, and not 0."""


class TextStream:
    """The text of an answer as it arrives; iterate over it.

    What an earlier attempt wrote, and a later one replaced, is skipped where it was not handed out yet. Where it
    was, ``on_restart`` is called with the number of characters that still stand, or `AnswerRestarted` is raised.

    Raises, while iterating: what `Subscription` and ``Producer.enqueue`` raise, and
        JobFailed, JobCancelled: the job ended without a whole answer.
        AnswerRestarted: see above.
        CorruptLog: the log misses a part of the answer.
    """

    def __init__(
        self,
        begin: Callable[[], Awaitable[Subscription]],
        on_restart: Callable[[int], object] | None = None,
        job: Job | None = None,
        *,
        goes_on: bool = False,
    ) -> None:
        """``goes_on``: text was handed out before, so that whatever begins anew is a restart."""
        self.job = job
        """The job that was enqueued for this stream; None where it reads another one's."""
        self.end: Event | None = None
        """The terminal event, once it was read."""
        self._begin = begin
        self._on_restart = on_restart
        self._subscription: Subscription | None = None
        self._handed_out = self._stands = _SOME if goes_on else 0
        self._unsettled: list[str] = []
        self._pieces: deque[str] = deque()
        self._is_over = False
        self._is_left = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        if not self._pieces:
            await self._make_ready()
            if not self._pieces:
                raise StopAsyncIteration
        piece = self._pieces.popleft()
        self._handed_out += len(piece)
        self._stands = self._handed_out
        return piece

    async def read(self) -> Sequence[str]:
        """Return all pieces of text that are ready, at least one; none once the job is done, or the stream left."""
        await self._make_ready()
        pieces = tuple(self._pieces)
        self._pieces.clear()
        self._handed_out += sum(map(len, pieces))
        self._stands = self._handed_out
        return pieces

    async def aclose(self) -> None:
        """Leave; the job goes on. A stream that was left before it began enqueues nothing."""
        self._is_left = True
        if self._subscription is not None:
            await self._subscription.aclose()

    async def _make_ready(self) -> None:
        if self._subscription is None and not self._is_left:
            self._subscription = await self._begin()
        if self._subscription is None:
            return
        if self._is_left:  # maybe while it began
            await self._subscription.aclose()
        while not self._pieces and not self._is_over:
            await self._read(self._subscription)
        if not self._pieces and self.end is not None:  # otherwise somebody has left, maybe while this waited
            done = check_done(self._subscription.job_id, self.end)
            if self._handed_out < _SOME:  # otherwise how many there were is not known
                _check_whole(self._subscription.job_id, done, self._handed_out)

    async def _read(self, subscription: Subscription) -> None:
        """Read until nothing more is known to stand in the log, so that what is superseded is seen to be.

        What was read is kept on the way: the caller may cancel a step and take the next one.
        """
        while True:
            events = await subscription.read()
            for event in events:
                if isinstance(event, Chunk):
                    self._unsettled.append(event.text)
                elif isinstance(event, Started):
                    self._stands, self._unsettled = _cut_back(self._stands, self._unsettled, event.keeps)
            self.end = subscription.end
            self._is_over = self.end is not None or not events
            if self._is_over or not subscription.behind:
                break
        self._pieces.extend(filter(None, self._unsettled))
        self._unsettled = []
        if self._stands < self._handed_out:
            self._restart(self._stands, subscription.job_id)

    def _restart(self, keeps: int, job_id: str) -> None:
        self._handed_out = keeps
        if self._on_restart is None:
            raise AnswerRestarted(job_id, keeps)
        self._on_restart(keeps)


def _cut_back(stands: int, pieces: list[str], keeps: int) -> tuple[int, list[str]]:
    """Keep the first ``keeps`` characters of what was handed out and of the pieces after it."""
    if keeps and stands >= _SOME:
        return stands, pieces  # how many they are is not known; a worker that goes on keeps all that stands
    if keeps <= stands:
        return keeps, []
    return stands, ["".join(pieces)[: keeps - stands]]
