"""A dead letter: a job that nobody will run again by itself, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from producer.wire.codec import WireError, pack, unpack_map

MAX_ERRORS = 10
"""How many of a job's last errors are kept."""

MAX_ERRORS_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class AttemptError:
    """How one attempt failed. ``at``: ms since 1970, ``provider``: the one that was asked, '' if none was."""

    at: int
    number: int
    provider: str
    code: str
    message: str

    def body(self) -> dict[str, Any]:
        """The error as a map."""
        return {name: getattr(self, name) for name in self.__slots__}


def pack_errors(errors: Sequence[AttemptError]) -> bytes:
    """Return the last errors as bytes."""
    return pack({"errors": _bodies(errors)})


def unpack_errors(data: bytes) -> tuple[AttemptError, ...]:
    """Read the errors; what cannot be read is none: a history is never worth losing a job for."""
    return _errors(_map(data))


def _map(data: bytes) -> Mapping[str, Any]:
    try:
        return unpack_map(data, max_bytes=MAX_ERRORS_BYTES)
    except WireError:
        return {}


def _bodies(errors: Sequence[AttemptError]) -> list[dict[str, Any]]:
    return [error.body() for error in errors[-MAX_ERRORS:]]


def _errors(body: Mapping[str, Any]) -> tuple[AttemptError, ...]:
    items = body.get("errors")
    return tuple(_error(item) for item in items if isinstance(item, dict)) if isinstance(items, list) else ()


def _error(item: Mapping[str, Any]) -> AttemptError:
    def number(name: str) -> int:
        value = item.get(name)
        return value if isinstance(value, int) else 0

    def text(name: str) -> str:
        return str(item.get(name, ""))

    return AttemptError(number("at"), number("number"), text("provider"), text("code"), text("message"))


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """What stands in ``dead`` for a job: its bytes as they were in the queue, and its history.

    ``code`` is for programs, ``reason`` for people; ``attempts`` counts as `Failed` does; ``errors`` are the last
    ones, oldest first; ``entry`` was the job's place in the queue, ``worker`` who buried it.
    """

    job: bytes
    job_id: str
    code: str
    reason: str
    attempts: int = 0
    provider: str = ""
    errors: tuple[AttemptError, ...] = ()
    entry: str = ""
    worker: str = ""

    def summary(self) -> bytes:
        """Return why the job is dead, without the job: for its record, until it is buried."""
        words = {"id": self.job_id, "code": self.code, "reason": self.reason, "provider": self.provider}
        return pack({**words, "attempts": self.attempts, "errors": _bodies(self.errors)})

    @classmethod
    def from_summary(cls, data: bytes, job: bytes) -> "DeadLetter":
        """Make the letter of ``job`` from its summary; what is missing or odd is empty."""
        body = _map(data)

        def text(name: str) -> str:
            return str(body.get(name, ""))

        attempts = body.get("attempts")
        return cls(
            job=job,
            job_id=text("id"),
            code=text("code"),
            reason=text("reason"),
            attempts=attempts if isinstance(attempts, int) else 0,
            provider=text("provider"),
            errors=_errors(body),
        )

    def fields(self) -> dict[str, str | bytes | int]:
        """The fields of the stream's entry."""
        return {
            "job": self.job,
            "id": self.job_id,
            "code": self.code,
            "reason": self.reason,
            "attempts": self.attempts,
            "provider": self.provider,
            "errors": pack_errors(self.errors),
            "entry": self.entry,
            "worker": self.worker,
        }

    @classmethod
    def from_fields(cls, fields: Mapping[bytes, bytes]) -> "DeadLetter":
        """Read the fields of the stream's entry; one that is missing or odd is empty, never an error."""

        def text(name: str) -> str:
            return fields.get(name.encode(), b"").decode(errors="replace")

        attempts = text("attempts")
        return cls(
            job=fields.get(b"job", b""),
            job_id=text("id"),
            code=text("code"),
            reason=text("reason"),
            attempts=int(attempts) if attempts.isdecimal() and len(attempts) < 10 else 0,
            provider=text("provider"),
            errors=unpack_errors(fields.get(b"errors", b"")),
            entry=text("entry"),
            worker=text("worker"),
        )
