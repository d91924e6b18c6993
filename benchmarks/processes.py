"""Processes around a measurement: started and ended safely, and what they take of the machine (Linux)."""

import contextlib
import json
import os
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[1]
PATHS = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), str(ROOT)]))
"""Where processes find our modules: the compiled ones, if this one was told where they are, or the sources."""

PATIENCE = 60.0  # seconds to wait for a process's word
_STOP_TIMEOUT = 10.0  # seconds
_RESET_PEAK = "5"  # see proc(5), /proc/PID/clear_refs


class ProcessFailed(RuntimeError):
    """A process around the measurement ended, or stayed silent; the figures of this run are not to be had."""


@dataclass(frozen=True, slots=True)
class Process:
    """What a process of ours takes of the machine."""

    pid: int

    def cpu_seconds(self) -> float:
        """Return the CPU time of all its threads so far, user and system."""
        # The clock of another process: the same time as utime + stime in /proc/PID/stat, in ns instead of ticks.
        return time.clock_gettime((~self.pid << 3) | 2)

    def memory_mb(self) -> float:
        """Return what it holds in memory at this moment."""
        return self._status("VmRSS")

    def peak_mb(self) -> float:
        """Return the most that it held since its start, or since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Let `peak_mb` begin anew."""
        Path(f"/proc/{self.pid}/clear_refs").write_text(_RESET_PEAK)

    def _status(self, name: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
        raise ProcessFailed(f"process {self.pid} tells nothing of its memory")


class Child:
    """A process that we started. It is told lines on stdin, and tells lines on stdout; stderr is the terminal's."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.takes = Process(process.pid)
        self._process = process
        self._said = b""

    @property
    def pid(self) -> int:
        return self._process.pid

    def tell(self, **words: Any) -> None:
        """Write one line of JSON to it."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(words).encode() + b"\n")
        self._process.stdin.flush()

    def line(self, patience: float = PATIENCE) -> str:
        """Return the next line that it tells.

        Raises:
            ProcessFailed: it ended, or said nothing for ``patience`` seconds.
        """
        assert self._process.stdout is not None
        ends_at = time.monotonic() + patience
        while b"\n" not in self._said:
            left = max(0.0, ends_at - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                raise ProcessFailed(f"{self._process.args!r} said nothing for {patience:g} s")
            data = os.read(self._process.stdout.fileno(), 1 << 16)
            if not data:
                raise ProcessFailed(f"{self._process.args!r} has ended, status {self._process.wait()}")
            self._said += data
        line, _, self._said = self._said.partition(b"\n")
        return line.decode()

    def answer(self, patience: float = PATIENCE) -> Any:
        """Return the next line, read as JSON."""
        return json.loads(self.line(patience))

    def ask(self, patience: float = PATIENCE, **words: Any) -> Any:
        """Tell it one line, and return its answer."""
        self.tell(**words)
        return self.answer(patience)


@contextlib.contextmanager
def child(command: Sequence[str], env: Mapping[str, str] | None = None) -> Iterator[Child]:
    """Run a command; it is ended with the block. Variables of the user's that are meant for chatrelay stay out."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**own, "PYTHONPATH": PATHS, **(env or {})},
    ) as process:
        try:
            yield Child(process)
        finally:
            _end(process)


def python(module: str, *arguments: str) -> contextlib.AbstractContextManager[Child]:
    """Run one of our modules as a process."""
    return child([sys.executable, "-m", module, *arguments])


@contextlib.contextmanager
def upstream() -> Iterator[tuple[Child, str]]:
    """Run an upstream; yields the process and its base URL."""
    with python("benchmarks.upstream") as process:
        yield process, process.line()


@contextlib.contextmanager
def chat_worker(redis_url: str, config: str, concurrency: int, *options: str) -> Iterator[Child]:
    """Run `chat-worker` with the providers of a TOML text. That it is ready shows when it has answered a job."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "providers.toml"
        path.write_text(config, encoding="utf-8")
        arguments = ["run", "--redis", redis_url, "--config", str(path), "--concurrency", str(concurrency)]
        with python("worker", *arguments, "--log-level", "warning", *options) as process:
            yield process


def one_provider(base_url: str) -> str:
    """Return a TOML text with the provider ``upstream``, which serves the model ``m``."""
    return f'[providers.upstream]\nkind = "openai"\nbase_url = "{base_url}"\nmodels = ["m"]\n'


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(_STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()


class Stretch:
    """A stretch of time and what some processes took of the CPU in it: ``with Stretch(worker=…) as s``."""

    def __init__(self, **processes: Process) -> None:
        self.seconds = 0.0
        self.cpu: dict[str, float] = {}
        self._processes = processes

    def __enter__(self) -> Self:
        self._began = {name: process.cpu_seconds() for name, process in self._processes.items()}
        self._began_at = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._began_at
        self.cpu = {
            name: process.cpu_seconds() - self._began[name] for name, process in self._processes.items()
        }


def raise_file_limit() -> None:
    """Let this process and its children open as many files as this machine allows: each stream takes one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
