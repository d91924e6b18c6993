"""Our commands as processes of their own, of which a test waits for facts: a text, a port, an end."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fakeredis import TcpFakeServer

ROOT = Path(__file__).parents[2]
PATHS = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
"""Where processes find our modules: the compiled ones, if these tests were told where they are, or the sources."""

PATIENCE = 15.0  # seconds after which a fact that did not come is a failed test

WORKER = [str(Path(sys.executable).with_name("chat-worker"))]
PRODUCER = [str(Path(sys.executable).with_name("chat-producer"))]


def environment(**variables: str | None) -> dict[str, str]:
    """The environment without what the person at the keyboard has set for chatrelay, and with ``variables``."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("CHAT_", "OPENAI_"))}
    given = {"PYTHONPATH": PATHS, "TERM": "dumb", "COLUMNS": "200", **variables}
    return {name: value for name, value in {**own, **given}.items() if value is not None}


@dataclass(frozen=True)
class Ended:
    """A process that has ended: its status, and what it wrote."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def run(command: Sequence[str], *, stdin: bytes = b"", **variables: str | None) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        command,
        input=stdin,
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        cwd=ROOT,
        env=environment(**variables),
    )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


class Running:
    """A process that runs; what it writes is read as it comes."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self._changed = threading.Condition()
        self._texts = {"out": b"", "err": b""}
        assert process.stdout is not None
        assert process.stderr is not None
        streams = {"out": process.stdout, "err": process.stderr}
        self._threads = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in streams.items()
        ]
        for thread in self._threads:
            thread.start()

    @property
    def out(self) -> str:
        return self._texts["out"].decode(errors="replace")

    @property
    def err(self) -> str:
        return self._texts["err"].decode(errors="replace")

    def says(self, text: str, *, on: str = "err", times: int = 1) -> None:
        """Wait until the process has written ``text``, so many ``times``."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: self._texts[on].count(text.encode()) >= times or self._is_over(), PATIENCE
            )
        assert came, f"{text!r} did not come within {PATIENCE} s:\n{self.out}\n{self.err}"
        assert self._texts[on].count(text.encode()) >= times, (
            f"ended without {text!r}:\n{self.out}\n{self.err}"
        )

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def ends(self) -> Ended:
        """Wait for the end."""
        status = self.process.wait(PATIENCE)
        for thread in self._threads:
            thread.join(PATIENCE)
        return Ended(status, self.out, self.err)

    def _is_over(self) -> bool:
        return not any(
            thread.is_alive() for thread in self._threads if thread is not threading.current_thread()
        )

    def _read(self, name: str, stream: IO[bytes]) -> None:
        try:
            while data := os.read(stream.fileno(), 65536):
                with self._changed:
                    self._texts[name] += data
                    self._changed.notify_all()
        finally:
            stream.close()
            with self._changed:
                self._changed.notify_all()


@contextmanager
def running(command: Sequence[str], **variables: str | None) -> Iterator[Running]:
    """Start a command; it is killed at the end, if it still runs."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
        env=environment(**variables),
    ) as process:
        started = Running(process)
        try:
            yield started
        finally:
            process.kill()
            started.ends()


@contextmanager
def worker(url: str, prefix: str, *options: str, **variables: str | None) -> Iterator[Running]:
    """A `chat-worker run` that is ready."""
    command = [*WORKER, "run", "--redis", url, "--prefix", prefix, *options]
    with running(command, **variables) as started:
        started.says("worker ready")
        yield started


@contextmanager
def redis_on(port: int) -> Iterator[None]:
    """An imitation of Redis on a port that was known before."""
    server = TcpFakeServer(("127.0.0.1", port))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def without(folder: Path, *modules: str) -> Mapping[str, str]:
    """Variables with which a Python process cannot import ``modules``, as if they were not installed."""
    folder.mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {modules!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    return {"PYTHONPATH": f"{folder}{os.pathsep}{PATHS}"}
