"""What all tests share: the servers that they run on, a prefix of their own each, a producer and workers."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import structlog
from hypothesis import HealthCheck, settings
from redis.asyncio import Redis

from producer import Producer
from producer.connection import Url, connect
from producer.wire.keys import Keys
from tests.support.report import SECTIONS
from tests.support.servers import Server, fakeredis_server, system_redis, valkey_server
from worker import retry
from worker.providers.registry import Registry
from worker.providers_file import load_registry
from worker.settings import Settings
from worker.worker import Worker

_used: dict[str, int] = {}


def pytest_configure() -> None:
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())


def _available() -> list[str]:
    found = ["fakeredis", "valkey"]
    return (
        [*found, "redis"] if shutil.which("redis-server") or os.environ.get("CHAT_TEST_REDIS_URL") else found
    )


_STARTERS = {"fakeredis": fakeredis_server, "valkey": valkey_server, "redis": system_redis}


# A machine that stands still for a moment is no fault of what is tested; one that hangs ends at the test's own limit.
settings.register_profile("ours", deadline=timedelta(seconds=5), suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ours")

on_real_servers = pytest.mark.parametrize(
    "server", [name for name in _available() if name != "fakeredis"], indirect=True, scope="session"
)
"""For what the imitation cannot do, such as CLIENT KILL."""


@pytest.fixture(scope="session", params=_available())
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """Each server that this machine has; a test that asks for it runs once on every one."""
    with _STARTERS[request.param]() as running:
        _used.setdefault(running.described, 0)
        yield running


@pytest.fixture(scope="session")
def valkey() -> Iterator[Server]:
    """A real server, for what one server suffices for."""
    with valkey_server() as running:
        yield running


@pytest.fixture(autouse=True)
def _count_servers(request: pytest.FixtureRequest) -> None:
    if "server" in request.fixturenames:
        _used[request.getfixturevalue("server").described] += 1


def pytest_sessionfinish(session: pytest.Session) -> None:
    """One of several processes hands over what it has to tell."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["used"], output["sections"] = dict(_used), dict(SECTIONS)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    output = getattr(node, "workeroutput", {})
    for described, tests in output.get("used", {}).items():
        _used[described] = _used.get(described, 0) + tests
    for section, lines in output.get("sections", {}).items():
        SECTIONS[section] += lines


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for section, lines in SECTIONS.items():
        terminalreporter.section(section)
        for line in lines:
            terminalreporter.write_line(line)
    terminalreporter.section("servers")
    for described, tests in sorted(_used.items()):
        terminalreporter.write_line(f"{described}: {tests} tests")
    if "redis" not in _available():
        terminalreporter.write_line(
            "no system Redis: no redis-server on the PATH, CHAT_TEST_REDIS_URL not set"
        )


@pytest.fixture
def prefix() -> str:
    """A prefix that no other test uses, because all share the servers."""
    return f"t{uuid4().hex[:12]}"


@pytest.fixture
def keys(prefix: str) -> Keys:
    return Keys(prefix)


@pytest.fixture
async def redis(server: Server) -> AsyncIterator[Redis]:
    """A plain client, to look behind the scenes."""
    async with connect(Url(server.url), connect_timeout=5) as client:
        yield client


@pytest.fixture
async def producer(server: Server, prefix: str) -> AsyncIterator[Producer]:
    async with Producer(server.url, prefix=prefix) as client:
        yield client


@pytest.fixture
def shell(valkey: Server, prefix: str) -> dict[str, str]:
    """The variables with which every command finds the server and the prefix."""
    return {"CHAT_REDIS_URL": valkey.url, "CHAT_PREFIX": prefix}


@pytest.fixture
def gated(tmp_path: Path) -> str:
    """A configuration with a provider that waits at a gate between its two words."""
    path = tmp_path / "providers.toml"
    path.write_text('[providers.gated]\nkind = "tests.support.foreign:Gated"\n')
    return str(path)


@pytest.fixture
def longest_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are as long as they may be: one that chance makes short is over before a test has looked at it."""
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: high)


StartWorker = Callable[..., Awaitable[Worker]]


@pytest.fixture
async def start_worker(server: Server, prefix: str) -> AsyncIterator[StartWorker]:
    """Start workers inside this process; they are stopped, and their tasks checked, at the test's end."""
    async with AsyncExitStack() as stack:

        async def start(registry: Registry | None = None, **settings: object) -> Worker:
            values = {
                "redis_url": server.url,
                "prefix": prefix,
                "name": "w1",
                "grace": 5.0,
                "poll": 0.02,
                "backoff": 0.01,
                **settings,
            }
            worker = Worker(Settings(**values), registry or load_registry(None, {}))
            running = asyncio.create_task(worker.run())

            async def stop() -> None:
                worker.stop()
                worker.stop()
                await running

            stack.push_async_callback(stop)
            return worker

        yield start
