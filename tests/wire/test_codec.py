"""msgpack within bounds."""

import math
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings

from producer.wire import codec
from producer.wire.codec import MAX_DEPTH, MAX_ITEMS, WireError, check_plain, pack, unpack_map, unpack_maps
from tests.wire.strategies import anything, hostile, plain_maps, read

NO_LIMIT = 2**30


def nested(levels: int) -> dict[str, Any]:
    """A value at ``levels`` levels, the outermost map counted."""
    value: dict[str, Any] = {"a": 0}
    for _ in range(levels - 2):
        value = {"a": value}
    return value


def test_what_was_packed_is_unpacked() -> None:
    value = {"text": "שלום 🤷🏽‍♀️\0", "numbers": [0, -1, 2**64 - 1, -(2**63), 0.1], "none": None, "yes": True}
    assert unpack_map(pack(value), max_bytes=NO_LIMIT) == value


@given(plain_maps)
def test_every_plain_map_survives(value: dict[str, Any]) -> None:
    check_plain(value)
    assert unpack_map(pack(value), max_bytes=NO_LIMIT) == value


@given(hostile)
@settings(max_examples=500, deadline=timedelta(seconds=5))
def test_hostile_bytes_raise_nothing_but_a_wire_error_with_a_short_text(data: bytes) -> None:
    for value in read(lambda data: list(unpack_maps(data, max_bytes=NO_LIMIT)), data) or []:
        check_plain(value)
        assert unpack_map(pack(value), max_bytes=NO_LIMIT) == value


@given(hostile)
@settings(max_examples=1000, deadline=timedelta(seconds=5))
def test_the_short_way_to_a_map_reads_and_refuses_what_the_long_one_does(data: bytes) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codec, "unpack_short", lambda _: None)
        patch.setattr(codec, "_is_plain", lambda *_: False)
        by_the_long_way = outcome(lambda: unpack_map(data, max_bytes=NO_LIMIT))
    assert outcome(lambda: unpack_map(data, max_bytes=NO_LIMIT)) == by_the_long_way


@given(anything)
@settings(max_examples=1000, deadline=timedelta(seconds=5))
def test_the_quick_look_passes_nothing_that_the_long_one_objects_to(value: dict[str, Any]) -> None:
    assert outcome(lambda: check_plain(value)) == outcome(lambda: codec._check_levels(value))


def outcome(step: Callable[[], object]) -> str:
    """What comes of a step, to the last type in it, or why nothing does."""
    try:
        return repr(step())
    except WireError as error:
        return f"WireError: {error}"


def test_the_limit_on_size_is_inclusive() -> None:
    data = pack({"a": "x" * 100})
    assert unpack_map(data, max_bytes=len(data))
    with pytest.raises(WireError, match="105 bytes, the limit is 104"):
        unpack_map(data, max_bytes=len(data) - 1)


def test_the_last_level_that_is_allowed_is_allowed_on_both_sides() -> None:
    check_plain(nested(MAX_DEPTH))
    assert unpack_map(pack(nested(MAX_DEPTH)), max_bytes=NO_LIMIT) == nested(MAX_DEPTH)


def test_one_level_more_is_refused_on_both_sides() -> None:
    with pytest.raises(WireError, match="deeper than 32 levels"):
        check_plain(nested(MAX_DEPTH + 1))
    with pytest.raises(WireError, match="deeper than 32 levels"):
        unpack_map(pack(nested(MAX_DEPTH + 1)), max_bytes=NO_LIMIT)


@pytest.mark.parametrize(
    "make", [lambda n: [0] * n, lambda n: {str(i): i for i in range(n)}], ids=["array", "map"]
)
def test_a_long_array_or_map_is_refused_on_both_sides(make: Any) -> None:
    longest, too_long = {"a": make(MAX_ITEMS)}, {"a": make(MAX_ITEMS + 1)}
    check_plain(longest)
    assert unpack_map(pack(longest), max_bytes=NO_LIMIT) == longest
    with pytest.raises(WireError, match="20,001 items, the limit is 20,000"):
        check_plain(too_long)
    with pytest.raises(WireError, match="not msgpack within the limits: 20001 exceeds"):
        unpack_map(pack(too_long), max_bytes=NO_LIMIT)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        bytearray(),
        {1},
        object(),
        msgpack.ExtType(1, b""),
        msgpack.Timestamp(0),
        math.nan,
        math.inf,
        2**64,
        "\ud800",
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_has_no_form_for_is_refused_before_it_is_written(value: object) -> None:
    with pytest.raises(WireError):
        check_plain({"a": [value]})


@pytest.mark.parametrize("key", [1, b"a", None, ("a",), 1.5])
def test_keys_are_text(key: object) -> None:
    with pytest.raises(WireError, match=r"the key .* is not text"):
        check_plain({"a": {key: 1}})


@pytest.mark.parametrize(
    "value",
    [{"a": object()}, {"a": 2**64}, {"a": "\udfff"}, {"\ud800": 1}],
    ids=["object", "number", "text", "key"],
)
def test_what_has_no_bytes_is_refused_in_our_words(value: object) -> None:
    with pytest.raises(WireError):
        pack(value)


def test_a_reason_does_not_repeat_the_input_at_length() -> None:
    with pytest.raises(WireError) as raised:
        unpack_map(msgpack.packb({b"k" * 1_000_000: 1}), max_bytes=NO_LIMIT)
    assert len(str(raised.value)) < 100


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(bytes.fromhex("81a178dd7fffffff"), id="one array of two thousand million"),
        pytest.param(bytes.fromhex("df7fffffff"), id="one map of two thousand million"),
        pytest.param(bytes.fromhex("81a178db7fffffff"), id="one text of two gigabytes"),
        pytest.param(
            bytes.fromhex("81a178") + bytes.fromhex("dc4e20") * 1000, id="arrays in arrays, few bytes"
        ),
        pytest.param(bytes.fromhex("81a178") + bytes.fromhex("dc4e20") * 100_000, id="arrays in arrays"),
        pytest.param(b"\x81\xa1x" + b"\x91" * 1_000_000, id="a million levels"),
        pytest.param(b"\x80" * 4_000_000, id="four million empty maps"),
    ],
)
def test_a_lying_header_takes_no_more_memory_than_a_long_honest_one(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(WireError):
            unpack_map(data, max_bytes=NO_LIMIT)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 128 * 1024 * 1024 if len(data) > 100_000 else peak < 4 * 1024 * 1024


def test_maps_are_handed_out_one_by_one() -> None:
    maps = unpack_maps(b"\x80\x81\xa1a\x01\xc1", max_bytes=NO_LIMIT)
    assert [next(maps), next(maps)] == [{}, {"a": 1}]
    with pytest.raises(WireError, match="not msgpack"):
        next(maps)


def test_of_a_repeated_key_the_last_value_counts() -> None:
    assert unpack_map(b"\x82\xa1a\x01\xa1a\x02", max_bytes=NO_LIMIT) == {"a": 2}
