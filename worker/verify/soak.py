"""`python -m worker.verify.soak`: everything at random, from a seed that is printed."""

import asyncio
import contextlib
import resource
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated

import typer

from worker.verify.endurance import Endurance, Tally
from worker.verify.fleet import Manner
from worker.verify.lots import Dose
from worker.verify.servers import OwnServer
from worker.verify.stage import new_prefix, open_stage
from worker.verify.troubles import KINDS

_WORKERS = 4
_PROGRESS_EVERY = 10.0  # seconds
_SHOWN = 20  # violations
_RESTARTS = 3  # of the server, in the fixed-size form

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def soak(
    minutes: Annotated[float, typer.Option(help="How long.")] = 10.0,
    jobs: Annotated[
        int | None,
        typer.Option(help="Instead: so many jobs, a kill or freeze a second, and three restarts of Redis."),
    ] = None,
    chunks: Annotated[int, typer.Option(help="Chunks in an answer.")] = 50,
    seed: Annotated[int | None, typer.Option(help="To do the same again.")] = None,
    lease: Annotated[float, typer.Option(help="The workers' lease in seconds.")] = 2.0,
    sweep: Annotated[float, typer.Option(help="Their sweep in seconds.")] = 0.5,
) -> None:
    """Put jobs on a queue while workers are killed, frozen and cut off, and Redis restarts. Exit status 1: violated."""
    seed = secrets.randbelow(1_000_000) if seed is None else seed
    typer.echo(f"seed {seed}")
    manner = Manner(new_prefix(), concurrency=80, lease=lease, sweep=sweep, grace=1.0)
    run = Soak(manner, seed, chunks)
    asyncio.run(run.mixed(minutes * 60) if jobs is None else run.fixed_size(jobs))
    raise typer.Exit(run.report(run.tally, run.troubles))


class Soak:
    """One soak, and its report."""

    def __init__(self, manner: Manner, seed: int, chunks: int) -> None:
        self._manner = manner
        self._seed = seed
        self._told = 0
        self._chunks = chunks
        self._began_at = time.monotonic()
        self._endurance: Endurance

    @property
    def tally(self) -> Tally:
        """What came of it so far."""
        return self._endurance.tally

    @property
    def troubles(self) -> Mapping[str, int]:
        """How much trouble was made, by its kind."""
        return self._endurance.troubles.counts

    async def mixed(self, seconds: float) -> None:
        """Everything at random, for so long."""
        ends_at = time.monotonic() + seconds
        dose = Dose(self._chunks, cancels=0.05, upstream_faults=0.15, continues=0.2)
        await self._run(dose, lambda _: time.monotonic() < ends_at, self._all_kinds)

    async def fixed_size(self, jobs: int) -> None:
        """So many jobs, with a kill or a freeze of a worker every second, and some restarts of the server."""
        due = [jobs * (number + 1) // (_RESTARTS + 1) for number in range(_RESTARTS)]

        async def trouble() -> None:
            if due and sum(self._endurance.tally.jobs.values()) >= due[0]:
                due.pop(0)
                self._endurance.troubles.counts["restart"] += await self._endurance.troubles.restart_server()
            await self._endurance.troubles.make({"kill": 1, "freeze": 1})

        await self._run(Dose(self._chunks), lambda count: count < jobs, trouble)

    async def _all_kinds(self) -> None:
        await self._endurance.troubles.make(KINDS)

    async def _run(
        self, dose: Dose, goes_on: Callable[[int], bool], trouble: Callable[[], Awaitable[None]]
    ) -> None:
        async with (
            OwnServer() as server,
            open_stage(server.url, self._manner, size=_WORKERS, server=server) as stage,
        ):
            self._endurance = Endurance(stage, self._seed, dose)
            over = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                group.create_task(_again_and_again(trouble, dose.trouble_every, over))
                group.create_task(_again_and_again(self._progress, _PROGRESS_EVERY, over))
                await self._endurance.jobs(goes_on)
                over.set()
            await self._endurance.leftovers()

    async def _progress(self) -> None:
        tally, troubles = self._endurance.tally, self._endurance.troubles
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        typer.echo(
            f"{self._seconds():5.0f} s  {sum(tally.jobs.values())} jobs ended, {self._endurance.in_flight} run, "
            f"{tally.retries} retries, {troubles.counts.total()} troubles, {tally.violation_count} violations, "
            f"{memory:.0f} MB"
        )
        for violation in tally.violations[self._told : _SHOWN]:
            typer.echo(f"    {violation}")
        self._told = len(tally.violations)

    def report(self, tally: Tally, troubles: Mapping[str, int]) -> int:
        """Print what came of it, and return the exit status."""
        counts = Counter(troubles)
        ends = ", ".join(f"{count} {end}" for end, count in sorted(tally.jobs.items()))
        typer.echo(f"jobs        {sum(tally.jobs.values())} ({ends}) in {self._seconds():.0f} s")
        typer.echo(f"kills       {counts['kill']}")
        typer.echo(f"freezes     {counts['freeze']}")
        typer.echo(f"restarts    {counts['restart']} of Redis")
        others = sorted(kind for kind in counts if kind not in ("kill", "freeze", "restart"))
        typer.echo(f"other       {', '.join(f'{counts[kind]} {kind}' for kind in others) or 'none'}")
        typer.echo(f"retries     {tally.retries}")
        typer.echo(f"cancels     {tally.cancels}")
        bound = self._manner.lease + self._manner.sweep
        for what, seconds in sorted(tally.recoveries.items()):
            typer.echo(f"{what} -> next started: {_percentiles(seconds)} (lease + sweep: {bound:g} s)")
        typer.echo(f"violations  {tally.violation_count}")
        for violation in tally.violations[:_SHOWN]:
            typer.echo(f"    {violation}")
        return 1 if tally.violation_count else 0

    def _seconds(self) -> float:
        return time.monotonic() - self._began_at


async def _again_and_again(step: Callable[[], Awaitable[None]], pause: float, over: asyncio.Event) -> None:
    while not over.is_set():
        await step()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await over.wait()


def _percentiles(seconds: Sequence[float]) -> str:
    ordered = sorted(seconds)
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99)]
    return f"p50 {at[0]:.2f} s, p99 {at[1]:.2f} s, max {ordered[-1]:.2f} s of {len(ordered)}"


if __name__ == "__main__":
    app()
