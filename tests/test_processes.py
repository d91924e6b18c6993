"""`chat-worker run --processes N`, as an operator sees it: N workers that one command starts, keeps and stops."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis import Redis

from producer.wire.keys import Keys
from tests.support.processes import PRODUCER, WORKER, Running, run, running, without
from tests.support.servers import Server

SECRET = "hunter2-is-no-good-password"
FAST_TAKE_OVER = ["--lease", "0.6", "--sweep", "0.2"]

PATIENT = ["--grace", "60"]

# A supervisor that leads a process group, as one does that a shell has started.
IN_A_GROUP = [sys.executable, "-c", "import os, sys; os.setsid(); os.execv(sys.argv[1], sys.argv[1:])"]


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A gate that opens when something is written to it, for one job."""
    path = tmp_path / "gate"
    os.mkfifo(path)
    return path


@contextmanager
def supervised(shell: dict[str, str], *options: str, count: int = 2, **variables: str) -> Iterator[Running]:
    """Workers named w-1, w-2 … and their supervisor, all ready."""
    # A grace time that a test does not wait for, if it leaves a job at the gate.
    own = ["--processes", str(count), "--name", "w", "--grace", "0.5"]
    command = [*IN_A_GROUP, *WORKER, "run", *own, *options]
    with running(command, **{**shell, "CHAT_LOG_FORMAT": "json", **variables}) as started:
        started.says("worker ready", times=count)
        yield started


def lines(started: Running, event: str) -> list[dict[str, object]]:
    """The log lines that tell of ``event``."""
    told = [json.loads(line) for line in started.err.splitlines() if line.startswith("{")]
    return [line for line in told if line["event"] == event]


def pid_of(started: Running, name: str) -> int:
    """The process that the worker of this name runs in, after however many others."""
    pids = {f"w-{line['number']}": line["pid"] for line in lines(started, "worker process started")}
    return int(str(pids[name]))


@contextmanager
def running_job(shell: dict[str, str], job: str) -> Iterator[tuple[Running, str]]:
    """A reader of a job that stands at the gate, and the name of the worker that has it."""
    send = [*PRODUCER, "send", "x", "--provider", "gated", "--id", job, "--json"]
    with running(send, **shell) as reader:
        reader.says('"first "', on="out")
        (name,) = [e["worker"] for e in map(json.loads, reader.out.splitlines()) if e["type"] == "started"]
        yield reader, name


def events(reader: Running) -> list[dict[str, object]]:
    return [json.loads(line) for line in reader.ends().lines]


def types(reader: Running) -> list[object]:
    return [event["type"] for event in events(reader)]


# -- start -----------------------------------------------------------------------------------------------------


def test_so_many_workers_serve_and_carry_the_name_with_their_numbers(
    shell: dict[str, str], gated: str
) -> None:
    with supervised(shell, "--config", gated, "--concurrency", "1", count=3, TEST_GATE="closed"):
        jobs = [running_job(shell, f"job-{number}") for number in range(3)]
        with jobs[0] as (_, first), jobs[1] as (_, second), jobs[2] as (_, third):
            assert {first, second, third} == {"w-1", "w-2", "w-3"}


def test_without_a_name_each_is_called_by_its_host_and_its_process(shell: dict[str, str]) -> None:
    with running([*WORKER, "run"], **shell, CHAT_PROCESSES="2", CHAT_LOG_FORMAT="json") as started:
        started.says("worker ready", times=2)
        pids = {str(line["pid"]) for line in lines(started, "worker process started")}
        assert {str(line["name"]).rpartition("-")[2] for line in lines(started, "worker ready")} == pids


def test_one_process_is_the_worker_itself(shell: dict[str, str]) -> None:
    with running([*WORKER, "run", "--processes", "1"], **shell, CHAT_LOG_FORMAT="json") as started:
        started.says("worker ready")
        (ready,) = lines(started, "worker ready")
        assert str(ready["name"]).endswith(f"-{started.process.pid}")


def test_options_variables_and_weights_reach_the_workers(shell: dict[str, str], prefix: str) -> None:
    options = ["--queue", "one,3", "--queue", "two", "--strict", "--log-level", "debug", "--retention", "77"]
    with supervised(shell, *options) as started:
        assert [line["queues"] for line in lines(started, "worker ready")] == [["one", "two"]] * 2
        sent = run([*PRODUCER, "send", "x", "--provider", "echo", "--queue", "two"], **shell)
        job = sent.err.removeprefix("job ").strip()
        with Redis.from_url(shell["CHAT_REDIS_URL"]) as redis:
            assert 60_000 < redis.pttl(Keys(prefix).log(job)) <= 77_000


@pytest.mark.parametrize("way", ["option", "variable"])
def test_g12_a_password_is_in_no_command_line_that_the_operator_did_not_write(
    valkey: Server, way: str
) -> None:
    url = valkey.url.replace("redis://", f"redis://me:{SECRET}@")
    options = ["--redis", url] if way == "option" else []
    variables = {"CHAT_REDIS_URL": url} if way == "variable" else {}
    with running([*WORKER, "run", "--processes", "2", *options], **variables) as started:
        started.says("redis refuses the credentials", times=2)  # so they were told of it
        for line in lines(started, "worker process started"):
            command = Path(f"/proc/{line['pid']}/cmdline").read_text()
            assert "worker" in command
            assert SECRET not in command
        started.signal(signal.SIGTERM)
        assert SECRET not in started.ends().err


def test_without_a_url_the_supervisor_has_the_embedded_server_and_all_use_it(tmp_path: Path) -> None:
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with running([*WORKER, "run", "--processes", "2"], **runtime) as started:
        started.says("worker ready", times=2)
        (embedded,) = lines(started, "no --redis given, so there is an embedded server")
        assert {line["url"] for line in lines(started, "worker ready")} == {embedded["url"]}
        assert run([*PRODUCER, "send", "x", "--provider", "echo"], **runtime).out == "x\n"
        started.signal(signal.SIGTERM)
        assert started.ends().status == 0
    assert run([*PRODUCER, "queues"], **runtime).status == 3


# -- keep ------------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_replaced_and_its_job_is_answered(
    shell: dict[str, str], gated: str, gate: Path
) -> None:
    options = ["--config", gated, *FAST_TAKE_OVER]
    with (
        supervised(shell, *options, TEST_GATE=str(gate)) as started,
        running_job(shell, "its-job") as (reader, name),
    ):
        os.kill(pid_of(started, name), signal.SIGKILL)
        started.says("worker ready", times=3)
        assert [line["name"] for line in lines(started, "worker ready")].count(name) == 2
        (told,) = lines(started, "a worker process ended, starting another")
        assert told["ended"] == "by SIGKILL"
        reader.says('"first "', on="out", times=2)
        gate.write_text("open")
        assert types(reader) == ["queued", "started", "chunk", "started", "chunk", "chunk", "done"]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--concurrency", "0"], "concurrency"),
        (["--name", "x" * 127], "name"),  # with its number it is too long
        (["--processes", "0"], "processes"),
        (["--config", "nowhere.toml"], "cannot be read"),
        (["--redis", f"http://me:{SECRET}@h"], "redis://"),
    ],
)
def test_what_cannot_be_used_is_told_once_and_starts_nobody(options: list[str], named: str) -> None:
    ended = run([*WORKER, "run", "--processes", "2", *options], CHAT_REDIS_URL="redis://127.0.0.1:1")
    assert ended.status == 2
    assert named in ended.err
    assert ended.err.count("chat-worker: ") == (named != "processes")
    assert "worker process started" not in ended.err
    assert SECRET not in ended.err


def test_a_replacement_that_cannot_use_its_settings_stops_all_with_status_2_and_running_jobs_finish(
    shell: dict[str, str], gated: str, gate: Path
) -> None:
    with (
        supervised(shell, *PATIENT, "--config", gated, TEST_GATE=str(gate)) as started,
        running_job(shell, "runs-on") as (reader, name),
    ):
        Path(gated).write_text("[providers.x\n")
        (other,) = {"w-1", "w-2"} - {name}
        os.kill(pid_of(started, other), signal.SIGKILL)
        started.says("a worker cannot use its settings")
        started.says("stopping: finishing what runs")
        gate.write_text("open")
        assert types(reader) == ["queued", "started", "chunk", "chunk", "done"]
        ended = started.ends()
    assert ended.status == 2
    assert f"chat-worker: {gated}:" in ended.err


# -- stop ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g10_a_signal_to_the_whole_group_drains_once_and_running_jobs_finish(
    shell: dict[str, str], gated: str, gate: Path, number: int
) -> None:
    """Ctrl-C reaches every process of the group. Workers that were in it would hear it twice, and hand back."""
    with (
        supervised(shell, *PATIENT, "--config", gated, TEST_GATE=str(gate)) as started,
        running_job(shell, "finishes") as (reader, _),
    ):
        os.killpg(started.process.pid, number)
        started.says("stopping: finishing what runs")
        run([*PRODUCER, "send", "x", "--provider", "echo", "--id", "too-late", "--no-follow"], **shell)
        gate.write_text("open")
        assert types(reader) == ["queued", "started", "chunk", "chunk", "done"]
        ended = started.ends()
    assert (ended.status, ended.out) == (0, "")
    stopped = lines(started, "worker stopped")
    assert sorted(str(line["worker"]) for line in stopped) == [
        "w-1",
        "w-2",
    ]  # as in every line that one of them wrote
    assert "Traceback" not in ended.err
    status = run([*PRODUCER, "status", "too-late", "--json"], **shell)
    assert json.loads(status.out)["status"] == "queued"
    with Redis.from_url(shell["CHAT_REDIS_URL"]) as redis:
        (group,) = redis.xinfo_groups(Keys(shell["CHAT_PREFIX"]).jobs("default"))
        assert (group["pending"], group["consumers"]) == (0, 0)


def test_g10_workers_that_are_told_twice_have_their_grace_time(
    shell: dict[str, str], gated: str, gate: Path
) -> None:
    """Once by whoever stops all processes of the service, and once by the supervisor."""
    with (
        supervised(shell, *PATIENT, "--config", gated, TEST_GATE=str(gate)) as started,
        running_job(shell, "told-twice") as (reader, name),
    ):
        os.kill(pid_of(started, name), signal.SIGTERM)
        started.says("stopping: finishing what runs")
        started.signal(signal.SIGTERM)
        started.says("stopping the workers")
        started.says("worker stopped")  # the other one, so that both have been told
        gate.write_text("open")
        assert started.ends().status == 0
        assert types(reader)[-1] == "done"


def test_g10_a_second_signal_hands_back_at_once(shell: dict[str, str], gated: str) -> None:
    with (
        supervised(shell, *PATIENT, "--config", gated, TEST_GATE="closed") as started,
        running_job(shell, "handed-back") as (reader, _),
    ):
        started.signal(signal.SIGTERM)
        started.says("stopping: finishing what runs")
        started.signal(signal.SIGTERM)
        assert started.ends().status == 0
        reader.says('"released"', on="out")


def test_a_signal_that_comes_while_the_workers_start_stops_them(tmp_path: Path) -> None:
    with running([*WORKER, "run", "--processes", "2"], XDG_RUNTIME_DIR=str(tmp_path)) as started:
        started.says("worker process started")
        started.signal(signal.SIGTERM)
        ended = started.ends()
    assert ended.status == 0
    assert "Traceback" not in ended.err


def test_workers_whose_supervisor_is_killed_finish_what_runs_and_stop(
    shell: dict[str, str], gated: str, gate: Path
) -> None:
    with (
        supervised(shell, *PATIENT, "--config", gated, TEST_GATE=str(gate)) as started,
        running_job(shell, "orphaned") as (reader, _),
    ):
        started.signal(signal.SIGKILL)
        started.says("stopping: finishing what runs")
        gate.write_text("open")
        assert types(reader) == ["queued", "started", "chunk", "chunk", "done"]
        ended = started.ends()  # with the last process that can write to its outputs
    assert ended.status == -signal.SIGKILL
    assert {line["name"] for line in lines(started, "worker stopped")} == {"w-1", "w-2"}


def test_a_supervisor_needs_no_http(tmp_path: Path, shell: dict[str, str]) -> None:
    """It lives beside the workers: what it does not load, it does not hold."""
    variables = {**without(tmp_path / "hide", "aiohttp"), **shell}
    code = (
        "import sys; from importlib import util; util.find_spec = lambda name: name\n"
        "sys.argv = ['chat-worker', 'run', '--processes', '2']\n"
        "from worker.__main__ import main; main()\n"
    )
    with running([sys.executable, "-c", code], **variables) as started:
        started.says("aiohttp is not installed", times=2)  # say the workers
        assert lines(started, "supervisor ready")
