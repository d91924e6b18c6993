"""The servers to measure on: each one fresh, on loopback TCP, without persistence, ended afterwards."""

import contextlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import redis

from benchmarks.processes import Process
from producer.connection import embedded

_START_TIMEOUT = 10.0  # seconds
_OLDEST = 7


@dataclass(frozen=True, slots=True)
class Server:
    """A server that runs. ``process`` tells what it takes of the machine."""

    name: str
    url: str
    described: str
    process: Process


def available() -> list[str]:
    """Return the names of the servers that this machine has: ``valkey``, ``redis``."""
    found = ["valkey"] if embedded.valkey_binary() is not None else []
    return [*found, "redis"] if _system_release() >= _OLDEST else found


@contextlib.contextmanager
def started(name: str) -> Iterator[Server]:
    """Run a server of that name."""
    with _embedded() if name == "valkey" else _system() as url:
        with redis.Redis.from_url(url) as client:
            about = client.info("server")
        kind, release = (
            ("embedded Valkey", about["valkey_version"])
            if "valkey_version" in about
            else ("Redis", about["redis_version"])
        )
        yield Server(name, url, f"{kind} {release}, no persistence", Process(int(about["process_id"])))


@contextlib.contextmanager
def _embedded() -> Iterator[str]:
    server = embedded.start()
    try:
        yield server.url
    finally:
        server.stop()


@contextlib.contextmanager
def _system() -> Iterator[str]:
    binary = shutil.which("redis-server")
    assert binary is not None, "asked for only where there is one"
    with tempfile.TemporaryDirectory() as folder:
        port = _free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
            try:
                url = f"redis://127.0.0.1:{port}"
                _wait_for(url, process)
                yield url
            finally:
                process.terminate()
                process.wait(timeout=_START_TIMEOUT)


def _wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    ends_at = time.monotonic() + _START_TIMEOUT
    with redis.Redis.from_url(url) as client:
        while time.monotonic() < ends_at and process.poll() is None:
            with contextlib.suppress(redis.ConnectionError):
                client.ping()
                return
            time.sleep(0.01)
    raise RuntimeError("the redis-server did not come up")


def _system_release() -> int:
    binary = shutil.which("redis-server")
    if binary is None:
        return 0
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"v=(\d+)", said)
    return int(found[1]) if found else 0


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
