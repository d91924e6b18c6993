"""The golden vectors hold: every implementation of the contract reads and writes these bytes."""

import re

import pytest

from producer.wire.codec import WireError, pack, unpack_map
from producer.wire.frames import decode_frame, encode
from producer.wire.job import Job
from producer.wire.keys import Keys, is_name
from tests.wire.vectors import Case, each, load

MAX_CONTROL_BYTES = 64 * 1024


@each("jobs", "accepted")
def test_a_job_reads_as_its_meaning(case: Case) -> None:
    job = Job.decode(case["data"])
    assert {"v": job.v} | job.model_dump(exclude_none=True, exclude_defaults=True) == case["json"]


@each("jobs", "accepted", canonical=True)
def test_a_job_is_written_as_these_bytes(case: Case) -> None:
    assert Job.model_validate(case["json"]).encode().hex() == case["hex"]


@each("jobs", "refused")
def test_what_is_no_job_is_refused_with_its_reason(case: Case) -> None:
    with pytest.raises(WireError, match=re.escape(case["reason"])):
        Job.decode(case["data"])


@each("frames", "accepted")
def test_a_frame_reads_as_its_events(case: Case) -> None:
    frame = decode_frame(case["data"])
    assert [event.body() for event in frame.events] == case["json"]
    assert str(frame.last) == case["json"][-1]["id"]


@each("frames", "accepted", canonical=True)
def test_a_frame_is_written_as_these_bytes(case: Case) -> None:
    frame = decode_frame(case["data"])
    assert b"".join(encode(event) for event in frame.events).hex() == case["hex"]


@each("frames", "refused")
def test_what_is_no_frame_is_refused_with_its_reason(case: Case) -> None:
    with pytest.raises(WireError, match=re.escape(case["reason"])):
        decode_frame(case["data"])


@each("control", "accepted")
def test_a_control_message_reads_as_its_meaning(case: Case) -> None:
    assert unpack_map(case["data"], max_bytes=MAX_CONTROL_BYTES) == case["json"]


@each("control", "accepted", canonical=True)
def test_a_control_message_is_written_as_these_bytes(case: Case) -> None:
    assert pack(case["json"]).hex() == case["hex"]


@each("control", "refused")
def test_what_is_no_control_message_is_refused_with_its_reason(case: Case) -> None:
    with pytest.raises(WireError, match=re.escape(case["reason"])):
        unpack_map(case["data"], max_bytes=MAX_CONTROL_BYTES)


@each("keys", "accepted")
def test_every_key_has_this_name(case: Case) -> None:
    keys = Keys(case["prefix"])
    owners = {
        "queue": ("jobs", "later", "dead", "counts", "control"),
        "job": ("log", "record", "cancel", "events"),
        "provider": ("parked", "slots"),
    }
    assert is_name(case["queue"])
    assert is_name(case["job"])
    names = {name: getattr(keys, name)(case[owner]) for owner, names in owners.items() for name in names}
    assert names == case["names"]


@each("keys", "refused")
def test_what_is_no_name_names_nothing(case: Case) -> None:
    assert not is_name(case["text"])
    with pytest.raises(ValueError, match=re.escape(case["reason"])):
        Keys(case["text"])


@pytest.mark.parametrize("name", ["jobs", "frames", "control", "keys"])
def test_a_case_is_found_by_its_name(name: str) -> None:
    names = [(part, case["name"]) for part in ("accepted", "refused") for case in load(name, part)]
    assert len(names) == len(set(names))


def test_every_type_of_event_has_a_vector() -> None:
    types = {event["type"] for case in load("frames", "accepted") for event in case["json"]}
    known = {"queued", "started", "chunk", "reasoning", "tool_call", "usage", "waiting"}
    assert types >= known | {"done", "failed", "cancelled"}


def test_every_field_of_a_job_has_a_vector() -> None:
    assert {field for case in load("jobs", "accepted") for field in case["json"]} == set(Job.model_fields)
