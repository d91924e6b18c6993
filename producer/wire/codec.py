"""msgpack within bounds: what comes out of Redis is untrusted input."""

import math
from collections.abc import Iterator
from typing import Any

import msgpack

MAX_DEPTH = 32
"""Nesting of maps and arrays."""

MAX_ITEMS = 20_000
"""Length of one map or array."""


class WireError(ValueError):
    """Bytes or values that the contract does not allow; the message says which rule they break."""


class UnknownVersion(WireError):
    """A job of a format version that this release does not read."""


def pack(value: Any) -> bytes:
    """Return ``value`` as msgpack.

    Raises:
        WireError: it holds something that msgpack has no form for.
    """
    try:
        packed: bytes = msgpack.packb(value, use_bin_type=True)
    except UnicodeEncodeError as error:
        raise WireError("text holds half of a surrogate pair, which is not Unicode text") from error
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"cannot be written as msgpack: {error}") from error
    return packed


def unpack_map(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Return the one map that ``data`` holds.

    Raises:
        WireError: not msgpack, not exactly one map with text keys, over size, too deep.
    """
    maps = list(unpack_maps(data, max_bytes=max_bytes))
    if len(maps) != 1:
        raise WireError(f"{len(maps)} msgpack maps where one is expected")
    return maps[0]


def unpack_maps(data: bytes, *, max_bytes: int) -> Iterator[dict[str, Any]]:
    """Yield the maps that stand back to back in ``data``.

    Raises:
        WireError: not msgpack, not maps with text keys, over size, too deep, cut off.
    """
    if len(data) > max_bytes:
        raise WireError(f"{len(data):,} bytes, the limit is {max_bytes:,}")
    unpacker = _unpacker(data)
    while unpacker.tell() < len(data):
        value = _next_value(unpacker)
        if not isinstance(value, dict):
            raise WireError(f"a msgpack map is expected, this is {type(value).__name__}")
        check_plain(value)
        yield value


def check_plain(value: Any) -> None:
    """Check that ``value`` is JSON-like data: text keys, finite numbers, at most `MAX_DEPTH` levels.

    Raises:
        WireError: it is not.
    """
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _children(item)]
        if not level:
            return
    raise WireError(f"nested deeper than {MAX_DEPTH} levels")


def _children(value: Any) -> list[Any]:
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise WireError(f"the key {key!r} is not text")
        return list(value.values())
    if isinstance(value, (list, tuple)):
        return list(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise WireError(f"{value} is not a finite number")
    return []


def _unpacker(data: bytes) -> msgpack.Unpacker:
    size = len(data)
    unpacker = msgpack.Unpacker(
        raw=False,
        strict_map_key=False,  # _children() says it in our words
        max_buffer_size=size + 1,
        max_str_len=size,
        max_bin_len=size,
        max_ext_len=0,
        # msgpack reserves room for what an array's header claims before it reads one item of it,
        # at up to 1,024 levels: this bound is what keeps a lying header from taking the memory.
        max_array_len=MAX_ITEMS,
        max_map_len=MAX_ITEMS,
    )
    unpacker.feed(data)
    return unpacker


def _next_value(unpacker: msgpack.Unpacker) -> Any:
    try:
        return unpacker.unpack()
    except msgpack.OutOfData:
        raise WireError("not whole: the bytes end in the middle of a value") from None
    except UnicodeDecodeError as error:
        raise WireError(f"text is not UTF-8: {error.reason}") from error
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not msgpack within the limits: {error or type(error).__name__}") from error
