"""What callers may pass, made into a job."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_hex
from typing import Any, Literal, TypedDict

from pydantic import ValidationError

from producer.errors import InvalidJob
from producer.wire.codec import WireError
from producer.wire.job import Job, explain

DEFAULT_QUEUE = "default"

Messages = str | Sequence[Mapping[str, Any]]
OnRetry = Literal["restart", "fail", "continue"]


class JobFields(TypedDict, total=False):
    """What a job may say besides its messages. Absent means: as the worker's provider is set up."""

    id: str | None
    """The caller's own id, which makes the call idempotent; without one, a random id is made."""
    queue: str
    provider: str | Sequence[str] | None
    model: str | None
    temperature: float | None
    options: Mapping[str, Any] | None
    timeouts: Mapping[str, float] | None
    """Seconds: ``connect``, ``first_chunk``, ``between_chunks``, ``total``."""
    deadline: float | timedelta | datetime | None
    """No provider is asked after this: seconds from now, a timedelta from now, or an instant with a time zone."""
    max_attempts: int | None
    on_retry: OnRetry | None
    metadata: Mapping[str, Any] | None
    trace: Mapping[str, str] | None
    delay: float | timedelta | None
    """No worker takes it before this has passed: seconds or a timedelta from now."""
    at: datetime | None
    """No worker takes it before this instant, which has a time zone; one that is past means now."""


_FIELDS = frozenset(JobFields.__annotations__)
_NOT_OF_THE_JOB = frozenset({"delay", "at"})
_LAST_INSTANT_MS = 253_402_300_799_999
"""The end of the year 9999: no datetime reaches further."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to enqueue: its bytes, and what is said of it that does not travel with it.

    ``own_id``: the caller chose the id, so others may know it. ``delay_ms`` counts from the enqueueing, ``at_ms`` is
    an instant; both by the server's clock, and 0 where the job is due at once.
    """

    job: Job
    body: bytes
    own_id: bool
    delay_ms: int = 0
    at_ms: int = 0

    @property
    def until_due_ms(self) -> int:
        """How long after its making it is due; 0 for at once."""
        return self.delay_ms or max(0, self.at_ms - self.job.created_at)


def new_job(messages: Messages, fields: Mapping[str, Any]) -> NewJob:
    """Return the job that is asked for.

    Raises:
        InvalidJob: a field is unknown or wrong, or the job too large; the message begins with the field.
    """
    if not _FIELDS.issuperset(fields):
        raise InvalidJob(f"{min(fields.keys() - _FIELDS)}: no such field")
    now_ms = time.time_ns() // 1_000_000
    given = {name: value for name, value in fields.items() if value is not None}
    of_the_job = {name: value for name, value in given.items() if name not in _NOT_OF_THE_JOB}
    job = _job(messages, of_the_job, now_ms)
    delay_ms, at_ms = _due(given, now_ms)
    return NewJob(job, _encoded(job), "id" in given, delay_ms, at_ms)


def _job(messages: Messages, given: Mapping[str, Any], now_ms: int) -> Job:
    body = {
        "id": token_hex(16),
        "queue": DEFAULT_QUEUE,
        "created_at": now_ms,
        **given,
        "messages": _messages(messages),
    }
    if "deadline" in given:
        body["deadline"] = _deadline_ms(given["deadline"], now_ms)
    if isinstance(given.get("provider"), (tuple, list)):
        body["provider"] = list(given["provider"])
    for name in ("options", "metadata", "trace", "timeouts"):
        if name in given and isinstance(given[name], Mapping):
            body[name] = dict(given[name])
    try:
        return Job.model_validate(body)
    except ValidationError as error:
        raise InvalidJob(explain(error)) from error


def _encoded(job: Job) -> bytes:
    try:
        return job.encode()
    except WireError as error:
        raise InvalidJob(str(error)) from error


def _messages(messages: Messages) -> list[Any]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if type(messages) is list:  # as it usually is: the abstract classes are slow to answer
        return messages.copy()
    if isinstance(messages, (bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidJob(
            f"messages: text or a list of messages is expected, this is {type(messages).__name__}"
        )
    return list(messages)


def _deadline_ms(deadline: Any, now_ms: int) -> int:
    if isinstance(deadline, datetime):
        return _instant_ms("deadline", deadline)
    span = _span_ms("deadline", deadline)
    if span is None:
        raise InvalidJob("deadline: seconds from now, a timedelta or a datetime with a time zone is expected")
    return now_ms + span


def _due(given: Mapping[str, Any], now_ms: int) -> tuple[int, int]:
    """Return the delay and the instant that are asked for, in ms; 0 for none."""
    if "delay" in given and "at" in given:
        raise InvalidJob("delay: it is given together with at; one of the two is enough")
    if "at" in given:
        if not isinstance(given["at"], datetime):
            raise InvalidJob("at: a datetime with a time zone is expected")
        return 0, max(0, _instant_ms("at", given["at"]))
    delay = _span_ms("delay", given.get("delay", 0))
    if delay is None:
        raise InvalidJob("delay: seconds or a timedelta is expected")
    if delay < 0:
        raise InvalidJob("delay: it is negative; a job that is due now has none")
    if now_ms + delay > _LAST_INSTANT_MS:
        raise InvalidJob("delay: it leads beyond the year 9999")
    return delay, 0


def _instant_ms(name: str, instant: datetime) -> int:
    if instant.tzinfo is None:
        raise InvalidJob(f"{name}: a datetime without a time zone is not an instant; add tzinfo")
    return int(instant.timestamp() * 1000)


def _span_ms(name: str, span: Any) -> int | None:
    """Return seconds or a timedelta in ms; None if it is neither."""
    if isinstance(span, timedelta):
        return int(span.total_seconds() * 1000)
    if isinstance(span, bool) or not isinstance(span, (int, float)):
        return None
    try:
        return int(span * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidJob(f"{name}: {error}") from error
