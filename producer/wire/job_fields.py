"""What the fields of a job may hold: types of pydantic, and their checks.

Values come from a caller, who may hand over anything, or were unpacked, and are looked into no further than they need.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import core_schema

from producer.wire.codec import check_plain, is_plain_map
from producer.wire.keys import NAME_PATTERN

MAX_MESSAGES = 10_000
ROLES = ("system", "developer", "user", "assistant", "tool", "function")

FROM_WIRE = object()
"""As the context of a validation: the values were unpacked, and are known to be plain."""

FRESH = object()
"""As the context: the values were unpacked, and not looked into. Where that is not enough, `Job.decode` reads
the job again."""


def _check_inside(value: dict[str, Any], context: object, *, above: int) -> None:
    if context is FRESH:
        if not is_plain_map(value, above=above):
            raise ValueError("it is to be looked into with the whole job")
    elif context is not FROM_WIRE:
        check_plain(value)  # a WireError is a ValueError, which pydantic reports with the field's name


def _check_plain_map(value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
    _check_inside(value, info.context, above=1)
    return value


def _check_messages(messages: Any, check_each: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    """Pass messages that hold a text and no more, as most do, in one call for all."""
    if not _are_bare(messages):
        return check_each(messages)
    if info.context is not None:
        return messages  # nobody else has what was unpacked
    is_plain = all(map(_holds_ascii, messages))
    return [message.copy() for message in messages] if is_plain else check_each(messages)


def _are_bare(messages: Any) -> bool:
    if type(messages) is not list or not 0 < len(messages) <= MAX_MESSAGES:
        return False
    for message in messages:
        if type(message) is not dict or len(message) != 2:
            return False
        if type(message.get("content")) is not str or message.get("role") not in ROLES:
            return False
    return True


def holds_texts(message: dict[str, Any]) -> bool:
    """Whether a message holds texts and nothing that goes deeper."""
    for value in message.values():  # noqa: SIM110 - all() would make a generator for each message
        if type(value) is not str:
            return False
    return True


def _holds_ascii(message: dict[str, Any]) -> bool:
    for key, value in message.items():
        if type(key) is not str or type(value) is not str or not value.isascii():
            return False
    return True


def _check_message(message: Any, info: ValidationInfo) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise ValueError(f"a map with role and content is expected, this is {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    if "role" not in message:
        raise ValueError("role is missing")
    if role not in ROLES:
        raise ValueError(f"role {str(role)[:50]!r} is unknown: it is one of {', '.join(ROLES)}")
    calls_tools = role == "assistant" and ("tool_calls" in message or "function_call" in message)
    if not (_is_content(content) or (calls_tools and content is None)):
        raise ValueError("content must be text, or a list of parts that are maps with a type")
    plain = cast(dict[str, Any], message)
    _check_inside(plain, info.context, above=2)
    return plain if info.context is not None else dict(plain)


def _is_content(content: Any) -> bool:
    if isinstance(content, str):
        return True
    return isinstance(content, Sequence) and all(
        isinstance(part, Mapping) and isinstance(part.get("type"), str) for part in content
    )


# In pydantic's regex, $ is the end and nothing else.
Name = Annotated[str, Field(pattern=f"^{NAME_PATTERN}$")]
Provider = Annotated[
    Name | Annotated[list[Name], Field(min_length=1)],
    Field(union_mode="left_to_right"),
    GetPydanticSchema(
        # instead of an error for each of the two; `explain` in job.py tells which name is none
        lambda source, schema_of: core_schema.custom_error_schema(
            schema_of(source),
            custom_error_type="provider",
            custom_error_message="a provider's name, or a list of names to fall back along, is expected",
        )
    ),
]
PlainMap = Annotated[dict[str, Any], AfterValidator(_check_plain_map)]
Message = Annotated[dict[str, Any], BeforeValidator(_check_message)]
Messages = Annotated[
    list[Message], Field(min_length=1, max_length=MAX_MESSAGES), WrapValidator(_check_messages)
]
Seconds = Annotated[float, Field(gt=0, le=86_400, allow_inf_nan=False)]
Milliseconds = Annotated[int, Field(ge=0, lt=2**53)]


class Timeouts(BaseModel):
    """How long an attempt may take, in seconds; what is absent is the provider's setting."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    connect: Seconds | None = None
    first_chunk: Seconds | None = None
    between_chunks: Seconds | None = None
    total: Seconds | None = None
