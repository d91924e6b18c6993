"""What callers may pass, made into a job."""

import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal, TypedDict
from uuid import uuid4

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


def new_job(messages: Messages, fields: Mapping[str, Any]) -> tuple[Job, bytes]:
    """Return the job and its bytes.

    Raises:
        InvalidJob: a field is unknown or wrong, or the job too large; the message begins with the field.
    """
    unknown = fields.keys() - JobFields.__annotations__.keys()
    if unknown:
        raise InvalidJob(f"{min(unknown)}: no such field")
    now_ms = time.time_ns() // 1_000_000
    given = {name: value for name, value in fields.items() if value is not None}
    body = {
        "id": uuid4().hex,
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
        if isinstance(given.get(name), Mapping):
            body[name] = dict(given[name])
    try:
        job = Job.model_validate(body)
        return job, job.encode()
    except ValidationError as error:
        raise InvalidJob(explain(error)) from error
    except WireError as error:
        raise InvalidJob(str(error)) from error


def _messages(messages: Messages) -> list[Any]:
    if isinstance(messages, str):
        return [{"role": "user", "content": messages}]
    if isinstance(messages, (bytes, Mapping)) or not isinstance(messages, Sequence):
        raise InvalidJob(
            f"messages: text or a list of messages is expected, this is {type(messages).__name__}"
        )
    return list(messages)


def _deadline_ms(deadline: Any, now_ms: int) -> int:
    match deadline:
        case datetime():
            if deadline.tzinfo is None:
                raise InvalidJob("deadline: a datetime without a time zone is not an instant; add tzinfo")
            return int(deadline.timestamp() * 1000)
        case timedelta():
            return now_ms + int(deadline.total_seconds() * 1000)
        case bool():
            pass
        case int() | float():
            try:
                return now_ms + int(deadline * 1000)
            except (ValueError, OverflowError) as error:
                raise InvalidJob(f"deadline: {error}") from error
    raise InvalidJob("deadline: seconds from now, a timedelta or a datetime with a time zone is expected")
