"""msgpack within bounds: what comes out of Redis is untrusted input."""

import math
from collections.abc import Collection, Iterable, Iterator
from itertools import islice
from typing import Any

import msgpack

MAX_DEPTH = 32
"""Levels of nesting; the outermost map is the first, and a value stands one level below what holds it."""

MAX_ITEMS = 20_000
"""Length of one map or array."""

_NO_CHECK: frozenset[type] = frozenset({str, int, bool, type(None)})
"""What msgpack reads only as what it may be: whole numbers of 64 bits, text that is UTF-8."""

_HARMLESS: frozenset[type] = frozenset({bool, type(None)})
"""What may stand anywhere, whoever made it."""

NOT_UNICODE = "text holds half of a surrogate pair, which is not Unicode text"
_TOO_DEEP = f"nested deeper than {MAX_DEPTH} levels"


class WireError(ValueError):
    """Bytes or values that the contract does not allow; the message says which rule they break."""


class UnknownVersion(WireError):
    """A job of a format version that this release does not read."""


SHARED_PACKER = msgpack.Packer(use_bin_type=True)
"""A packer costs more than what it packs. One can be shared for text, numbers, and plain lists and maps of them,
because packing those never gives another thread its turn. It keeps as much memory as the longest of them took: so
nothing that is long."""


def pack(value: Any, *, packer: msgpack.Packer | None = None) -> bytes:
    """Return ``value`` as msgpack. ``packer``: `SHARED_PACKER`, where it is known to do.

    Raises:
        WireError: it holds something that msgpack has no form for.
    """
    try:
        packed: bytes = (packer or msgpack.Packer(use_bin_type=True)).pack(value)
    except UnicodeEncodeError as error:
        raise WireError(NOT_UNICODE) from error
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"cannot be written as msgpack: {error}") from error
    return packed


def unpack_map(data: bytes, *, max_bytes: int) -> dict[str, Any]:
    """Return the one map that ``data`` holds.

    Raises:
        WireError: not msgpack, not exactly one map with text keys, over size, too deep.
    """
    value = unpack_short(data) if len(data) <= max_bytes else None
    if value is not None and is_plain_map(value):
        return value
    maps = list(islice(unpack_maps(data, max_bytes=max_bytes), 2))  # a million empty ones are not read on
    if len(maps) != 1:
        raise WireError(f"{'several' if maps else 'no'} msgpack maps where one is expected")
    return maps[0]


def unpack_short(data: bytes) -> dict[Any, Any] | None:
    """Return the map that ``data`` holds, not looked into; None if only `unpack_map` can say what is the matter.

    What is no longer than this cannot hold, nor claim to, more items than are allowed.
    """
    if len(data) > MAX_ITEMS:
        return None
    try:
        value = msgpack.unpackb(data)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError):
        return None
    return value if type(value) is dict else None


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
        if not (_is_flat(value) or is_plain_map(value)):
            check_plain(value)
        yield value


def _is_flat(value: dict[Any, Any]) -> bool:
    """Whether a map fresh from msgpack holds, as nearly all do, nothing that would have to be looked into."""
    for key, item in value.items():  # noqa: SIM110 - all() would make a generator for each map
        if type(key) is not str or type(item) not in _NO_CHECK:
            return False
    return True


def is_plain_map(value: dict[Any, Any], *, above: int = 0) -> bool:
    """Whether a map that msgpack has read, or written, is what `check_plain` passes, ``above`` levels further down.

    False says only that `check_plain` is to be asked.
    """
    return _is_plain((value,), MAX_DEPTH - above, _NO_CHECK)


def check_plain(value: Any) -> None:
    """Check that ``value`` is JSON-like data: text keys, finite numbers, at most `MAX_DEPTH` levels.

    Raises:
        WireError: it is not.
    """
    if not _is_plain((value,), MAX_DEPTH, _HARMLESS):
        _check_levels(value)


def _is_plain(items: Iterable[Any], levels: int, known: frozenset[type]) -> bool:
    """Whether a quick look at the types finds nothing to object to: in one pass, with no list for each level."""
    if not levels:
        return False
    for item in items:
        kind = type(item)
        if kind in known or (kind is str and item.isascii()):
            continue
        if kind is dict:
            plain = _has_text_keys(item) and _is_plain(item.values(), levels - 1, known)
        elif kind is list:
            plain = len(item) <= MAX_ITEMS and _is_plain(item, levels - 1, known)
        else:
            plain = (kind is float and math.isfinite(item)) or (kind is int and -(2**63) <= item < 2**64)
        if not plain:
            return False
    return True


def _has_text_keys(value: dict[Any, Any]) -> bool:
    for key in value:
        if type(key) is not str:
            return False
    return len(value) <= MAX_ITEMS


def _check_levels(value: Any) -> None:
    level: Iterable[Any] = (value,)
    for _ in range(MAX_DEPTH):
        level = [inner for item in level for inner in _children(item)]
        if not level:
            return
    raise WireError(_TOO_DEEP)


def _children(value: Any) -> Collection[Any]:
    if isinstance(value, dict):
        _check_length(value)
        for key in value:
            if not isinstance(key, str):
                raise WireError(f"the key {repr(key)[:50]} is not text")
        return value.values()
    if isinstance(value, (list, tuple)):
        _check_length(value)
        return value
    _check_leaf(value)
    return ()


def _check_length(value: Collection[Any]) -> None:
    if len(value) > MAX_ITEMS:
        raise WireError(f"a map or array of {len(value):,} items, the limit is {MAX_ITEMS:,}")


def _check_leaf(value: Any) -> None:
    if isinstance(value, str):
        if not value.isascii():
            _check_text(value)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise WireError(f"{value} is not a finite number")
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**64:
            raise WireError(f"a number of {value.bit_length()} bits: 64 are the most")
    elif value is not None:
        raise WireError(f"{type(value).__name__} is neither text, number, true, false, null, list nor map")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise WireError(NOT_UNICODE) from error


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
        max_array_len=min(MAX_ITEMS, size),
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
    except msgpack.StackError as error:
        raise WireError(_TOO_DEEP) from error
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not msgpack within the limits: {str(error) or type(error).__name__}") from error
