"""`chat-producer`, as a shell sees it: what it prints, what it reads, and its exit status."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from uuid import uuid4

import pytest
from redis import Redis

from producer.wire.events import Chunk, Done, Event, Started, Waiting
from producer.wire.frames import encode
from producer.wire.keys import Keys
from tests.support.processes import (
    PATIENCE,
    PRODUCER,
    ROOT,
    Ended,
    environment,
    run,
    running,
    worker,
)
from tests.support.servers import Server
from worker.verify.servers import quiet_port

CONFIG = """
[providers.theirs]
kind = "tests.support.foreign:Reciter"

[providers.gated]
kind = "tests.support.foreign:Gated"

[providers.slow]
kind = "echo"
models = ["slow-1"]
options = { delay = 60, chunk_size = 1 }
"""

SLOW = ["--provider", "slow"]
"""One character, and a minute until the next: no test waits for it."""


@pytest.fixture(scope="module")
def shell(valkey: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables with which a shell reaches a worker that answers on two queues."""
    config = tmp_path_factory.mktemp("config") / "providers.toml"
    config.write_text(CONFIG)
    prefix = f"t{uuid4().hex[:12]}"
    options = ["--queue", "default", "--queue", "other", "--name", "w1", "--config", str(config)]
    with worker(valkey.url, prefix, *options, "--grace", "0"):
        yield {"CHAT_REDIS_URL": valkey.url, "CHAT_PREFIX": prefix}


@pytest.fixture
def redis(valkey: Server) -> Iterator[Redis]:
    with Redis.from_url(valkey.url) as client:
        yield client


def job_of(err: str) -> str:
    """The id that `send` names on standard error."""
    (line,) = [line for line in err.splitlines() if line.startswith("job ")]
    return line.removeprefix("job ")


# -- send ------------------------------------------------------------------------------------------------------


def test_send_prints_the_text_and_nothing_else(shell: dict[str, str]) -> None:
    done = run([*PRODUCER, "send", "hello there", "--provider", "echo"], **shell)
    assert (done.status, done.out) == (0, "hello there\n")
    assert done.err == f"job {job_of(done.err)}\n"


def test_send_leaves_a_last_line_end_as_it_is(shell: dict[str, str]) -> None:
    assert run([*PRODUCER, "send", "a\nb\n", "--provider", "echo"], **shell).out == "a\nb\n"


def test_send_reads_standard_input_and_text_of_every_plane_goes_through(shell: dict[str, str]) -> None:
    text = "ascii, ümläut, \u05e9\u05dc\u05d5\u05dd, \u4e2d\u6587, \U0001f600, \U000e0041, \U0010fffd"
    done = run([*PRODUCER, "send", "-", "--provider", "echo"], stdin=text.encode(), **shell)
    assert (done.status, done.out) == (0, f"{text}\n")
    done = run([*PRODUCER, "send", "-", "--provider", "echo", "--json"], stdin=text.encode(), **shell)
    assert "".join(event.get("text", "") for event in map(json.loads, done.lines)) == text


def test_send_without_following_prints_the_id_alone_and_watch_reads_it(shell: dict[str, str]) -> None:
    sent = run([*PRODUCER, "send", "hello", "--provider", "echo", "--no-follow"], **shell)
    assert (sent.status, len(sent.lines), sent.err) == (0, 1, "")
    assert run([*PRODUCER, "watch", sent.lines[0]], **shell).out == "hello\n"
    sent = run([*PRODUCER, "send", "hello", "--id", "mine", "--no-follow", "--json"], **shell)
    assert json.loads(sent.out) == {"id": "mine"}


def test_send_takes_every_option(shell: dict[str, str]) -> None:
    options = [
        *("--provider", "theirs", "--model", "verses-2", "--queue", "other"),
        *("--system", "be brief", "--id", "all-options"),
        *("--option", "mood=merry", "--option", "n=[1, 2]"),
    ]
    done = run([*PRODUCER, "send", "hello", *options, "--json"], **shell)
    events = [json.loads(line) for line in done.lines]
    assert [event["type"] for event in events] == ["queued", "started", "chunk", "chunk", "chunk", "done"]
    assert events[0]["queue"] == "other"
    assert (events[1]["provider"], events[1]["model"], events[1]["worker"]) == ("theirs", "verses-2", "w1")
    assert [event["text"] for event in events[2:5]] == ["verses-2 ", "hello ", "merry "]
    assert job_of(done.err) == "all-options"
    # The same id again is the same job, with the same answer and the same ids.
    again = run([*PRODUCER, "send", "something else", "--id", "all-options", "--json"], **shell)
    assert again.lines == done.lines


def test_the_system_message_comes_first_and_options_are_json_where_they_can_be(
    shell: dict[str, str], redis: Redis
) -> None:
    queue = f"q{uuid4().hex[:8]}"
    options = ["--system", "be brief", "--option", "a=1", "--option", "b=x=y", "--option", 'c={"d": null}']
    run([*PRODUCER, "send", "hello", "--no-follow", "--queue", queue, *options], **shell)
    ((_, fields),) = redis.xrange(Keys(shell["CHAT_PREFIX"]).jobs(queue))
    import msgpack

    job = msgpack.unpackb(fields[b"job"])
    assert job["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hello"},
    ]
    assert job["options"] == {"a": 1, "b": "x=y", "c": {"d": None}}


@pytest.mark.parametrize("when", [["--delay", "3600"], ["--at", "2099-01-31T08:00:00+01:00"]])
def test_a_delayed_job_says_until_when(shell: dict[str, str], redis: Redis, when: list[str]) -> None:
    queue = f"q{uuid4().hex[:8]}"
    sent = run([*PRODUCER, "send", "hello", "--no-follow", "--queue", queue, *when], **shell)
    fields = json.loads(run([*PRODUCER, "status", sent.lines[0], "--json"], **shell).out)
    ((_, score),) = redis.zrange(Keys(shell["CHAT_PREFIX"]).later(queue), 0, -1, withscores=True)
    assert fields["status"] == "queued"
    assert abs(datetime.fromisoformat(fields["due"]).timestamp() * 1000 - score) < 1000


@pytest.mark.parametrize("as_option", [True, False])
def test_a_full_queue_is_1_and_says_when_to_try_again(shell: dict[str, str], *, as_option: bool) -> None:
    queue = ["--no-follow", "--queue", f"q{uuid4().hex[:8]}"]
    bound, variables = (
        (["--max-queue-length", "1"], {}) if as_option else ([], {"CHAT_MAX_QUEUE_LENGTH": "1"})
    )
    first = run([*PRODUCER, "send", "hello", *queue, *bound], **shell, **variables)
    second = run([*PRODUCER, "send", "hello", *queue, *bound], **shell, **variables)
    assert (first.status, second.status, second.out) == (0, 1, "")
    assert re.search(r"is full: 1 jobs .* try again in \d+\.\d s", one_line(second.err))


def test_options_come_from_the_environment_too(shell: dict[str, str]) -> None:
    done = run(
        [*PRODUCER, "send", "hello", "--json"],
        **shell,
        CHAT_PROVIDER="theirs",
        CHAT_MODEL="verses-7",
        CHAT_QUEUE="other",
    )
    events = [json.loads(line) for line in done.lines]
    assert (events[0]["queue"], events[1]["provider"], events[1]["model"]) == ("other", "theirs", "verses-7")


def test_an_argument_comes_before_the_environment(shell: dict[str, str]) -> None:
    done = run([*PRODUCER, "send", "hello", "--provider", "echo"], **shell, CHAT_PROVIDER="nobody")
    assert done.out == "hello\n"


def test_python_m_producer_is_the_same_command(shell: dict[str, str]) -> None:
    done = run([sys.executable, "-m", "producer", "send", "hello", "--provider", "echo"], **shell)
    assert (done.status, done.out) == (0, "hello\n")
    assert "chat-producer" in run([sys.executable, "-m", "producer", "--help"]).out


# -- watch -----------------------------------------------------------------------------------------------------


def test_watch_after_the_end_shows_the_same_text_and_the_same_ids(shell: dict[str, str]) -> None:
    first = run([*PRODUCER, "send", "hello there", "--provider", "echo", "--json"], **shell)
    job = job_of(first.err)
    again = run([*PRODUCER, "watch", job, "--json"], **shell)
    assert (again.status, again.lines) == (0, first.lines)
    events = [json.loads(line) for line in again.lines]
    assert [event["id"].partition("-")[2] for event in events] == ["1", "0", "1", "2", "3", "4"]
    # From any cursor on, exactly what follows it.
    for number, event in enumerate(events):
        if number in {0, 2, 5}:
            after = run([*PRODUCER, "watch", job, "--json", "--after", event["id"]], **shell)
            assert (after.status, after.lines) == (0, first.lines[number + 1 :])
    assert run([*PRODUCER, "watch", job], **shell).out == "hello there\n"


def test_watch_of_a_failed_job_has_its_status_even_when_its_last_event_was_seen(
    shell: dict[str, str],
) -> None:
    first = run([*PRODUCER, "send", "hello", "--provider", "nobody", "--json"], **shell)
    last = json.loads(first.lines[-1])
    after = run([*PRODUCER, "watch", job_of(first.err), "--after", last["id"]], **shell)
    assert (first.status, after.status, after.out) == (1, 1, "")


# -- status, cancel, queues ------------------------------------------------------------------------------------


def test_status_tells_what_is_known(shell: dict[str, str]) -> None:
    job = job_of(run([*PRODUCER, "send", "hello", "--provider", "echo"], **shell).err)
    fields = json.loads(run([*PRODUCER, "status", job, "--json"], **shell).out)
    assert {name: fields[name] for name in ("job_id", "status", "queue", "provider", "worker")} == {
        "job_id": job,
        "status": "done",
        "queue": "default",
        "provider": "echo",
        "worker": "w1",
    }
    assert fields["attempts"] == 1
    assert fields["created_at"] <= fields["started_at"] <= fields["finished_at"]
    plain = run([*PRODUCER, "status", job], **shell)
    assert dict(line.split(maxsplit=1) for line in plain.lines)["status"] == "done"


def test_cancel_ends_a_running_job_and_tells_its_reader(shell: dict[str, str]) -> None:
    with running([*PRODUCER, "send", "ab", *SLOW, "--id", "to-cancel"], **shell) as reader:
        reader.says("a", on="out")
        cancelled = run([*PRODUCER, "cancel", "to-cancel"], **shell)
        assert (cancelled.status, cancelled.out) == (0, "requested\n")
        ended = reader.ends()
    assert (ended.status, ended.out) == (1, "a\n")
    assert "was cancelled" in ended.err
    again = run([*PRODUCER, "cancel", "to-cancel", "--json"], **shell)
    assert json.loads(again.out) == {"id": "to-cancel", "outcome": "already finished"}


def test_cancel_of_a_queued_job_ends_it_at_once(shell: dict[str, str]) -> None:
    run([*PRODUCER, "send", "hello", "--queue", "unserved", "--id", "queued", "--no-follow"], **shell)
    cancelled = run([*PRODUCER, "cancel", "queued", "--json"], **shell)
    assert json.loads(cancelled.out) == {"id": "queued", "outcome": "cancelled"}


def test_queues_are_listed(shell: dict[str, str]) -> None:
    own = {**shell, "CHAT_PREFIX": f"t{uuid4().hex[:12]}"}
    assert run([*PRODUCER, "queues", "--json"], **own).lines == []
    for text in ("one", "two"):
        run([*PRODUCER, "send", text, "--queue", "busy", "--no-follow"], **own)
    (queue,) = map(json.loads, run([*PRODUCER, "queues", "--json"], **own).lines)
    assert queue.pop("oldest_age") >= 0
    numbers = {"length": 2, "in_flight": 0, "workers": 0, "delayed": 0, "dead": 0, "dropped": 0}
    assert queue == {"name": "busy", **numbers}
    header, row = run([*PRODUCER, "queues"], **own).lines
    assert header.split() == ["QUEUE", "LENGTH", "IN", "FLIGHT", "OLDEST", "WORKERS", "DELAYED", "DEAD"]
    assert row.split()[:3] == ["busy", "2", "0"]
    served = {q["name"]: q for q in map(json.loads, run([*PRODUCER, "queues", "--json"], **shell).lines)}
    assert served["other"]["workers"] == 1


# -- exit status -----------------------------------------------------------------------------------------------


def one_line(err: str) -> str:
    """The message, which is one line and names the command."""
    (line,) = [line for line in err.splitlines() if not line.startswith("job ")]
    assert line.startswith("chat-producer: ")
    return line


def test_a_failed_job_is_1(shell: dict[str, str]) -> None:
    done = run([*PRODUCER, "send", "hello", "--provider", "nobody"], **shell)
    assert (done.status, done.out) == (1, "")
    assert "unknown_provider" in one_line(done.err)


def test_cancel_waits_for_the_end_if_it_is_told_to(shell: dict[str, str]) -> None:
    with running([*PRODUCER, "send", "ab", *SLOW, "--id", "to-wait-for"], **shell) as reader:
        reader.says("a", on="out")
        assert run([*PRODUCER, "cancel", "to-wait-for", "--wait"], **shell) == Ended(0, "cancelled\n", "")
        assert reader.ends().status == 1
    again = run([*PRODUCER, "cancel", "to-wait-for", "--wait", "--json"], **shell)
    assert json.loads(again.out) == {"id": "to-wait-for", "outcome": "already finished"}


def test_cancel_of_a_job_that_does_not_end_in_time_is_1(shell: dict[str, str], redis: Redis) -> None:
    job = run([*PRODUCER, "send", "x", "--queue", "unserved", "--no-follow"], **shell).out.strip()
    redis.hset(Keys(shell["CHAT_PREFIX"]).record(job), mapping={"status": "running", "attempt": 5})
    done = run([*PRODUCER, "cancel", job, "--wait", "--timeout", "0.1"], **shell)
    assert (done.status, done.out) == (1, "requested\n")
    assert "its cancel stands" in one_line(done.err)


@pytest.mark.parametrize("wait", [[], ["--wait"]])
def test_cancel_of_an_unknown_job_says_so_and_is_1(shell: dict[str, str], wait: list[str]) -> None:
    assert run([*PRODUCER, "cancel", "x", *wait], **shell) == Ended(1, "not found\n", "")
    done = run([*PRODUCER, "cancel", "x", "--json", *wait], **shell)
    assert (done.status, json.loads(done.out)) == (1, {"id": "x", "outcome": "not found"})


@pytest.mark.parametrize("command", [["watch", "x"], ["status", "x"]])
def test_an_unknown_job_is_1(shell: dict[str, str], command: list[str]) -> None:
    done = run([*PRODUCER, *command], **shell)
    assert (done.status, done.out) == (1, "")
    assert "'x' is not known" in one_line(done.err)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["send", "hello", "--queue", "a b"], "queue"),
        (["send", "hello", "--id", "{}"], "id"),
        (["send", "hello", "--provider", "a b"], "provider"),
        (["send", "hello", "--delay", "-1"], "delay"),
        (["send", "hello", "--delay", "1", "--at", "2099-01-01T00:00:00Z"], "at"),
        (["watch", "x", "--after", "yesterday"], "yesterday"),
        (["status", "x", "--redis", "http://localhost"], "redis://"),
        (["status", "x", "--redis", "redis://localhost:99999"], "99999"),
        (["status", "x", "--prefix", "a b"], "prefix"),
    ],
)
def test_a_value_that_cannot_be_used_is_2(shell: dict[str, str], arguments: list[str], named: str) -> None:
    done = run([*PRODUCER, *arguments], **shell)
    assert (done.status, done.out) == (2, "")
    assert named in one_line(done.err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["send"],
        ["send", "x", "--option", "novalue"],
        ["send", "x", "--at", "tomorrow"],
        ["send", "x", "--at", "2099-01-01T00:00:00"],
        ["send", "x", "--max-queue-length", "0"],
        ["sned", "x"],
        ["send", "x", "--colour"],
    ],
)
def test_wrong_usage_is_2(shell: dict[str, str], arguments: list[str]) -> None:
    done = run([*PRODUCER, *arguments], **shell)
    assert (done.status, done.out) == (2, "")
    assert "Traceback" not in done.err


def test_input_that_is_not_text_is_2(shell: dict[str, str]) -> None:
    done = run([*PRODUCER, "send", "-"], stdin=b"caf\xe9", **shell, PYTHONIOENCODING="utf-8:strict")
    assert (done.status, done.out) == (2, "")
    assert "UTF-8" in one_line(done.err)


def test_without_redis_every_command_is_3() -> None:
    """All at once, because each tries for its five seconds."""
    url = f"redis://me:hunter2@127.0.0.1:{quiet_port()}"
    dead = (["dead", "list"], ["dead", "show", "x"], ["dead", "retry", "x"], ["dead", "drop", "--all"])
    commands = (["send", "x"], ["watch", "x"], ["status", "x"], ["cancel", "x"], ["queues"], *dead)
    with ExitStack() as stack:
        readers = [
            stack.enter_context(running([*PRODUCER, *command, "--redis", url])) for command in commands
        ]
        ends = [reader.ends() for reader in readers]
    for ended in ends:
        assert (ended.status, ended.out) == (3, "")
        line = one_line(ended.err)
        assert url.rpartition("@")[2] in line
        assert "hunter2" not in line


def test_without_redis_and_without_an_embedded_server_is_3(tmp_path: Path) -> None:
    done = run([*PRODUCER, "status", "x"], XDG_RUNTIME_DIR=str(tmp_path))
    assert done.status == 3
    assert "--redis or CHAT_REDIS_URL" in one_line(done.err)


def test_a_runtime_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    """`su` and containers often leave XDG_RUNTIME_DIR pointing nowhere; and the folder may not be ours alone."""
    done = run([*PRODUCER, "status", "x"], XDG_RUNTIME_DIR=str(tmp_path / "absent"))
    assert done.status == 3
    one_line(done.err)
    folder = tmp_path / f"chatrelay-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    done = run([*PRODUCER, "status", "x"], XDG_RUNTIME_DIR=str(tmp_path))
    assert done.status == 3
    assert str(folder) in one_line(done.err)


def test_ctrl_c_while_following_is_130_and_the_job_goes_on(shell: dict[str, str]) -> None:
    with running([*PRODUCER, "send", "ab", *SLOW, "--id", "left"], **shell) as reader:
        reader.says("a", on="out")
        reader.signal(signal.SIGINT)
        ended = reader.ends()
    assert (ended.status, ended.out.rstrip("\n")) == (130, "a")
    assert ended.err == "job left\n"
    assert json.loads(run([*PRODUCER, "status", "left", "--json"], **shell).out)["status"] == "running"
    run([*PRODUCER, "cancel", "left"], **shell)


# -- a reader of our output that goes ------------------------------------------------------------------------


def test_head_closes_the_pipe_and_nothing_but_the_text_is_seen(shell: dict[str, str]) -> None:
    command = f"'{PRODUCER[0]}' send - --provider echo --option chunk_size=1 --option delay=0.01 | head -c1"
    done = run(["sh", "-c", command], stdin=b"x" * 100, **shell)
    assert done.out == "x"
    assert done.err == f"job {job_of(done.err)}\n"


@pytest.mark.parametrize("command", [["status"], ["watch"], ["watch", "--json"], ["status", "--json"]])
def test_a_pipe_that_is_closed_from_the_start_leaves_no_traceback(
    shell: dict[str, str], command: list[str]
) -> None:
    job = job_of(run([*PRODUCER, "send", "hello", "--provider", "echo"], **shell).err)
    assert into_closed_pipe([*command, job], shell) == ""


@pytest.mark.parametrize(
    "command", [["queues"], ["queues", "--json"], ["dead", "list"], ["dead", "retry", "--all"]]
)
def test_lists_into_a_closed_pipe_leaves_no_traceback(shell: dict[str, str], command: list[str]) -> None:
    assert into_closed_pipe(command, shell) == ""


def into_closed_pipe(arguments: list[str], shell: dict[str, str]) -> str:
    """Run with a standard output that nobody reads; return what was said on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*PRODUCER, *arguments],
            stdout=writing,
            stderr=subprocess.PIPE,
            env=environment(**shell),
            cwd=ROOT,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        os.close(writing)
    return done.stderr.decode()


def test_a_pipe_that_is_closed_before_the_last_line_end_leaves_no_traceback(
    shell: dict[str, str], redis: Redis
) -> None:
    """The line end that `watch` adds is the last thing it writes: it too may find nobody."""
    keys = Keys(shell["CHAT_PREFIX"])
    job = run([*PRODUCER, "send", "x", "--queue", "unserved", "--no-follow"], **shell).out.strip()
    log, channel = keys.log(job), keys.events(job)
    with subprocess.Popen(
        [*PRODUCER, "watch", job],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(**shell),
        cwd=ROOT,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        frame = encode(Started("5-0", 1, "echo", "w")) + encode(Chunk("5-1", "hello"))
        redis.xadd(log, {"f": frame}, id="5-1")
        redis.publish(channel, frame)
        assert process.stdout.read(5) == b"hello"
        process.stdout.close()
        frame = encode(Done("5-2", "stop", 5))
        redis.xadd(log, {"f": frame}, id="5-2")
        redis.publish(channel, frame)
        assert process.stderr.read().decode() == ""
        assert process.wait(PATIENCE) in {0, 1}


def log_frames(redis: Redis, shell: dict[str, str], job: str, *events: Event) -> None:
    """Write events as a worker would: each its own frame, logged and published."""
    keys = Keys(shell["CHAT_PREFIX"])
    for event in events:
        redis.xadd(keys.log(job), {"f": encode(event)}, id=event.id)
        redis.publish(keys.events(job), encode(event))


def test_what_a_later_attempt_replaced_is_not_printed(shell: dict[str, str], redis: Redis) -> None:
    job = run([*PRODUCER, "send", "x", "--queue", "unserved", "--no-follow"], **shell).out.strip()
    first = (Started("5-0", 1, "echo", "w"), Chunk("5-1", "old"), Waiting("5-2", 0, "released"))
    log_frames(
        redis, shell, job, *first, Started("6-0", 1, "echo", "w"), Chunk("6-1", "new"), Done("6-2", "stop", 3)
    )
    assert run([*PRODUCER, "watch", job], **shell) == Ended(0, "new\n", "")


def test_a_file_is_not_given_the_beginnings_of_two_answers(shell: dict[str, str], redis: Redis) -> None:
    job = run([*PRODUCER, "send", "x", "--queue", "unserved", "--no-follow"], **shell).out.strip()
    with running([*PRODUCER, "watch", job], **shell) as watching:
        log_frames(redis, shell, job, Started("5-0", 1, "echo", "w"), Chunk("5-1", "old"))
        watching.says("old", on="out")
        log_frames(redis, shell, job, Waiting("5-2", 0, "released"), Started("6-0", 1, "echo", "w"))
        log_frames(redis, shell, job, Chunk("6-1", "new"), Done("6-2", "stop", 3))
        ended = watching.ends()
    assert (ended.status, ended.out) == (1, "old\n")
    assert "began again" in ended.err


def test_an_answer_that_was_not_finished_is_said_to_be(shell: dict[str, str], redis: Redis) -> None:
    job = run([*PRODUCER, "send", "x", "--queue", "unserved", "--no-follow"], **shell).out.strip()
    log_frames(
        redis, shell, job, Started("5-0", 1, "echo", "w"), Chunk("5-1", "half"), Done("5-2", "length", 4)
    )
    assert run([*PRODUCER, "watch", job], **shell) == Ended(0, "half\n", "-- finished: length --\n")


def test_a_full_disk_is_said_in_one_line(shell: dict[str, str]) -> None:
    done = run(["sh", "-c", f"{PRODUCER[0]} send hello --provider echo > /dev/full"], **shell)
    assert done.status == 1
    assert done.err.splitlines()[1:] == ["chat-producer: [Errno 28] No space left on device"]
