"""Random jobs, events and bytes, and what becomes of them."""

import math
from collections.abc import Callable
from functools import reduce
from typing import Any, TypeVar

import msgpack
from hypothesis import strategies as st

from producer.wire.codec import MAX_DEPTH, WireError, pack
from producer.wire.events import (
    Cancelled,
    Chunk,
    Done,
    Event,
    EventId,
    Failed,
    Queued,
    Reasoning,
    Started,
    ToolCall,
    Unknown,
    Usage,
    Waiting,
)
from producer.wire.frames import encode
from producer.wire.job_fields import ROLES

T = TypeVar("T")

FIRST = "abcXYZ019"
names = st.builds(str.__add__, st.sampled_from(FIRST), st.text(FIRST + "._:@/+=-", max_size=127))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
whole = st.integers(0, 2**53 - 1)
plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)
plain_maps = st.dictionaries(text, plain, max_size=4)
event_ids = st.builds(EventId, st.integers(0, 10**19 - 1), st.integers(0, 10**19 - 1))

# -- jobs ------------------------------------------------------------------------------------------------------

_parts = st.builds(lambda more, kind: {**more, "type": kind}, plain_maps, text)
messages = st.builds(
    lambda more, role, content: {**more, "role": role, "content": content},
    plain_maps,
    st.sampled_from(ROLES),
    text | st.lists(_parts, max_size=3),
)
_seconds = st.floats(0, 86_400, exclude_min=True)
_timeouts = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("connect", "first_chunk", "between_chunks", "total"), _seconds)
)
job_bodies = st.fixed_dictionaries(
    {
        "id": names,
        "queue": names,
        "messages": st.lists(messages, min_size=1, max_size=4),
        "created_at": whole,
    },
    optional={
        "provider": names | st.lists(names, min_size=1, max_size=3),
        "model": text.filter(bool),
        "temperature": st.floats(0, 2),
        "options": plain_maps,
        "timeouts": _timeouts,
        "deadline": whole,
        "max_attempts": st.integers(1, 100),
        "on_retry": st.sampled_from(["restart", "fail", "continue"]),
        "metadata": plain_maps,
        "trace": st.dictionaries(text, text, max_size=4),
    },
)

# -- events ----------------------------------------------------------------------------------------------------

_maybe_map = st.none() | plain_maps
_KINDS: dict[type[Event], tuple[st.SearchStrategy[Any], ...]] = {
    Queued: (text,),
    Started: (whole, text, text, st.none() | text, whole),
    Chunk: (text,),
    Reasoning: (text,),
    ToolCall: (plain_maps,),
    Usage: (whole, whole, _maybe_map),
    Waiting: (whole, text),
    Done: (text, whole, _maybe_map),
    Failed: (text, text, whole),
    Cancelled: (text, st.booleans()),
}
_unknown = st.builds(
    lambda more, kind: ((Unknown), ({"type": f"x-{kind}", **{f"x-{key}": v for key, v in more.items()}},)),
    plain_maps,
    text,
)
_bodies = (
    st.one_of([st.tuples(st.just(kind), st.tuples(*fields)) for kind, fields in _KINDS.items()]) | _unknown
)


@st.composite
def attempts(draw: st.DrawFn, min_size: int = 1) -> list[Event]:
    """Events of one attempt, without a hole."""
    attempt, first = draw(whole), draw(whole)
    bodies = draw(st.lists(_bodies, min_size=min_size, max_size=6))
    return [kind(f"{attempt}-{first + place}", *values) for place, (kind, values) in enumerate(bodies)]


# -- bytes -----------------------------------------------------------------------------------------------------

_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | text
    | st.binary(max_size=20)
    | st.builds(msgpack.ExtType, st.integers(0, 127), st.binary(max_size=20))
)
_msgpack = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_scalars, inner, max_size=4),
    max_leaves=12,
).map(lambda value: msgpack.packb(value, use_bin_type=True))
anything = st.builds(
    lambda value, levels: {"a": reduce(lambda inner, kind: kind(inner), levels, value)},
    st.recursive(
        _scalars | st.sampled_from(["\ud800", 2**64, -(2**63) - 1, {1}, object()]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.tuples(inner, inner)
            | st.dictionaries(text | st.none() | st.integers() | st.binary(max_size=2), inner, max_size=3)
        ),
        max_leaves=8,
    ),
    st.lists(st.sampled_from([lambda inner: [inner], lambda inner: {"a": inner}]), max_size=2)
    | st.integers(MAX_DEPTH - 6, MAX_DEPTH + 2).map(lambda levels: [lambda inner: [inner, ""]] * levels),
)
"""Maps of what a caller may think of, some of them about as deep as is allowed."""

_valid = st.one_of(
    job_bodies.map(lambda body: pack({"v": 1, **body})),
    attempts().map(lambda events: b"".join(encode(event) for event in events)),
)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(_valid))
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        data[start : start + draw(st.integers(0, 3))] = draw(st.binary(max_size=3))
    return bytes(data)


_odd = st.sampled_from(
    [None, True, 0, -1, 2**63, 1.5, math.inf, b"1-1", "1-1", "\ud800", [], ["x"], {}, {"a": b""}, "chunk"]
)


@st.composite
def mutated_chunks(draw: st.DrawFn) -> bytes:
    """Chunks in a row, one of which lost a value, has an odd one, a key more, a key that is none, or a byte changed."""
    first = draw(st.integers(0, 12))
    bodies = [
        {"id": f"7-{first + n}", "type": "chunk", "text": draw(text)} for n in range(draw(st.integers(1, 4)))
    ]
    body: dict[Any, Any] = draw(st.sampled_from(bodies))
    key = draw(st.sampled_from(["id", "type", "text", "more", 5, b"id", None]))
    body[key] = draw(_odd)
    if draw(st.booleans()):
        del body[draw(st.sampled_from(list(body)))]
    data = bytearray(b"".join(packed_anyhow(body) for body in bodies))
    if draw(st.booleans()):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


def packed_anyhow(body: dict[Any, Any]) -> bytes:
    packed: bytes = msgpack.packb(
        body, default=lambda _: b"", use_bin_type=True, unicode_errors="surrogatepass"
    )
    return packed


hostile = st.binary(max_size=200) | _msgpack | _damaged()
"""Noise, msgpack of whatever shape, and what was valid before something happened to it."""


def read(reader: Callable[[bytes], T], data: bytes) -> T | None:
    """Return what ``data`` reads as; None if it is refused, as it should be: by a `WireError` with a short text."""
    try:
        return reader(data)
    except WireError as error:
        text = str(error)
    assert 0 < len(text) < 600
    return None
