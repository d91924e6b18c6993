"""A provider's parts become the events of an attempt."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

from producer.wire import events
from producer.wire.events import MAX_TEXT_CHARS
from worker.attempt import Attempt
from worker.clock import Clock
from worker.event_log import EventLog
from worker.outcome import Answered
from worker.providers import base
from worker.providers.flow import Take
from worker.providers.part_stream import PartStream


async def relay(parts: AsyncIterator[base.Part], attempt: Attempt, log: EventLog, clock: Clock) -> Answered:
    """Append every part of the answer to the log; return how it ended. The provider is closed on every path.

    ``clock``: the answer's.

    Raises:
        ProviderError: the provider failed, or took too long.
        LeaseLost: the job has another owner.
    """
    answer = _Answer(attempt, log)
    iterator = aiter(parts)  # once: it may be a new one each time
    try:
        with clock:
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

    __slots__ = ("_answer", "_attempt", "_clock", "_error", "_log")

    def __init__(self, answer: "_Answer", clock: Clock, attempt: Attempt, log: EventLog) -> None:
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


class _Answer:
    """Turns parts into events, whose ids it takes from the attempt."""

    __slots__ = ("_attempt", "_chars", "_finish_reason", "_half", "_half_reasoning", "_log", "_usage")

    def __init__(self, attempt: Attempt, log: EventLog) -> None:
        self._attempt = attempt
        self._log = log
        self._half = self._half_reasoning = ""  # of a surrogate pair that was split
        self._chars = attempt.keeps
        self._finish_reason = "stop"
        self._usage: dict[str, Any] | None = None

    def add(self, parts: Sequence[base.Part]) -> None:
        for part in parts:
            # Nearly all are like this, and nothing about them is to be looked at.
            if type(part) is str and part.isascii() and 0 < len(part) <= MAX_TEXT_CHARS and not self._half:
                self._add_piece(part)
            else:
                self._add(part)

    def _add(self, part: base.Part) -> None:
        match part:
            case str():
                text, self._half = _joined(self._half, part)
                self._add_text(text)
            case base.Reasoning(text):
                text, self._half_reasoning = _joined(self._half_reasoning, text)
                self._add_reasoning(text)
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
        # Half a pair that never found its other half is shown as U+FFFD.
        self._add_reasoning(_whole(self._half_reasoning))
        self._add_text(_whole(self._half))
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


def _joined(half: str, text: str) -> tuple[str, str]:
    """Join surrogate pairs that a service split between two pieces (``\\ud83d`` here, ``\\ude00`` there).

    Return the text without the half that it ends with, and that half.
    """
    if not half and (text.isascii() or _is_whole(text)):
        return text, ""
    text = half + text
    half = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
    return _whole(text[: len(text) - len(half)]), half


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
