"""Two worker processes, started as an operator starts them: a command line, a TOML file, keys by variables."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Mapping
from dataclasses import dataclass
from pathlib import Path

from producer import Producer

NAMES = ("worker-1", "worker-2")
CONCURRENCY = 3  # jobs at once: few, so that both workers get some and others have to wait
KEY_VARIABLE = "DEMO_GROQ_API_KEY"

_GRACE = 1.0  # seconds that a worker gets to finish what it runs
_STOP_TIMEOUT = 15.0  # seconds after which a worker that does not stop is killed
_POLL_INTERVAL = 0.02  # seconds
_LOG_TAIL = 20  # lines

_CONFIG = """\
[providers.groq]
kind = "openai"
base_url = "{url}/groq/v1"
api_key_env = "{key_variable}"
models = ["llama-*"]

[providers.vllm]
kind = "openai"
base_url = "{url}/vllm/v1"
models = ["qwen3-8b"]

[providers.acytoo]
kind = "acytoo"
base_url = "{url}"

[providers.chatanywhere]
kind = "chatanywhere"
base_url = "{url}"

[providers.echo]
kind = "echo"
options = {{ chunk_size = 3, delay = {pause} }}
"""


class WorkerDied(Exception):
    """A worker ended before it was asked to, or not as it should have."""


@dataclass(frozen=True, slots=True)
class _Worker:
    name: str
    process: asyncio.subprocess.Process
    log: Path


class Workers:
    """The running processes."""

    def __init__(self) -> None:
        self._workers: list[_Worker] = []

    async def start(self, name: str, arguments: list[str], folder: Path, environ: Mapping[str, str]) -> None:
        """Start one more."""
        log = folder / f"{name}.log"
        command = [sys.executable, "-m", "worker", "run", "--name", name, *arguments]
        with log.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=file, stderr=file, env=environ
            )
        self._workers.append(_Worker(name, process, log))

    async def guard(self, work: Awaitable[None]) -> None:
        """Wait for ``work`` while all workers run.

        Raises:
            WorkerDied: one of them ended first; the work is cancelled.
        """
        task = asyncio.ensure_future(work)
        deaths = {asyncio.create_task(worker.process.wait()): worker for worker in self._workers}
        try:
            await asyncio.wait([task, *deaths], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                status, worker = next((death.result(), who) for death, who in deaths.items() if death.done())
                raise WorkerDied(f"{worker.name} ended too early, with status {status}")
            task.result()
        finally:
            for waiting in (task, *deaths):
                waiting.cancel()
            await asyncio.gather(task, *deaths, return_exceptions=True)

    async def stop(self) -> None:
        """Send SIGTERM and wait until all have ended.

        Raises:
            WorkerDied: one had to be killed, or did not end with status 0.
        """
        running = [worker.process for worker in self._workers if worker.process.returncode is None]
        for process in running:
            process.terminate()
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await asyncio.gather(*(process.wait() for process in running))
        except TimeoutError:
            raise WorkerDied(f"a worker did not stop within {_STOP_TIMEOUT:g} s of SIGTERM") from None
        finally:
            for process in running:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        for worker in self._workers:
            if worker.process.returncode != 0:
                raise WorkerDied(f"{worker.name} ended with status {worker.process.returncode}")

    def last_words(self) -> list[str]:
        """Return the end of every log."""
        return [
            f"{worker.name}: {line}"
            for worker in self._workers
            for line in worker.log.read_text(errors="replace").splitlines()[-_LOG_TAIL:]
        ]


@contextlib.asynccontextmanager
async def two_workers(
    redis_url: str, upstream_url: str, folder: Path, *, key: str, pause: float
) -> AsyncIterator[Workers]:
    """Run two workers on one configuration; on every way out they are stopped."""
    config = folder / "providers.toml"
    config.write_text(_CONFIG.format(url=upstream_url, key_variable=KEY_VARIABLE, pause=pause))
    arguments = ["--redis", redis_url, "--config", str(config)]
    arguments += ["--concurrency", str(CONCURRENCY), "--grace", str(_GRACE)]
    # Variables for other workers of this user are none of ours. The key goes by a variable, never by the file.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("CHAT_")}
    environ[KEY_VARIABLE] = key
    workers = Workers()
    try:
        for name in NAMES:
            await workers.start(name, arguments, folder, environ)
        yield workers
    finally:
        with contextlib.suppress(WorkerDied):  # who wants to know has asked `stop` before
            await workers.stop()


async def all_there(producer: Producer) -> None:
    """Wait until both workers take jobs, so that none gets them all."""
    while sum(queue.workers for queue in await producer.queues()) < len(NAMES):  # noqa: ASYNC110 - other processes
        await asyncio.sleep(_POLL_INTERVAL)
