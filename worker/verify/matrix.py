"""The matrix: every fault, with one worker and with several."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Self

from producer.connection import Url, connect
from worker.verify.checker import check_leftovers
from worker.verify.facts import Leftovers
from worker.verify.fleet import Manner, WorkerDied
from worker.verify.readers import Stalled
from worker.verify.scenarios import FAULTS, Fault, Needs
from worker.verify.servers import OwnServer
from worker.verify.stage import Route, Stage, clean_up, new_prefix, open_stage
from worker.verify.trial import Trial

SIZES = (1, 3)
"""How many workers there are."""

_JOBS = 12
_PACE = 0.05  # seconds between two chunks
_LONG, _SHORT = (
    44,
    12,
)  # chunks: the long answers outlast a lease and a sweep, so their leases have to be renewed
_CLOSED_WITHIN = 5.0  # seconds for a server to notice that its clients have gone
_LOOK_INTERVAL = 0.05  # seconds


@dataclass(frozen=True, slots=True)
class Result:
    """One cell. ``recovery``: the longest time that a job which was hit took to go on, in seconds."""

    fault: str
    workers: int
    jobs: int
    violations: tuple[str, ...]
    recovery: float | None


async def run_cell(stage: Stage, fault: Fault) -> Result:
    """Do this to the workers of the stage while jobs run.

    Never raises for what the fault did: a worker that died and a wait in vain are violations.
    """
    await stage.restore()
    async with Trial(stage) as trial:
        hit = (fault.upstream,) if fault.upstream else ()
        await trial.add(_JOBS // 2, fault.expected, chunks=_LONG, pace=_PACE, faults=hit)
        await trial.add(_JOBS // 2, fault.expected, chunks=_SHORT, pace=_PACE)
        found: list[str] = []
        try:
            await fault.act(trial)
        except (Stalled, WorkerDied) as error:
            found.append(str(error))
        found += await trial.violations()
        return Result(fault.name, stage.size, trial.size, tuple(found), trial.seconds_to_recover())


async def check_url(url: str | None) -> None:
    """See whether the matrix can be run on this server, if one is given.

    Raises:
        ValueError: not with such a URL.
        OSError: the server is not there, or does not let us in.
    """
    if url is not None:
        await Route(url).check()


async def run_matrix(url: str | None, prefix: str | None, sizes: Sequence[int]) -> AsyncIterator[Result]:
    """Yield the result of each cell; on a server that is given, of those that may be run there."""
    for size in sizes:
        async with Bench(size, url, prefix) as bench:
            for fault in FAULTS:
                if url is None or fault.needs is Needs.ANY_SERVER:
                    yield await bench.run(fault)
            yield await bench.stop()


class Bench:
    """Runs cells with ``size`` workers, on the server at ``url`` or on one of its own. ``async with`` it.

    The cells share a stage, as faults share a day; one on which something was violated is torn down.
    """

    def __init__(self, size: int, url: str | None = None, prefix: str | None = None) -> None:
        self.size = size
        self._url = url
        self._prefix = prefix
        self._server: OwnServer | None = None
        self._stage: Stage | None = None
        self._standing = AsyncExitStack()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        if self._url is None:
            self._server = await self._stack.enter_async_context(OwnServer())
            self._url = self._server.url
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._tear_down()
        finally:
            await self._stack.aclose()

    @property
    def url(self) -> str:
        """Where the server is."""
        assert self._url is not None, "a bench is entered before it is used"
        return self._url

    async def run(self, fault: Fault) -> Result:
        """Run one cell."""
        result = await run_cell(self._stage or await self._put_up(), fault)
        if result.violations:
            await self._tear_down()
        return result

    async def stop(self) -> Result:
        """Stop all workers, and return what they left behind."""
        stage = self._stage or await self._put_up()
        found: list[str] = []
        await stage.restore()
        try:
            await stage.fleet.stop()
        except WorkerDied as error:
            found.append(str(error))
        found += check_leftovers(await self._left(stage))
        await self._tear_down()
        return Result("all workers stopped", self.size, 0, tuple(found), None)

    async def _put_up(self) -> Stage:
        manner = Manner(new_prefix(self._prefix))
        self._standing.push_async_callback(self._clean_up, manner.prefix)
        if self._server is not None:
            await self._server.restore()
        self._stage = await self._standing.enter_async_context(
            open_stage(self.url, manner, size=self.size, server=self._server)
        )
        return self._stage

    async def _tear_down(self) -> None:
        self._stage = None
        standing, self._standing = self._standing, AsyncExitStack()
        await standing.aclose()

    async def _clean_up(self, prefix: str) -> None:
        if self._server is not None:
            await self._server.restore()
        async with connect(Url(self.url), connect_timeout=5) as redis:
            await clean_up(redis, prefix)

    async def _left(self, stage: Stage) -> Leftovers:
        """Return what the workers left, once the server has noticed that they have gone."""
        fleet, give_up_at = stage.fleet, time.monotonic() + _CLOSED_WITHIN
        left = Leftovers(complaints=fleet.take_complaints(), exit_statuses=fleet.statuses())
        while True:
            open_ways = [f"to the proxy of {name}" for name in fleet.open_ways()]
            left = replace(left, open_calls=stage.upstream.open_calls(), connections=open_ways)
            if not (left.open_calls or left.connections) or time.monotonic() > give_up_at:
                return left
            await asyncio.sleep(_LOOK_INTERVAL)
