"""Dead letters: what a worker wrote is what an operator reads, whoever wrote it."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from producer.wire.codec import pack
from producer.wire.dead import MAX_ERRORS, AttemptError, DeadLetter, pack_errors, unpack_errors

texts = st.text(max_size=50).map(lambda text: text.encode(errors="replace").decode())
errors = st.builds(AttemptError, st.integers(0, 2**53), st.integers(0, 100), texts, texts, texts)


def as_redis_returns(letter: DeadLetter) -> dict[bytes, bytes]:
    return {
        name.encode(): value if isinstance(value, bytes) else str(value).encode()
        for name, value in letter.fields().items()
    }


@given(
    st.binary(max_size=50), texts, texts, texts, st.integers(0, 100), st.lists(errors, max_size=MAX_ERRORS)
)
def test_a_dead_letter_is_read_as_it_was_written(
    job: bytes, id_: str, code: str, reason: str, attempts: int, history: list[AttemptError]
) -> None:
    letter = DeadLetter(job, id_, code, reason, attempts, "groq", tuple(history), "1-1", "w1")
    assert DeadLetter.from_fields(as_redis_returns(letter)) == letter
    there_and_back = DeadLetter.from_summary(letter.summary(), job)
    assert replace(there_and_back, entry="1-1", worker="w1") == letter


@given(st.lists(errors, min_size=MAX_ERRORS + 1, max_size=MAX_ERRORS + 3))
def test_of_many_errors_the_last_ones_are_kept(history: list[AttemptError]) -> None:
    assert unpack_errors(pack_errors(history)) == tuple(history[-MAX_ERRORS:])


@given(st.dictionaries(st.sampled_from([b"job", b"id", b"errors", b"attempts"]), st.binary(max_size=30)))
def test_fields_that_something_else_wrote_are_no_error(fields: dict[bytes, bytes]) -> None:
    letter = DeadLetter.from_fields(fields)
    assert letter.job == fields.get(b"job", b"")
    assert letter.reason == ""


def test_errors_of_a_later_release_are_read_as_far_as_they_are_known() -> None:
    item = {"at": 1, "number": 2, "provider": "p", "code": "c", "message": "m", "new": True}
    assert unpack_errors(pack({"errors": [item, "odd"]})) == (AttemptError(1, 2, "p", "c", "m"),)
