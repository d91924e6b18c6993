"""`chat-producer dead`, as a shell sees it."""

import json
import os
import pty
import re
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis

from producer.wire.dead import AttemptError, DeadLetter
from producer.wire.job import Job
from producer.wire.keys import Keys
from tests.support.processes import PATIENCE, PRODUCER, ROOT, Ended, environment, run
from tests.support.servers import Server

DEAD = [*PRODUCER, "dead"]


@pytest.fixture
def shell(valkey: Server) -> dict[str, str]:
    """The variables of a shell under a prefix of its own, where no worker is."""
    return {"CHAT_REDIS_URL": valkey.url, "CHAT_PREFIX": f"t{uuid4().hex[:12]}"}


@pytest.fixture
def redis(valkey: Server) -> Iterator[Redis]:
    with Redis.from_url(valkey.url) as client:
        yield client


@pytest.fixture
def keys(shell: dict[str, str]) -> Keys:
    return Keys(shell["CHAT_PREFIX"])


@pytest.fixture
def bury(redis: Redis, keys: Keys) -> Any:
    def bury(job_id: str, queue: str = "default", id_: str = "*", **given: Any) -> str:
        messages = [{"role": "user", "content": "hello"}]
        job = Job(id=job_id, queue=queue, messages=messages, created_at=5, provider="echo").encode()
        errors = (AttemptError(1_700_000_000_000, 3, "echo", "cut", "no \x1b[31mend mark"),)
        told = {"code": "cut", "reason": "no [bold]end\x1b[31m mark " + "x" * 100, "attempts": 3, **given}
        letter = DeadLetter(job=told.pop("job", job), job_id=job_id, errors=errors, **told)
        fields: Mapping[Any, Any] = letter.fields()
        return bytes(redis.xadd(keys.dead(queue), fields, id=id_)).decode()

    return bury


def lines(done: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.lines]


def test_letters_are_listed_as_a_table(shell: dict[str, str], bury: Any) -> None:
    empty = run([*DEAD, "list"], **shell)
    assert (empty.status, empty.out.split()) == (
        0,
        ["ID", "JOB", "QUEUE", "CODE", "ATTEMPTS", "AGE", "REASON"],
    )
    id_ = bury("mine")
    header, row = run([*DEAD, "list"], **shell).lines
    assert header.split() == empty.out.split()
    assert re.fullmatch(rf" *{id_} +mine +default +cut +3 +\d+ s +no \[bold\]end +\[31m mark x+… *", row)


def test_an_id_that_is_listed_can_be_copied_whatever_the_width(shell: dict[str, str], bury: Any) -> None:
    job_id = uuid4().hex
    id_ = bury(job_id, code="attempts_exhausted")
    _, row = run([*DEAD, "list"], **{**shell, "COLUMNS": "40"}).lines
    assert row.split()[:4] == [id_, job_id, "default", "attempts_exhausted"]


def test_letters_are_listed_in_json_by_every_filter(shell: dict[str, str], bury: Any) -> None:
    recent = bury("new", queue="q", provider="groq", code="timeout")
    bury("old", id_="1000-1", provider="echo")
    (old, new) = lines(run([*DEAD, "list", "--json"], **shell))
    assert (old["id"], old["job_id"], old["buried_at"]) == ("1000-1", "old", "1970-01-01T00:00:01+00:00")
    assert (new["id"], new["queue"], new["provider"], new["code"]) == (recent, "q", "groq", "timeout")
    assert new["errors"][0]["code"] == "cut"
    for option in (["--queue", "q"], ["--provider", "groq"], ["--code", "timeout"]):
        assert lines(run([*DEAD, "list", "--json", *option], **shell)) == [new]
    for option in (["--older-than", "2h"], ["--limit", "1"], ["--code", "cut", "--older-than", "1.5d"]):
        assert lines(run([*DEAD, "list", "--json", *option], **shell)) == [old]


def test_all_of_a_letter_is_shown_and_nothing_that_moves_a_terminal(shell: dict[str, str], bury: Any) -> None:
    id_ = bury("mine", provider="echo")
    shown = run([*DEAD, "show", "mine"], **shell)
    assert shown.status == 0
    assert "\x1b" not in shown.out
    for text in (
        id_,
        "x" * 100,
        "2023-11-14T22:13:20.000+00:00 attempt 3 echo cut: no",
        '"content": "hello"',
    ):
        assert text in shown.out
    (fields,) = lines(run([*DEAD, "show", id_, "--json"], **shell))
    assert fields["job"]["messages"] == [{"role": "user", "content": "hello"}]
    bury("broken", job=b"\xc1")
    (fields,) = lines(run([*DEAD, "show", "broken", "--json"], **shell))
    assert fields["job_hex"] == "c1"


def test_letters_are_retried_by_their_ids_and_by_their_jobs(
    shell: dict[str, str], redis: Redis, keys: Keys, bury: Any
) -> None:
    first, second = bury("one"), bury("two")
    bury("three")
    done = run([*DEAD, "retry", first, "two"], **shell)
    assert (done.status, done.out, done.err) == (0, "2 retried\n", "")
    jobs = [Job.decode(fields[b"job"]).id for _, fields in redis.xrange(keys.jobs("default"))]
    assert jobs == ["one", "two"]
    assert json.loads(run([*PRODUCER, "status", "two", "--json"], **shell).out)["status"] == "queued"
    left = [letter["job_id"] for letter in lines(run([*DEAD, "list", "--json"], **shell))]
    assert left == ["three"]
    assert second not in left


def test_all_are_retried_or_those_that_a_filter_leaves(shell: dict[str, str], bury: Any) -> None:
    for number in range(5):
        bury(f"j{number}", queue=f"q{number % 2}", code=f"c{number}")
    assert run([*DEAD, "retry", "--code", "c4"], **shell).out == "1 retried\n"
    assert run([*DEAD, "retry", "--queue", "q1"], **shell).out == "2 retried\n"
    outcomes = lines(run([*DEAD, "retry", "--all", "--json"], **shell))
    assert [(outcome["job_id"], outcome["outcome"]) for outcome in outcomes] == [
        ("j0", "retried"),
        ("j2", "retried"),
    ]
    nothing = run([*DEAD, "retry", "--all"], **shell)
    assert (nothing.status, nothing.out) == (0, "none\n")


def test_what_is_not_found_or_left_is_said_and_is_1(shell: dict[str, str], bury: Any) -> None:
    id_ = bury("mine")
    run([*PRODUCER, "send", "x", "--id", "mine", "--no-follow"], **shell)
    done = run([*DEAD, "retry", id_, "nobody"], **shell)
    assert (done.status, done.out) == (1, "1 already known, 1 not found\n")
    assert done.err == f"{id_}: already known\nnobody: not found\n"
    done = run([*DEAD, "drop", "5-5", "mine", "--json"], **shell)
    assert done.status == 1
    assert {outcome["id"]: outcome["outcome"] for outcome in lines(done)} == {
        id_: "dropped",
        "5-5": "not found",
    }
    shown = run([*DEAD, "show", "nobody"], **shell)
    assert (shown.status, shown.out, shown.err) == (1, "", "chat-producer: no dead letter 'nobody'\n")


def test_letters_are_dropped(shell: dict[str, str], redis: Redis, keys: Keys, bury: Any) -> None:
    for number in range(4):
        bury(f"j{number}", code=f"c{number}")
    assert run([*DEAD, "drop", "j0"], **shell).out == "1 dropped\n"
    assert run([*DEAD, "drop", "--code", "c1"], **shell).out == "1 dropped\n"
    assert (
        run([*DEAD, "drop", "--all"], **shell).out == "2 dropped\n"
    )  # nobody to ask where there is no terminal
    assert redis.xlen(keys.dead("default")) == 0
    assert redis.exists(keys.jobs("default")) == 0


@pytest.mark.parametrize(
    ("options", "answer", "left"), [([], b"n\n", 1), ([], b"y\n", 0), (["--yes"], b"", 0)]
)
def test_on_a_terminal_one_is_asked_before_all_are_dropped(
    shell: dict[str, str], redis: Redis, keys: Keys, bury: Any, options: list[str], answer: bytes, left: int
) -> None:
    bury("mine")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, answer)
        done = subprocess.run(
            [*DEAD, "drop", "--all", *options],
            stdin=theirs,
            capture_output=True,
            env=environment(**shell),
            cwd=ROOT,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert redis.xlen(keys.dead("default")) == left
    assert (done.returncode == 0) is (left == 0)
    assert (b"for good?" in done.stderr) is bool(answer)


def test_an_id_that_stands_in_two_queues_is_not_guessed_at(shell: dict[str, str], bury: Any) -> None:
    for queue in ("a", "b"):
        bury(f"of-{queue}", queue=queue, id_="1000-1")
    done = run([*DEAD, "drop", "1000-1"], **shell)
    assert (done.status, done.out) == (2, "")
    assert "--queue" in done.err
    assert run([*DEAD, "drop", "1000-1", "--queue", "a"], **shell).out == "1 dropped\n"
    assert [letter["queue"] for letter in lines(run([*DEAD, "list", "--json"], **shell))] == ["b"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"],
        ["drop"],
        ["drop", "--yes"],
        ["show"],
        ["retry", "x", "--all"],
        ["drop", "x", "--code", "cut"],
        ["list", "--older-than", "2 weeks"],
        ["list", "--limit", "0"],
    ],
)
def test_wrong_usage_is_2_and_touches_nothing(
    shell: dict[str, str], redis: Redis, keys: Keys, bury: Any, arguments: list[str]
) -> None:
    bury("x")
    done = run([*DEAD, *arguments], **shell)
    assert (done.status, done.out) == (2, "")
    assert "Traceback" not in done.err
    assert redis.xlen(keys.dead("default")) == 1


def test_a_queue_with_dead_letters_alone_is_listed(
    shell: dict[str, str], redis: Redis, keys: Keys, bury: Any
) -> None:
    bury("mine", queue="q")
    (told,) = lines(run([*PRODUCER, "queues", "--json"], **shell))
    assert (told["name"], told["dead"], told["dropped"], told["delayed"]) == ("q", 1, 0, 0)
    assert run([*PRODUCER, "queues"], **shell).lines[1].split()[-1] == "1"
    redis.hset(keys.counts("q"), "dead_dropped", 7)
    assert run([*PRODUCER, "queues"], **shell).lines[1].split()[-3:] == ["1", "(7", "dropped)"]
