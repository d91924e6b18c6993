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

_PASSING = (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
_PASSING_CODES = frozenset(
    {
        "BUSY",
        "CLUSTERDOWN",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOREPLICAS",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "UNKILLABLE",
    }
)
"""What a server says that cannot serve at present; redis-py has classes for some, and leaves the code in the text
of the others. What is left is about the call itself, and would be refused again."""


def is_refusal(error: BaseException) -> bool:
    """Whether the server refused, and would refuse again; otherwise it, or the way to it, may come back."""
    return isinstance(error, ResponseError) and not is_passing(error)


def is_demotion(error: BaseException) -> bool:
    """Whether the server says that it may not be written to, as one does whose place another one has taken.

    The connection stays open, and would be refused for ever; a new one may lead to that other server.
    """
    return isinstance(error, ReadOnlyError)


def is_passing(result: Any) -> bool:
    """Whether a call's result says that the server cannot serve at present."""
    if not isinstance(result, RedisError):
        return False
    return isinstance(result, _PASSING) or str(result).partition(" ")[0] in _PASSING_CODES
