"""`--processes N`: keeps so many worker processes running, and stops them together.

Each is begun anew with an interpreter of its own instead of forked off: nothing of this process is in it, no thread
of an embedded server, no lock, no state of a random generator; and this process needs to load no HTTP, no provider.

What a worker is told, it is told by its environment: a Redis URL may hold a password, and a command line is for
everybody on the machine to read. Its standard input is the supervisor's lifeline (see `worker/lifeline.py`).
"""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from producer.connection.tasks import end
from worker.lifeline import MARGIN, Lifeline
from worker.signals import HURRY

logger = structlog.get_logger("chatrelay.supervisor")

USAGE = 2
"""The exit status of a worker that cannot use what it was told. Starting it again would change nothing."""


@dataclass(frozen=True, slots=True)
class Launch:
    """How a worker process is started."""

    command: list[str]
    environment: Mapping[str, str]


def launches(name: str | None, variables: Mapping[str, str]) -> Callable[[int], Launch]:
    """Return what says how the worker of a number is started.

    ``name``: what the workers' names begin with; None leaves each the one it gives itself. ``variables``: the
    settings, as the variables that `chat-worker run` reads.
    """
    # The folder in which the operator stands is searched only if we were found there ourselves: it may well hold
    # another `worker`. It is looked at now, because it may be gone when a worker is replaced.
    found_here = Path(__file__).parents[1] == Path.cwd()
    safely = [] if found_here else ["-P"]

    def launch_of(number: int) -> Launch:
        named = {} if name is None else {"CHAT_NAME": f"{name}-{number}"}
        environment = {**os.environ, **variables, **named, "CHAT_PROCESSES": "1"}
        return Launch([sys.executable, *safely, "-m", "worker", "run", "--lifeline"], environment)

    return launch_of


@dataclass(slots=True)
class Backoff:
    """How long to wait before a worker that ended is replaced. Times are seconds."""

    first: float = 0.2
    longest: float = 30.0
    settled: float = 30.0
    """Whoever lived for so long did not end because of how it began: the pauses begin anew."""
    _pause: float = field(default=0.0, init=False)

    def after(self, lived: float) -> float:
        """Return the pause after a worker that ``lived`` for so long."""
        begins_anew = lived >= self.settled or not self._pause
        self._pause = self.first if begins_anew else min(2 * self._pause, self.longest)
        return self._pause


class Supervisor:
    """Keeps ``count`` worker processes running until it is stopped.

    `run` returns the exit status. `stop` may be called from a signal handler: each call is passed on to the workers,
    so that the first lets running jobs end within ``grace`` seconds, and a second one hands them back at once.
    """

    def __init__(
        self,
        launch: Callable[[int], Launch],
        count: int,
        grace: float,
        *,
        margin: float = MARGIN,
        backoff: Callable[[], Backoff] = Backoff,
    ) -> None:
        self._launch = launch
        self._count = count
        self._grace = grace
        self._margin = margin
        self._backoff = backoff
        self._living: set[asyncio.subprocess.Process] = set()
        self._stopping = asyncio.Event()
        self._hurried = asyncio.Event()
        self._was_told = False

    async def run(self) -> int:
        """Keep the workers running until stopped.

        Returns: 0 if all of them stopped as they should; 2 if one cannot use its settings; else 1.
        """
        logger.info("supervisor ready", processes=self._count)
        with Lifeline() as lifeline:
            async with asyncio.TaskGroup() as group:
                numbers = range(1, self._count + 1)
                keepers = [group.create_task(self._keep(number, lifeline)) for number in numbers]
                await self._stopping.wait()
                await self._drain(keepers)
        status = _status_of_all({keeper.result() for keeper in keepers})
        logger.info("supervisor stopped", status=status)
        return status

    def stop(self) -> None:
        """Stop the workers; called again: at once."""
        if not self._was_told:
            self._was_told = True
            self._end()
            return
        self._hurried.set()
        for process in self._living:
            _send(process, HURRY)

    def _end(self) -> None:
        if not self._stopping.is_set():
            self._stopping.set()
            for process in self._living:
                _send(process, signal.SIGTERM)

    # -- keep ----------------------------------------------------------------------------------------------

    async def _keep(self, number: int, lifeline: Lifeline) -> int:
        """Start a worker, and another one whenever it ends; return the status of the last."""
        loop, backoff = asyncio.get_running_loop(), self._backoff()
        while not self._stopping.is_set():
            began = loop.time()
            status = await self._live(number, lifeline)
            if self._stopping.is_set():
                return status
            if status == USAGE:
                logger.error("a worker cannot use its settings, stopping", number=number)
                self._end()
                return status
            pause = backoff.after(loop.time() - began)
            logger.warning(
                "a worker process ended, starting another", number=number, ended=_told(status), pause=pause
            )
            await self._rest(pause)
        return 0

    async def _live(self, number: int, lifeline: Lifeline) -> int:
        """Start a worker, and return its exit status once it has ended; minus N if signal N ended it."""
        launch = self._launch(number)
        try:
            process = await asyncio.create_subprocess_exec(
                *launch.command,
                env=launch.environment,
                stdin=lifeline.end,
                start_new_session=True,  # a Ctrl-C at the terminal reaches the supervisor alone, and it passes it on
            )
        except (OSError, RuntimeError) as error:  # no memory, no processes, no threads, no file handles left
            logger.error("a worker process cannot be started", number=number, error=str(error))
            return 1
        logger.info("worker process started", number=number, pid=process.pid)
        self._living.add(process)
        if self._stopping.is_set():  # meanwhile
            _send(process, signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            self._living.discard(process)

    async def _rest(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    # -- drain ---------------------------------------------------------------------------------------------

    async def _drain(self, keepers: list[asyncio.Task[int]]) -> None:
        """Every worker was told to stop. They have the grace time, then the time to hand back, and no more."""
        logger.info("stopping the workers", running=len(self._living), grace=self._grace)
        hurried = asyncio.create_task(self._hurried.wait())
        ended = asyncio.create_task(asyncio.wait(keepers))
        await asyncio.wait((hurried, ended), timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait((ended,), timeout=self._margin)
        for process in self._living:
            logger.error("a worker process did not stop in time and is killed", pid=process.pid)
            _send(process, signal.SIGKILL)
        await ended
        await end(hurried)


def _send(process: "asyncio.subprocess.Process", number: signal.Signals) -> None:
    # Never SIGINT, whatever the supervisor heard: to a worker that is still loading, it would be an exception somewhere
    # in its imports.
    with contextlib.suppress(ProcessLookupError):  # it has just ended
        process.send_signal(number)


def _status_of_all(statuses: set[int]) -> int:
    if USAGE in statuses:
        return USAGE
    # A signal that comes before the worker listens ends it then and there. It holds nothing yet.
    return 0 if statuses <= {0, -signal.SIGTERM, -HURRY} else 1


def _told(status: int) -> str:
    """Return an exit status in words."""
    return f"by {signal.Signals(-status).name}" if status < 0 else f"with status {status}"
