"""Everything that a caller can catch.

    ChatRelayError
    ├── InvalidSetting    a URL, prefix or timeout given to the Producer   (also a ValueError)
    ├── InvalidJob        a field of the job; nothing was written          (also a ValueError)
    ├── InvalidCursor     `after` is not an event's id                     (also a ValueError)
    ├── QueueFull         the queue is at its bound; nothing was written
    ├── JobNotFound       no job of this id, or its retention is over      (also a LookupError)
    ├── JobFailed         the job ended without a whole answer
    ├── JobCancelled      the job was cancelled
    ├── AnswerRestarted   text handed out earlier no longer stands
    ├── ResultTimeout     the answer is not whole yet; the job goes on     (also a TimeoutError)
    ├── CorruptLog        the job's log holds bytes that break the contract
    └── Unavailable       Redis cannot be reached, or cannot serve         (also a ConnectionError)

None of them is a bare redis or pydantic error; where one of those is the cause, it is chained.
"""

from typing import Any


class ChatRelayError(Exception):
    """The root: catch this to catch them all."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception is made again of its text, for which most of these have no place; and a process pool whose worker
        # raises what cannot be made again waits for ever, or breaks.
        return _made_again, (type(self), self.args, self.__dict__)


def _made_again(
    cls: type[ChatRelayError], args: tuple[Any, ...], attributes: dict[str, Any]
) -> ChatRelayError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(attributes)
    return error


class InvalidSetting(ChatRelayError, ValueError):
    """A setting of the Producer cannot be used."""


class InvalidJob(ChatRelayError, ValueError):
    """The job breaks a rule; the message begins with the field's name. Nothing was written."""


class InvalidCursor(ChatRelayError, ValueError):
    """A cursor must be an event's id: ``<attempt>-<seq>``."""


class QueueFull(ChatRelayError):
    """The queue is at ``max_queue_length``; nothing was written. Try again after ``retry_after`` seconds."""

    def __init__(self, queue: str, length: int, retry_after: float) -> None:
        super().__init__(
            f"queue {queue!r} is full: {length} jobs wait, run or are not due yet; try again in {retry_after:.1f} s, "
            "start more workers, or raise max_queue_length"
        )
        self.queue = queue
        self.length = length
        self.retry_after = retry_after


class JobNotFound(ChatRelayError, LookupError):
    """There is no job of this id: it never was, or it ended and its retention is over."""

    def __init__(self, job_id: str) -> None:
        super().__init__(
            f"job {job_id!r} is not known: the id is wrong, or it ended and its retention is over"
        )
        self.job_id = job_id


class JobFailed(ChatRelayError):
    """The job ended without a whole answer.

    Attributes:
        job_id: the job.
        code: what went wrong, for programs: ``unknown_provider``, ``rate_limited``, ``cut`` …
        message: what went wrong, for people.
        attempts: how often a provider was asked.
        text: the part of the answer that had arrived; empty from ``stream()``, which has handed it out.
    """

    def __init__(self, job_id: str, code: str, message: str, attempts: int, text: str = "") -> None:
        super().__init__(f"job {job_id!r} failed ({code}): {message}")
        self.job_id = job_id
        self.code = code
        self.message = message
        self.attempts = attempts
        self.text = text


class JobCancelled(ChatRelayError):
    """The job was cancelled; ``text`` is the part that had arrived, empty from ``stream()``, which handed it out."""

    def __init__(self, job_id: str, reason: str, text: str = "") -> None:
        super().__init__(f"job {job_id!r} was cancelled: {reason}")
        self.job_id = job_id
        self.reason = reason
        self.text = text


class AnswerRestarted(ChatRelayError):
    """A new attempt began and only the first ``keeps`` characters that were handed out still stand.

    Pass ``on_restart`` to be told instead, and go on reading.
    """

    def __init__(self, job_id: str, keeps: int) -> None:
        super().__init__(
            f"the answer of job {job_id!r} began again: only {keeps} of the characters handed out still stand; "
            "pass on_restart= to be told and go on"
        )
        self.job_id = job_id
        self.keeps = keeps


class ResultTimeout(ChatRelayError, TimeoutError):
    """The answer was not whole in time. The job goes on: ask again, subscribe, or cancel it."""


class CorruptLog(ChatRelayError):
    """The job's log holds bytes that break the contract: something else writes under this prefix."""


class Unavailable(ChatRelayError, ConnectionError):
    """Redis cannot be reached, or cannot serve; the message names it and says why.

    ``passing``: it may come back by itself; otherwise it refused, and would refuse again.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing
