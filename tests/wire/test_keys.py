"""The names of all keys."""

import pytest
from hypothesis import given
from redis.crc import key_slot

from producer.wire.keys import MAX_NAME_CHARS, Keys, is_name
from tests.wire.strategies import names
from tests.wire.vectors import load

OF_QUEUE = ("jobs", "later", "dead", "counts", "control")
OF_JOB = ("log", "record", "cancel", "events")
OF_PROVIDER = ("parked", "slots")


def of_queue(keys: Keys, queue: str) -> list[str]:
    return [getattr(keys, name)(queue) for name in OF_QUEUE]


def of_job(keys: Keys, job_id: str) -> list[str]:
    return [getattr(keys, name)(job_id) for name in OF_JOB]


def of_provider(keys: Keys, provider: str) -> list[str]:
    return [getattr(keys, name)(provider) for name in OF_PROVIDER]


@given(names, names)
def test_all_keys_of_a_queue_share_a_slot_and_all_keys_of_a_job_do(prefix: str, name: str) -> None:
    for keys in (of_queue(Keys(prefix), name), of_job(Keys(prefix), name)):
        assert {key_slot(key.encode()) for key in keys} == {key_slot(name.encode())}


@given(names, names, names, names)
def test_no_two_things_share_a_key(prefix: str, other_prefix: str, name: str, other_name: str) -> None:
    things = {(p, n) for p in (prefix, other_prefix) for n in (name, other_name)}
    keys = [
        key for p, n in things for key in of_queue(Keys(p), n) + of_job(Keys(p), n) + of_provider(Keys(p), n)
    ]
    assert len(set(keys)) == len(keys)


@given(names)
def test_names_are_names(name: str) -> None:
    assert is_name(name)


def test_a_name_of_the_longest_length_is_one_and_a_longer_one_is_not() -> None:
    assert is_name("n" * MAX_NAME_CHARS)
    assert not is_name("n" * (MAX_NAME_CHARS + 1))


def test_the_prefix_is_chat_unless_another_one_is_given() -> None:
    assert Keys().jobs("default") == "chat:{default}:jobs"


KEYS = sorted(name for name in vars(Keys) if not name.startswith("_") and name != "prefix")


@pytest.mark.parametrize("method", KEYS)
def test_every_key_has_a_vector(method: str) -> None:
    for case in load("keys", "accepted"):
        assert method in case["names"], f"say what {method!r} is in tests/vectors/keys.json and docs/wire.md"
