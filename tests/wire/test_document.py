"""docs/wire.md says what the code does: whoever follows it in another language is not led astray."""

import re
from pathlib import Path

import pytest

from producer.wire import codec, dead, events, frames, job, job_fields, keys, lifetimes
from tests.wire.vectors import load
from worker.providers.errors import ProviderError
from worker.retry import FOLLOWS

PAGE_PATH = Path(__file__).parent.parent.parent / "docs" / "wire.md"
PAGE = PAGE_PATH.read_text(encoding="utf-8")

EXAMPLES = re.findall(r"^```hex\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def bytes_of(example: str) -> str:
    """The hex columns of an example; what follows two spaces and more explains them."""
    return "".join(re.split(r"\s{3,}", line.strip())[0].replace(" ", "") for line in example.splitlines())


def test_there_are_examples() -> None:
    assert len(EXAMPLES) == 4


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: bytes_of(example)[:8])
def test_the_bytes_of_every_example_are_a_vector(example: str) -> None:
    vectors = {case["hex"] for name in ("jobs", "frames", "control") for case in load(name, "accepted")}
    assert bytes_of(example) in vectors


@pytest.mark.parametrize(
    "name", sorted({name for case in load("keys", "accepted") for name in case["names"]})
)
def test_every_key_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `PREFIX:{{(QUEUE|JOB|provider:PROVIDER)}}:{name}` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", sorted(job.Job.model_fields))
def test_every_field_of_a_job_is_in_the_table(name: str) -> None:
    assert re.search(rf"^\| `{name}` \|", PAGE, re.MULTILINE)


@pytest.mark.parametrize("name", dead.DeadLetter(b"", "", "", "").fields())
def test_every_field_of_a_dead_letter_is_in_the_table(name: str) -> None:
    section = PAGE[PAGE.index("### Dead letters") : PAGE.index("### The group")]
    assert re.search(rf"^\| .*`{name}`.* \|", section, re.MULTILINE)


@pytest.mark.parametrize("cls", FOLLOWS)
def test_what_workers_do_about_each_error_is_in_the_table_of_codes(cls: type[ProviderError]) -> None:
    section = PAGE[PAGE.index("## Codes of failed jobs") : PAGE.index("## What may change")]
    assert re.search(rf"^\| `{cls.code}` \|.*\| {FOLLOWS[cls].value} \|$", section, re.MULTILINE)


@pytest.mark.parametrize("script", ["worker/scripts/claim.lua", "worker/scripts/finish.lua"])
def test_every_field_that_workers_keep_in_a_record_is_in_its_table(script: str) -> None:
    text = (PAGE_PATH.parent.parent / script).read_text(encoding="utf-8")
    section = PAGE[PAGE.index("## The record") : PAGE.index("## The job")]
    written = "".join(re.findall(r"'HSET(?:NX)?', KEYS\[2\],(.*?)\)\n", text, re.DOTALL))
    fields = set(re.findall(r"'(\w+)'", written)) | {"due", "errors", "dead"}
    assert {"status", "due"} < fields
    assert {name for name in fields if not re.search(rf"^\| .*`{name}`.* \|", section, re.MULTILINE)} == set()


@pytest.mark.parametrize("case", load("frames", "accepted"), ids=lambda case: case["name"])
def test_every_event_and_each_of_its_fields_is_in_the_table(case: dict[str, list[dict[str, object]]]) -> None:
    for event in case["json"]:
        row = re.search(rf"^\| `{event['type']}` \|.*$", PAGE, re.MULTILINE)
        if row is not None:
            assert all(f"`{name}` " in row[0] for name in event.keys() - {"id", "type"})
        else:
            assert event["type"] == "citation", "only an invented type has no row"


@pytest.mark.parametrize(
    ("number", "unit"),
    [
        (job.MAX_JOB_BYTES, "bytes"),
        (frames.MAX_FRAME_BYTES, "bytes"),
        (events.MAX_TEXT_CHARS, "characters"),
        (codec.MAX_ITEMS, "items"),
        (codec.MAX_DEPTH, "levels"),
        (lifetimes.UNCONFIRMED_MS, "ms"),
        (lifetimes.UNFINISHED_MS, "ms"),
        (lifetimes.RETENTION_MS, "ms"),
    ],
)
def test_every_limit_is_the_codes_own(number: int, unit: str) -> None:
    assert f"{number:,} {unit}" in PAGE


def test_every_role_and_every_choice_is_named() -> None:
    assert all(f"`{role}`" in PAGE for role in job_fields.ROLES)
    assert f"1 to {job_fields.MAX_MESSAGES:,}" in PAGE
    assert f"1 to {keys.MAX_NAME_CHARS} of the characters" in PAGE
    assert f"`{keys.GROUP}`" in PAGE
    assert f"one field `{keys.JOB_FIELD}`" in PAGE
    assert f"one field `{keys.FRAME_FIELD}`" in PAGE
