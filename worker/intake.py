"""Takes a provider's parts in: they become the events of an attempt, and move its clock. No waiting."""

from collections.abc import Sequence
from typing import Any

from producer.wire import events
from producer.wire.events import MAX_TEXT_CHARS
from worker.attempt import Attempt
from worker.clock import Clock
from worker.event_log import EventLog
from worker.outcome import Answered
from worker.providers import base
from worker.providers.errors import Endless

MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""Characters of text and of reasoning in one answer. No model says so much; a service without end would fill Redis."""

_FIRST_HALVES = range(0xD800, 0xDC00)  # of surrogate pairs


class Intake:
    """Where the parts of an answer go, as long as there is room for them. ``clock``: the answer's."""

    __slots__ = ("_answer", "_attempt", "_clock", "_error", "_log")

    def __init__(self, attempt: Attempt, log: EventLog, clock: Clock) -> None:
        self._answer = _Answer(attempt, log)
        self._clock = clock
        self._attempt = attempt
        self._log = log
        self._error: Exception | None = None

    def take(self, parts: list[base.Part]) -> bool:
        """Take the parts; return whether there is room for more.

        Whatever goes wrong here is not the provider's: it waits for `check`.
        """
        if self._error is not None:
            return False
        try:
            self._answer.add(parts)
            self._clock.expect_next()
        except Exception as error:  # noqa: BLE001 - `check` raises it
            self._error = error
            return False
        return not self._log.is_full(self._attempt)

    def check(self) -> None:
        """Raise what kept the parts from being taken, if anything did."""
        if self._error is not None:
            raise self._error

    def end(self) -> Answered:
        """Return how the answer ended, once all of it was taken."""
        return self._answer.end()


class _Answer:
    """Turns parts into events, whose ids it takes from the attempt."""

    __slots__ = (
        "_attempt",
        "_chars",
        "_finish_reason",
        "_half",
        "_half_reasoning",
        "_log",
        "_reasoned",
        "_usage",
    )

    def __init__(self, attempt: Attempt, log: EventLog) -> None:
        self._attempt = attempt
        self._log = log
        self._half = self._half_reasoning = ""  # of a surrogate pair that was split
        self._chars = attempt.keeps
        self._reasoned = 0
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
        if self._chars > MAX_ANSWER_CHARS:
            raise Endless("the answer has no end")

    def _add_reasoning(self, text: str) -> None:
        for piece in _pieces(text):
            self._append(events.Reasoning(self._attempt.next_id(), piece))
            self._reasoned += len(piece)
        if self._reasoned > MAX_ANSWER_CHARS:
            raise Endless("the reasoning has no end")

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
    half = text[-1] if text and ord(text[-1]) in _FIRST_HALVES else ""
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
