"""Jobs: their fields, their limits and their bytes."""

import re
import tracemalloc
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from producer.wire import job_fields
from producer.wire.codec import MAX_DEPTH, MAX_ITEMS, UnknownVersion, WireError, pack
from producer.wire.job import DEFAULT_MAX_ATTEMPTS, MAX_JOB_BYTES, Job, explain
from producer.wire.job_fields import MAX_MESSAGES, ROLES, Timeouts
from producer.wire.keys import is_name
from tests.wire.strategies import (
    anything,
    hostile,
    job_bodies,
    messages,
    names,
    packed_anyhow,
    plain,
    read,
    text,
)

MINIMAL: dict[str, Any] = {
    "v": 1,
    "id": "job-1",
    "queue": "default",
    "messages": [{"role": "user", "content": "Say hi"}],
    "created_at": 1_763_629_932_123,
}


def job(**fields: Any) -> Job:
    return Job.model_validate(MINIMAL | fields)


def decoded(**fields: Any) -> Job:
    return Job.decode(pack(MINIMAL | fields))


def of_size(size: int) -> Job:
    """A job of exactly ``size`` bytes."""
    overhead = len(job(metadata={"pad": "x" * 100_000}).encode()) - 100_000
    return job(metadata={"pad": "x" * (size - overhead)})


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"a": 0}
    for _ in range(levels - 2):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "user", "content": "x" * 3_000_000}]},
        {"messages": [{"role": "user", "content": "hi", "x" * 3_000_000: "a"}]},
        {"trace": {"tracestate": "x" * 3_000_000}},
    ],
    ids=["text", "key", "trace"],
)
def test_the_bytes_of_a_long_job_are_in_no_memory_once_it_was_written(fields: dict[str, Any]) -> None:
    long = job(**fields)
    tracemalloc.start()
    try:
        assert len(long.encode()) > 3_000_000
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


# -- there and back --------------------------------------------------------------------------------------------


@given(job_bodies)
def test_every_job_reads_as_it_was_written(body: dict[str, Any]) -> None:
    made = Job.model_validate(body)
    assert Job.decode(made.encode()) == made


@given(job_bodies)
def test_a_job_that_was_read_is_written_as_the_same_bytes(body: dict[str, Any]) -> None:
    data = Job.model_validate(body).encode()
    assert Job.decode(data).encode() == data


@given(hostile)
@settings(max_examples=500, deadline=timedelta(seconds=5))
def test_hostile_bytes_raise_nothing_but_a_wire_error_with_a_short_text(data: bytes) -> None:
    made = read(Job.decode, data)
    assert made is None or Job.decode(made.encode()) == made


@given(st.dictionaries(st.sampled_from(sorted(Job.model_fields)), plain))
@settings(deadline=timedelta(seconds=5))
def test_whatever_a_field_holds_it_is_a_job_or_a_wire_error(fields: dict[str, Any]) -> None:
    made = read(Job.decode, pack(MINIMAL | fields))
    assert made is None or Job.decode(made.encode()) == made


@given(
    hostile
    | st.builds(
        lambda body, more: packed_anyhow({"v": 1, **body, **more}),
        job_bodies,
        st.dictionaries(st.sampled_from(sorted(Job.model_fields)) | text, anything | plain, max_size=2),
    )
)
@settings(max_examples=1000, deadline=timedelta(seconds=5))
def test_the_short_way_to_a_job_reads_and_refuses_what_the_long_one_does(data: bytes) -> None:
    assert outcome(Job.decode, data) == outcome(Job._decode_any, data)


@pytest.mark.parametrize("levels", [MAX_DEPTH, MAX_DEPTH + 1])
@pytest.mark.parametrize("wrap", [dict, lambda value: [{"x": value, **MINIMAL["messages"][0]}]])
@pytest.mark.parametrize("field", ["options", "metadata", "messages", "timeouts", "later"])
def test_both_ways_to_a_job_count_the_same_levels(field: str, wrap: Any, levels: int) -> None:
    for above in range(5):
        data = pack(MINIMAL | {field: wrap(nested(levels - above))})
        assert outcome(Job.decode, data) == outcome(Job._decode_any, data)


odd_messages = st.lists(
    messages
    | st.dictionaries(
        st.sampled_from(["role", "content", "name", b"role", 5]),
        st.sampled_from([*ROLES, "", "nobody", "é", "\ud800", b"user", None, 5, []]),
        max_size=3,
    ),
    max_size=3,
)


@given(odd_messages)
@settings(max_examples=500, deadline=timedelta(seconds=5))
def test_messages_are_judged_together_as_they_are_one_by_one(given_: list[Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job_fields, "_are_bare", lambda _: False)
        one_by_one = outcome(lambda given_: job(messages=given_), given_)
    assert outcome(lambda given_: job(messages=given_), given_) == one_by_one


def test_what_a_caller_does_with_his_messages_afterwards_is_not_in_the_job() -> None:
    message = {"role": "user", "content": "before"}
    made = job(messages=[message])
    message["content"] = "after"
    assert made.messages == [{"role": "user", "content": "before"}]


def outcome(reader: Callable[[Any], Job], given_: Any) -> str:
    """What is made of it, to the last type, or why nothing is."""
    try:
        return repr(reader(given_))
    except WireError as error:
        return repr(error)
    except ValidationError as error:
        return explain(error)


def test_the_defaults_are_these() -> None:
    made = decoded()
    assert made.timeouts == Timeouts(connect=None, first_chunk=None, between_chunks=None, total=None)
    assert (made.provider, made.model, made.temperature, made.deadline) == (None, None, None, None)
    assert (made.max_attempts, made.on_retry) == (DEFAULT_MAX_ATTEMPTS, "restart") == (3, "restart")
    assert (made.options, made.metadata, made.trace) == ({}, {}, {})


def test_nothing_inside_a_map_is_lost_on_the_way() -> None:
    made = job(
        messages=[{"role": "assistant", "content": None, "tool_calls": []}],
        options={"seed": None, "stop": [], "nested": {"none": None}},
    )
    assert Job.decode(made.encode()) == made


# -- names -----------------------------------------------------------------------------------------------------

almost_names = names.flatmap(
    lambda name: st.sampled_from([name, name + "\n", f" {name}", f"{name}é", name * 2])
)


@given(text | almost_names, st.sampled_from(["id", "queue", "provider"]))
def test_a_name_in_a_job_is_what_is_a_name_elsewhere(name: str, field: str) -> None:
    made = read(Job.decode, pack(MINIMAL | {field: name}))
    assert (made is not None) == is_name(name)


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("id", "a b", "'a b' is no name: letters, digits and ._:@/+=- are allowed, at most 128, a"),
        ("queue", "", "'' is no name"),
        ("id", 5, "Input should be a valid string"),
        ("provider", "a\n", r"'a\n' is no name"),
        ("provider", ["echo", "{b}"], "'{b}' is no name"),
        ("provider", ["echo", 3], "a provider's name, or a list of names to fall back along, is expected"),
        ("provider", [], "a provider's name, or a list of names to fall back along, is expected"),
        ("provider", 3, "a provider's name, or a list of names to fall back along, is expected"),
        ("provider", {"a": 1}, "a provider's name, or a list of names to fall back along, is expected"),
    ],
)  # fmt: skip
def test_what_is_no_name_is_refused_in_our_words(field: str, value: object, reason: str) -> None:
    with pytest.raises(ValidationError) as raised:
        job(**{field: value})
    assert explain(raised.value).startswith(f"{field}: {reason}")
    with pytest.raises(WireError, match=f"^{field}: {re.escape(reason)}"):
        decoded(**{field: value})


# -- versions and unknown keys ---------------------------------------------------------------------------------


def test_an_unknown_version_is_refused_by_name_whatever_else_the_job_holds() -> None:
    with pytest.raises(UnknownVersion, match="format version 2 is unknown, this release reads 1"):
        Job.decode(pack({"v": 2, "steps": []}))


def test_keys_of_a_later_release_are_left_aside() -> None:
    assert decoded(zone="eu", timeouts={"total": 5, "idle": 1}) == job(timeouts={"total": 5})


def test_a_caller_of_this_release_may_not_misspell_a_field() -> None:
    for fields, place in (({"modle": "x"}, "modle"), ({"timeouts": {"totl": 1}}, "timeouts.totl")):
        with pytest.raises(ValidationError) as raised:
            job(**fields)
        assert explain(raised.value) == f"{place}: no such field"


# -- limits ----------------------------------------------------------------------------------------------------


def test_a_job_of_the_largest_size_goes_through_and_one_byte_more_does_not() -> None:
    largest, too_large = of_size(MAX_JOB_BYTES), of_size(MAX_JOB_BYTES + 1)
    data = largest.encode()
    assert len(data) == MAX_JOB_BYTES
    assert Job.decode(data) == largest
    with pytest.raises(WireError, match="the job has 4,194,305 bytes, the limit is 4,194,304"):
        too_large.encode()
    with pytest.raises(WireError, match="4,194,305 bytes, the limit is 4,194,304"):
        Job.decode(data + b"\x00")


def test_ten_thousand_messages_go_through_and_one_more_does_not() -> None:
    most = MINIMAL["messages"] * MAX_MESSAGES
    assert len(Job.decode(job(messages=most).encode()).messages) == 10_000
    with pytest.raises(ValidationError, match="at most 10000 items"):
        job(messages=most + MINIMAL["messages"])
    with pytest.raises(WireError, match="messages: "):
        decoded(messages=most + MINIMAL["messages"])


@pytest.mark.parametrize(
    ("field", "above"),
    [("options", 1), ("metadata", 1), ("messages", 2)],
    ids=["options", "metadata", "messages"],
)
def test_a_job_that_may_be_written_may_be_read_to_the_last_level(field: str, above: int) -> None:
    def with_levels(levels: int) -> Any:
        value = nested(levels - above)
        return [{"role": "user", "content": "", **value}] if field == "messages" else value

    deepest = job(**{field: with_levels(MAX_DEPTH)})
    assert Job.decode(deepest.encode()) == deepest
    with pytest.raises(WireError, match="deeper than 32 levels"):
        job(**{field: with_levels(MAX_DEPTH + 1)}).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"provider": ["echo"] * (MAX_ITEMS + 1)},
        {"messages": [{"role": "user", "content": [{"type": "text"}] * (MAX_ITEMS + 1)}]},
        {"options": {"stop": [""] * (MAX_ITEMS + 1)}},
        {"metadata": {str(n): n for n in range(MAX_ITEMS + 1)}},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_list_that_no_worker_would_read_is_not_written(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="20,001 items, the limit is 20,000"):
        job(**fields).encode()


@pytest.mark.parametrize("value", [b"", float("nan"), {1: 2}, object(), "\ud800", 2**64])
@pytest.mark.parametrize("field", ["options", "metadata"])
def test_what_json_has_no_form_for_is_refused_with_the_fields_name(field: str, value: object) -> None:
    with pytest.raises(ValidationError) as raised:
        job(**{field: {"x": value}})
    assert explain(raised.value).startswith(f"{field}: ")


def test_bytes_are_no_content() -> None:
    with pytest.raises(WireError):
        decoded(messages=[{"role": "user", "content": b""}])


@pytest.mark.parametrize(
    "fields",
    [
        {"trace": {"k" * 100_000: 1}},
        {"id": "x" * 100_000},
        {"provider": ["y " * 100_000]},
        {"messages": [{"role": "z" * 100_000, "content": ""}]},
        {"on_retry": "w" * 100_000},
        {"v": "u" * 100_000},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_reason_does_not_repeat_the_input_at_length(fields: dict[str, Any]) -> None:
    with pytest.raises(WireError) as raised:
        decoded(**fields)
    assert len(str(raised.value)) < 300


# -- the id of what is no job ----------------------------------------------------------------------------------


def test_a_broken_job_still_says_whose_it_is() -> None:
    assert Job.id_in(pack({"v": 7, "id": "job-1"})) == "job-1"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        pack({}),
        pack({"id": 5}),
        pack({"id": "a}b"}),
        pack({"id": "a" * 129}),
        pack({"id": "a"}) * 2,
    ],
)
def test_where_no_id_can_be_trusted_there_is_none(data: bytes) -> None:
    assert Job.id_in(data) is None


@given(hostile)
def test_looking_for_an_id_never_raises(data: bytes) -> None:
    Job.id_in(data)
