"""Worker processes, started as an operator starts them, each behind a proxy of its own."""

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from worker.verify.proxy import Proxy

_ROOT = str(Path(__file__).parents[2])
_START_TIMEOUT = 30.0  # seconds
_STOP_TIMEOUT = 20.0  # seconds
_LINES_KEPT = 200
_GONE_KEPT = 100  # of the workers that have ended
_BAD_SIGNS = ("Traceback", "never retrieved", "was destroyed but it is pending", "this is a bug", "Unclosed")

PROVIDER, MODEL = "trial", "trial-model"

_CONFIG = """\
[providers.{provider}]
kind = "openai"
base_url = "{url}"
models = ["{model}"]
timeouts = {{ connect = 5, first_chunk = 5, between_chunks = {between}, total = 600 }}
"""


class WorkerDied(RuntimeError):
    """A worker did not come up, or would not stop; the message holds its last words."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How the workers of a fleet are run. Times are seconds."""

    prefix: str
    concurrency: int = 6
    lease: float = 1.0
    sweep: float = 0.5
    backoff: float = 0.2
    grace: float = 0.5
    between_chunks: float = 2.0

    def arguments(self) -> list[str]:
        """Return the command line's options; each one, so that no variable of the user's comes in."""
        given = {
            "prefix": self.prefix,
            "queue": "default",
            "concurrency": self.concurrency,
            "processes": 1,
            "lease": self.lease,
            "sweep": self.sweep,
            "backoff": self.backoff,
            "grace": self.grace,
            "retention": 600,
            "log-level": "info",
            "log-format": "json",
        }
        return [part for name, value in given.items() for part in (f"--{name}", str(value))]


class WorkerProcess:
    """One worker. ``proxy`` is its way to Redis."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, proxy: Proxy) -> None:
        self.name = name
        self.proxy = proxy
        self.complaints: list[str] = []
        self.was_killed = False
        self.is_ready = False
        self._process = process
        self._lines: deque[str] = deque(maxlen=_LINES_KEPT)
        self._said = asyncio.Condition()
        self._reading = asyncio.create_task(self._read(), name=f"verify-log-of-{name}")

    @property
    def runs(self) -> bool:
        """Whether the process is there."""
        return self._process.returncode is None

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended."""
        return self._process.returncode

    def last_words(self) -> str:
        """Return the end of its log."""
        return "\n".join(list(self._lines)[-20:])

    async def says(self, text: str, timeout: float = _START_TIMEOUT) -> None:
        """Wait until a line of its log holds ``text``; a line that is there already counts.

        Raises:
            WorkerDied: it ended, or kept silent for ``timeout`` seconds.
        """
        try:
            async with asyncio.timeout(timeout), self._said:
                await self._said.wait_for(lambda: self._has_said(text) or self._reading.done())
        except TimeoutError:
            pass
        if not self._has_said(text):
            raise WorkerDied(f"{self.name} did not say {text!r}; its log ends:\n{self.last_words()}")

    async def becomes_ready(self) -> None:
        """Wait until it takes jobs.

        Raises:
            WorkerDied: it does not.
        """
        await self.says("worker ready")
        self.is_ready = True

    def forget_lines(self) -> None:
        """Forget what it said, so that `says` waits for something new."""
        self._lines.clear()

    def kill(self) -> None:
        """``kill -9``."""
        self.was_killed = True
        self._signal(signal.SIGKILL)

    def freeze(self) -> None:
        """``SIGSTOP``: it does nothing, and does not know of it."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """``SIGCONT``."""
        self._signal(signal.SIGCONT)

    def terminate(self) -> None:
        """``SIGTERM``."""
        self._signal(signal.SIGTERM)

    async def ended(self) -> None:
        """Wait for its end.

        Raises:
            WorkerDied: it does not end; it was killed.
        """
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._process.wait()
        except TimeoutError:
            self.kill()
            await self._process.wait()
            raise WorkerDied(f"{self.name} did not end; its log ends:\n{self.last_words()}") from None
        finally:
            if not self.runs:
                await self._reading

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def _has_said(self, text: str) -> bool:
        return any(text in line for line in self._lines)

    async def _read(self) -> None:
        assert self._process.stderr is not None, "it is started with a pipe"
        while line := await self._process.stderr.readline():
            text = line.decode(errors="replace").rstrip()
            if any(sign in text for sign in _BAD_SIGNS):
                self.complaints.append(f"{self.name}: {text[-2000:]}")
            async with self._said:
                self._lines.append(text)
                self._said.notify_all()
        async with self._said:
            self._said.notify_all()


class Fleet:
    """The workers of a trial: ``async with`` it; at the end those that run are stopped.

    ``new_proxy`` returns a proxy that is not open yet, ``url_for`` the Redis URL through a proxy's port.
    """

    def __init__(
        self,
        manner: Manner,
        upstream_url: str,
        new_proxy: Callable[[], Proxy],
        url_for: Callable[[int], str],
    ) -> None:
        self.manner = manner
        self.workers: list[WorkerProcess] = []
        self.gone: deque[WorkerProcess] = deque(maxlen=_GONE_KEPT)
        self._upstream_url = upstream_url
        self._new_proxy = new_proxy
        self._url_for = url_for
        self._count = 0
        self._proxies = AsyncExitStack()

    async def __aenter__(self) -> Self:
        self._folder = Path(tempfile.mkdtemp(prefix="chatrelay-verify-"))
        config = _CONFIG.format(
            provider=PROVIDER, url=self._upstream_url, model=MODEL, between=self.manner.between_chunks
        )
        (self._folder / "providers.toml").write_text(config)
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self.workers:
            one.kill()
            await one.ended()
        await self._proxies.aclose()
        shutil.rmtree(self._folder, ignore_errors=True)

    async def start(self, count: int = 1) -> Sequence[WorkerProcess]:
        """Start so many workers more, and return them once they are ready."""
        started = await asyncio.gather(*(self._start_one() for _ in range(count)))
        await asyncio.gather(*(one.becomes_ready() for one in started))
        return started

    async def _start_one(self) -> WorkerProcess:
        self._count += 1
        name = f"w{self._count}"
        proxy = await self._proxies.enter_async_context(self._new_proxy())
        config = str(self._folder / "providers.toml")
        arguments = ["--name", name, "--config", config]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "worker", "run", *self.manner.arguments(), *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            limit=1024 * 1024,
            env=self._environment(self._url_for(proxy.port)),
        )
        one = WorkerProcess(name, process, proxy)
        self.workers.append(one)
        return one

    @staticmethod
    def _environment(url: str) -> dict[str, str]:
        """Return what a worker has around it: no setting of the caller's, and a password in no command line."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
        # These very files, wherever the caller stands.
        return {**own, "CHAT_REDIS_URL": url, "PYTHONPATH": _ROOT}

    def retire(self, one: WorkerProcess) -> None:
        """Count a worker that has ended, or is about to, as gone."""
        self.workers.remove(one)
        self.gone.append(one)

    async def stop(self) -> None:
        """Send SIGTERM to all, and wait until they have ended.

        Raises:
            WorkerDied: one would not end.
        """
        stopping = list(self.workers)
        for one in stopping:
            one.thaw()
            one.terminate()
        for one in stopping:
            self.retire(one)
        await asyncio.gather(*(one.ended() for one in stopping))

    def open_ways(self) -> list[str]:
        """Return whose connections to Redis are open, each as often as it has some."""
        return [one.name for one in (*self.workers, *self.gone) for _ in range(one.proxy.connections)]

    def take_complaints(self) -> list[str]:
        """Return, and forget, what workers wrote that none should ever write."""
        found: list[str] = []
        for one in (*self.workers, *self.gone):
            found += one.complaints
            one.complaints = []
        return found

    def statuses(self) -> dict[str, int]:
        """Return how the workers ended that were not killed."""
        ended = [one for one in self.gone if not one.runs and not one.was_killed]
        return {one.name: one.status or 0 for one in ended}
