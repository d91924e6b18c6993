"""What a server that refuses a call says by it: that it would refuse it again, or that it cannot serve at present."""

from typing import Any

from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)

_BUSY = (BusyLoadingError, ClusterDownError, MasterDownError, ReadOnlyError, TryAgainError)
_BUSY_CODES = frozenset(
    {"BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "READONLY", "TRYAGAIN", "UNKILLABLE"}
)
_PASSING = (*_BUSY, NoScriptError, OutOfMemoryError)
_PASSING_CODES = _BUSY_CODES | {"MISCONF", "NOREPLICAS", "OOM"}
"""What a server says that cannot serve at present; redis-py has classes for some, and leaves the code in the text
of the others. What is left is about the call itself, and would be refused again."""


def is_refusal(error: BaseException) -> bool:
    """Whether the server refused, and would refuse again; otherwise it, or the way to it, may come back."""
    return isinstance(error, ResponseError) and not is_passing(error)


def is_demotion(error: BaseException) -> bool:
    """Whether the server says that it follows another one, which has taken its place, or that it has lost that one.

    The connection stays open, and would be refused for ever; a new one may lead to that other server.
    """
    return isinstance(error, (ReadOnlyError, MasterDownError))


def is_passing(result: Any) -> bool:
    """Whether a call's result says that the server cannot serve at present."""
    return _is_one_of(result, _PASSING, _PASSING_CODES)


def is_busy(result: Any) -> bool:
    """Whether that is over by itself, and soon: nobody has to make room in its memory or on its disk."""
    return _is_one_of(result, _BUSY, _BUSY_CODES)


def _is_one_of(result: Any, classes: tuple[type[RedisError], ...], codes: frozenset[str]) -> bool:
    if not isinstance(result, RedisError):
        return False
    return isinstance(result, classes) or str(result).partition(" ")[0] in codes
