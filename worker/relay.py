"""A provider's parts become the events of an attempt."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any, Self

from producer.wire import events
from producer.wire.events import MAX_TEXT_CHARS
from worker.attempt import Attempt
from worker.event_log import EventLog
from worker.outcome import Answered
from worker.providers import base
from worker.providers.errors import TimedOut
from worker.providers.flow import Take
from worker.providers.part_stream import PartStream
from worker.providers.registry import Timeouts

_CANCEL_AGAIN = 0.3  # seconds after which a task that did not heed its cancel is cancelled again
_SHORTEST_LOOK = 0.05  # seconds between two looks at the time: a limit may be passed by as much


async def relay(
    parts: AsyncIterator[base.Part], attempt: Attempt, log: EventLog, timeouts: Timeouts
) -> Answered:
    """Append every part of the answer to the log; return how it ended. The provider is closed on every path.

    Raises:
        ProviderError: the provider failed, or took too long.
        LeaseLost: the job has another owner.
    """
    answer = _Answer(attempt, log)
    iterator = aiter(parts)  # once: it may be a new one each time
    try:
        with _Clock(timeouts) as clock:
            intake = _Intake(answer, clock, attempt, log)
            while not await _poured(iterator, intake.take):
                await intake.make_room()
    finally:
        try:
            await _close(iterator)
        finally:
            if parts is not iterator:
                await _close(parts)
    return answer.end()


async def _poured(iterator: AsyncIterator[base.Part], take: Take) -> bool:
    """Hand over the parts as they come; return whether that was all, or ``take`` could take no more at once."""
    if isinstance(iterator, PartStream):
        return await iterator.pour(take)
    while True:  # not ``async for``, which would want an iterator of the iterator
        try:
            part = await anext(iterator)
        except StopAsyncIteration:
            return True
        if not take([part]):
            return False


class _Intake:
    """Where the parts go, as long as there is room for them."""

    def __init__(self, answer: "_Answer", clock: "_Clock", attempt: Attempt, log: EventLog) -> None:
        self._answer = answer
        self._clock = clock
        self._attempt = attempt
        self._log = log
        self._error: Exception | None = None

    def take(self, parts: list[base.Part]) -> bool:
        """Take the parts; return whether there is room for more. Whatever goes wrong here is not the provider's."""
        if self._error is not None:
            return False
        try:
            self._answer.add(parts)
            self._clock.expect_next()
        except Exception as error:  # noqa: BLE001 - `make_room` raises it
            self._error = error
            return False
        return not self._log.is_full(self._attempt)

    async def make_room(self) -> None:
        """Wait until there is room again.

        Raises:
            Exception: what kept the parts from being taken.
        """
        if self._error is not None:
            raise self._error
        with self._clock.stopped():  # it is Redis that we wait for, not the provider
            await self._log.flush(self._attempt)


class _Clock:
    """The limits on an answer: until its first chunk, between chunks, in all. Inside, the task is in time.

    A chunk only moves an instant along; the one timer looks at it when it rings, and is set again where there is time
    left. Setting it anew for each chunk would cost more than the chunk does. A task that swallows the cancel is
    cancelled again until it leaves.

    Raises, on leaving:
        TimedOut: time was up.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._between_chunks = timeouts.between_chunks
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._end = now + timeouts.total
        self._due = min(now + timeouts.first_chunk, self._end)
        self._started = False
        self._timer: asyncio.TimerHandle | None = None
        self._times_rung = 0

    def __enter__(self) -> Self:
        task = asyncio.current_task(self._loop)
        assert task is not None, "a coroutine runs in a task"
        self._task = task
        self._cancelled_by_others = task.cancelling()
        self._set()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._unset()
        for _cancel in range(self._times_rung):
            left = self._task.uncancel()
        # Whoever else cancelled the task meanwhile is to be heard. An answer that ends without a word when its time
        # is up, because its provider swallowed the cancel, is cut.
        if self._times_rung and left <= self._cancelled_by_others and kind in (asyncio.CancelledError, None):
            raise TimedOut(self._what_took_too_long())

    def expect_next(self) -> None:
        """Note that something came, and begin to wait for what comes next.

        Raises:
            TimedOut: time was up, and the task did not heed it.
        """
        if self._times_rung:
            raise TimedOut(self._what_took_too_long())
        self._started = True
        self._due = min(self._loop.time() + self._between_chunks, self._end)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """While inside, no time passes."""
        since = self._loop.time()
        self._unset()
        yield
        stood_for = self._loop.time() - since
        self._end += stood_for
        self._due += stood_for
        self._set()

    def _set(self) -> None:
        # No later than it may have to: whatever comes before then moves the instant, and not the timer. A job may name
        # a gap of no length: looking as often would leave the loop no rest until the first chunk.
        soonest = min(self._due, self._loop.time() + max(self._between_chunks, _SHORTEST_LOOK))
        self._timer = self._loop.call_at(soonest, self._ring)

    def _unset(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _ring(self) -> None:
        if self._loop.time() < self._due:
            self._set()
            return
        self._times_rung += 1
        self._task.cancel()
        self._timer = self._loop.call_later(_CANCEL_AGAIN, self._ring)

    def _what_took_too_long(self) -> str:
        if self._loop.time() >= self._end:
            return f"the answer was not whole within {self._timeouts.total:g} s"
        if self._started:
            return f"no further chunk came within {self._timeouts.between_chunks:g} s"
        return f"no first chunk came within {self._timeouts.first_chunk:g} s"


class _Answer:
    """Turns parts into events, whose ids it takes from the attempt."""

    def __init__(self, attempt: Attempt, log: EventLog) -> None:
        self._attempt = attempt
        self._log = log
        self._text, self._reasoning = _Joiner(), _Joiner()
        self._chars = attempt.keeps
        self._finish_reason = "stop"
        self._usage: dict[str, Any] | None = None

    def add(self, parts: Sequence[base.Part]) -> None:
        for part in parts:
            # Nearly all are like this, and nothing about them is to be looked at.
            if (
                type(part) is str
                and part.isascii()
                and 0 < len(part) <= MAX_TEXT_CHARS
                and not self._text.half
            ):
                self._add_piece(part)
            else:
                self._add(part)

    def _add(self, part: base.Part) -> None:
        match part:
            case str():
                self._add_text(self._text.join(part))
            case base.Reasoning(text):
                self._add_reasoning(self._reasoning.join(text))
            case base.ToolCall(id_, name, arguments):
                call = {"id": _whole(id_), "name": _whole(name), "arguments": _whole(arguments)}
                self._append(events.ToolCall(self._attempt.next_id(), call))
            case base.Usage(input_tokens, output_tokens, other):
                self._usage = {"input_tokens": input_tokens, "output_tokens": output_tokens, **other}
                counted = (input_tokens, output_tokens, dict(other) or None)
                self._append(events.Usage(self._attempt.next_id(), *counted))
            case base.Finish(reason):
                self._finish_reason = _whole(reason)
            case _:
                raise TypeError(f"a provider yielded a {type(part).__name__}, which is no part of an answer")

    def end(self) -> Answered:
        if self._reasoning.half or self._text.half:
            self._add_reasoning(self._reasoning.rest())
            self._add_text(self._text.rest())
        return Answered(self._finish_reason, self._chars, self._usage)

    def _add_text(self, text: str) -> None:
        for piece in _pieces(text):
            self._add_piece(piece)

    def _add_piece(self, piece: str) -> None:
        self._log.append_chunk(self._attempt, piece)
        self._attempt.has_output = True
        self._chars += len(piece)

    def _add_reasoning(self, text: str) -> None:
        for piece in _pieces(text):
            self._append(events.Reasoning(self._attempt.next_id(), piece))

    def _append(self, event: events.Event) -> None:
        self._log.append(self._attempt, event)
        self._attempt.has_output |= not isinstance(event, events.Usage)


class _Joiner:
    """Joins surrogate pairs that a service split between two chunks (``\\ud83d`` here, ``\\ude00`` there)."""

    half = ""

    def join(self, text: str) -> str:
        if not self.half and (text.isascii() or _is_whole(text)):
            return text
        text = self.half + text
        self.half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return _whole(text[: len(text) - len(self.half)])

    def rest(self) -> str:
        """Half a pair that never found its other half is shown as U+FFFD."""
        half, self.half = self.half, ""
        return _whole(half)


def _is_whole(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _whole(text: str) -> str:
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _pieces(text: str) -> Sequence[str]:
    if len(text) <= MAX_TEXT_CHARS:
        return (text,) if text else ()
    return [text[start : start + MAX_TEXT_CHARS] for start in range(0, len(text), MAX_TEXT_CHARS)]


async def _close(parts: AsyncIterator[base.Part]) -> None:
    """Close ``parts`` if it can be closed: a class that is not ours may return a plain iterator."""
    if close := getattr(parts, "aclose", None):
        await close()
