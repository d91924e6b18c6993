"""The servers under the tests."""

import os
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from fakeredis import TcpFakeServer

from producer.connection import embedded


@dataclass(frozen=True)
class Server:
    """A running server. ``real``: not an imitation."""

    url: str
    described: str
    real: bool


@contextmanager
def valkey_server() -> Iterator[Server]:
    running = embedded.start()
    try:
        yield Server(running.url, f"Valkey {_version(running.url, 'valkey_version')} (embedded)", True)
    finally:
        running.stop()


@contextmanager
def fakeredis_server() -> Iterator[Server]:
    server = TcpFakeServer(("127.0.0.1", 0))
    server.daemon_threads = True
    server.socket.listen(128)  # with its own backlog of 5, more that come at once wait a second, or are reset
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Server(f"redis://127.0.0.1:{server.server_address[1]}", "fakeredis (TCP server)", False)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def system_redis() -> Iterator[Server]:
    given = os.environ.get("CHAT_TEST_REDIS_URL")
    if given:
        yield Server(given, f"Redis {_version(given, 'redis_version')} (CHAT_TEST_REDIS_URL)", True)
        return
    binary = shutil.which("redis-server")
    assert binary is not None, "asked for only where there is one"
    with _own_process(binary) as url:
        yield Server(url, f"Redis {_version(url, 'redis_version')} (system)", True)


@contextmanager
def _own_process(binary: str) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        # A port of 0 is none at all: a socket file cannot collide with anybody's.
        socket = Path(folder) / "redis.sock"
        command = [binary, "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    if "ready to accept connections" in line.lower():
                        break
                yield f"unix://{socket}"
            finally:
                process.terminate()
                process.communicate(timeout=10)


def _version(url: str, field: str) -> str:
    with redis.Redis.from_url(url) as client:
        return str(client.info("server")[field])
