"""What is asked: the job, its bounds, and its bytes."""

from typing import Annotated, Any, Final, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from producer.wire.codec import (
    SHARED_PACKER,
    UnknownVersion,
    WireError,
    check_plain,
    pack,
    unpack_map,
    unpack_short,
)
from producer.wire.job_fields import (
    FRESH,
    FROM_WIRE,
    Messages,
    Milliseconds,
    Name,
    PlainMap,
    Provider,
    Timeouts,
    holds_texts,
)
from producer.wire.keys import MAX_NAME_CHARS, is_name

VERSION: Final = 1
MAX_JOB_BYTES = 4 * 1024 * 1024
"""The largest job on the stream."""
DEFAULT_MAX_ATTEMPTS = 3

_MANY_CHARS = 64 * 1024
"""For a job with more than these, a packer of its own costs nothing that would count."""

_NO_TIMEOUTS = Timeouts()


class Job(BaseModel):
    """A chat job, as it stands on the stream. Times are ms since 1970, UTC."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    v: Literal[1] = VERSION
    id: Name
    queue: Name
    messages: Messages
    created_at: Milliseconds
    provider: Provider | None = None
    """A name, a list to fall back along, or absent: the first working provider that serves ``model``."""
    model: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    options: PlainMap = Field(default_factory=dict)
    """What else this kind of provider understands: ``top_p``, ``max_tokens``, ``tools`` …"""
    timeouts: Timeouts = Field(default_factory=lambda: _NO_TIMEOUTS)
    deadline: Milliseconds | None = None
    """No provider is asked after this instant."""
    max_attempts: Annotated[int, Field(ge=1, le=100)] = DEFAULT_MAX_ATTEMPTS
    on_retry: Literal["restart", "fail", "continue"] = "restart"
    """What a retry does once text is out."""
    turn: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """How often workers have put the job off; theirs to count, so that they know an old entry of it."""
    metadata: PlainMap = Field(default_factory=dict)
    """The caller's own; carried along, never sent to a provider."""
    trace: Annotated[dict[str, str], Field(max_length=16)] = Field(default_factory=dict)
    """W3C trace context: ``traceparent``, ``tracestate``."""

    def encode(self) -> bytes:
        """Return the job's bytes; unset fields are left out.

        Raises:
            WireError: over a limit, or holding what msgpack has no form for. What passes here, `decode` reads.
        """
        body = self._body()
        deep = self._deep()
        if deep:
            check_plain(deep)  # each field was checked alone; inside the job it stands a level or two deeper
        data = pack(body, packer=None if deep or self._is_long else SHARED_PACKER)
        if len(data) > MAX_JOB_BYTES:
            raise WireError(f"the job has {len(data):,} bytes, the limit is {MAX_JOB_BYTES:,}")
        return data

    def _deep(self) -> dict[str, Any]:
        """Return what goes deeper than the texts of messages, at its levels in the job: most jobs hold nothing such."""
        deep: dict[str, Any] = {}
        if messages := [message for message in self.messages if not holds_texts(message)]:
            deep["messages"] = messages
        if self.options:
            deep["options"] = self.options
        if self.metadata:
            deep["metadata"] = self.metadata
        if isinstance(self.provider, list):
            deep["provider"] = self.provider
        return deep

    @property
    def _is_long(self) -> bool:
        """Whether its messages' texts, where they hold nothing else, and its trace's are; all others are bounded."""
        chars = 0
        for texts in (*self.messages, self.trace):
            for name, text in texts.items():
                chars += len(name) + len(text)
        return chars > _MANY_CHARS

    def _body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"v": self.v}
        values = vars(self)
        for name, unset in _UNSET.items():
            value = values[name]
            if value is not None and value is not unset and value != unset:
                body[name] = value.model_dump(exclude_none=True) if name == "timeouts" else value
        return body

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Read a job; keys that this release does not know are left aside.

        Raises:
            UnknownVersion: written by a release with another format.
            WireError: anything else that breaks the contract; the message names the field.
        """
        body = unpack_short(data)
        if body is not None and type(body.get("v")) is int and _FIELDS.issuperset(body):
            try:
                job: Self = cls.__pydantic_validator__.validate_python(body, context=FRESH)
            except ValidationError:
                pass  # the long way says why, or that nothing is wrong
            else:
                return job
        return cls._decode_any(data)

    @classmethod
    def _decode_any(cls, data: bytes) -> Self:
        """Read whatever it is, step by step: long, of another release, or no job."""
        body = unpack_map(data, max_bytes=MAX_JOB_BYTES)
        version = body.get("v")
        if version is None:
            raise WireError("v: the format version is missing")
        if type(version) is not int or version != VERSION:
            raise UnknownVersion(
                f"v: format version {str(version)[:50]} is unknown, this release reads {VERSION}"
            )
        known = _known_of(body, cls)
        timeouts = known.get("timeouts")
        if isinstance(timeouts, dict):
            known["timeouts"] = _known_of(timeouts, Timeouts)
        try:
            return cls.model_validate(known, context=FROM_WIRE)
        except ValidationError as error:
            raise WireError(explain(error)) from error

    @staticmethod
    def next_turn(data: bytes) -> bytes:
        """Return the bytes of a job as it is put off once more; all else in them stays, known or not."""
        body = unpack_map(data, max_bytes=MAX_JOB_BYTES)
        again = pack({**body, "turn": body.get("turn", 0) + 1})
        return again if len(again) <= MAX_JOB_BYTES else data

    @staticmethod
    def id_in(data: bytes) -> str | None:
        """Return the id that ``data`` names even if it is no job otherwise, so that its readers can be told."""
        try:
            job_id = unpack_map(data, max_bytes=MAX_JOB_BYTES).get("id")
        except WireError:
            return None
        return job_id if isinstance(job_id, str) and is_name(job_id) else None


_UNSET: dict[str, Any] = {
    name: field.get_default(call_default_factory=True, validated_data={})
    for name, field in Job.model_fields.items()
    if name != "v"
}
"""The fields in their order, each with the value that it has when it is not given."""

_FIELDS = frozenset(Job.model_fields)


def _known_of(body: dict[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    fields = model.model_fields
    return body if body.keys() <= fields.keys() else {k: v for k, v in body.items() if k in fields}


def explain(error: ValidationError) -> str:
    """Name the first field that is wrong, and say why, in one line: ``messages[3]: role 'x' is unknown …``."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:50]}" for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"{place.lstrip('.')}: no such field"
    no_name = _no_name(first)
    message = first["msg"].removeprefix("Value error, ") if no_name is None else _not_a_name(no_name)
    return f"{place.lstrip('.')}: {message}"


def _no_name(error: ErrorDetails) -> str | None:
    """Return the text that should have been a name, where that is the error."""
    value = error["input"]
    if error["type"] == "string_pattern_mismatch":
        return cast(str, value)
    names = value if isinstance(value, list) else [value]
    if error["type"] != "provider" or not all(isinstance(name, str) for name in names):
        return None
    return next((name for name in names if not is_name(name)), None)


def _not_a_name(text: str) -> str:
    return (
        f"{text[:50]!r} is no name: letters, digits and ._:@/+=- are allowed, "
        f"at most {MAX_NAME_CHARS}, a letter or digit first"
    )
