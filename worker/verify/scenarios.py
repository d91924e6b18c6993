"""The faults: each one is done to a trial whose jobs run, and waits for facts, not for time."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from worker.verify.facts import Kept
from worker.verify.fleet import WorkerProcess
from worker.verify.readers import Stalled
from worker.verify.servers import OwnServer
from worker.verify.trial import AS_USUAL, PATIENCE, Expectation, Trial

_DELAY = 0.3  # seconds by which each reply is late
_PAUSE = 2.0  # seconds of CLIENT PAUSE: longer than the lease


class Needs(Enum):
    """Whose server a fault may be done to."""

    ANY_SERVER = "any server"
    OWN_SERVER = "own server"


@dataclass(frozen=True, slots=True)
class Fault:
    """One line of the matrix. ``upstream``: what goes wrong in the first calls of half of the jobs."""

    name: str
    act: Callable[[Trial], Awaitable[None]]
    needs: Needs = Needs.ANY_SERVER
    upstream: str = ""
    expected: Expectation = AS_USUAL


_ONE_ATTEMPT = Expectation(highest_number=1)
_MAY_LOSE = Expectation(kept=Kept.MOST)


# -- done to a worker ------------------------------------------------------------------------------------------


async def _kill(trial: Trial) -> None:
    victim = await trial.victim()
    trial.mark(victim)
    victim.kill()
    await victim.ended()
    await _replaced(trial, victim)
    await trial.all_recovered()


async def _freeze(trial: Trial) -> None:
    victim = await trial.victim()
    trial.mark(victim)
    victim.freeze()
    await _taken_over(trial)
    victim.thaw()


async def _terminate(trial: Trial) -> None:
    """The grace time is too short for the long answers: they are handed back."""
    victim = await trial.victim()
    jobs = trial.mark(victim)
    victim.terminate()
    await _replaced(trial, victim)
    await victim.ended()
    await trial.all_recovered()
    if not any(trial.watch.jobs[job_id].has_waited for job_id in jobs):
        raise Stalled("no answer was handed back, so this trial has shown nothing")


async def _replaced(trial: Trial, victim: WorkerProcess) -> None:
    fleet = trial.stage.fleet
    fleet.retire(victim)
    if not fleet.workers:
        await fleet.start()


async def _taken_over(trial: Trial) -> None:
    """Wait until other workers have the victim's jobs; where there are none, until they could have had them."""
    if len(trial.stage.fleet.workers) > 1:
        await trial.all_recovered()
    else:
        await trial.lease_ran_out()


# -- done to a worker's connections ----------------------------------------------------------------------------


async def _cut_off(trial: Trial) -> None:
    victim = await trial.victim()
    trial.mark(victim)
    victim.proxy.refuse()
    await _taken_over(trial)
    victim.proxy.heal()


async def _black_hole(trial: Trial) -> None:
    victim = await trial.victim()
    trial.mark(victim)
    victim.proxy.black_hole()
    await _taken_over(trial)
    victim.proxy.heal()


async def _cut_again_and_again(trial: Trial) -> None:
    victim = await trial.victim()
    for _ in range(5):
        trial.mark()
        victim.proxy.cut()
        await trial.all_recovered()


async def _slow_replies(trial: Trial) -> None:
    victim = await trial.victim()
    victim.proxy.delay(_DELAY)
    trial.mark()
    await trial.all_recovered()
    trial.mark()
    await trial.all_recovered()
    victim.proxy.heal()


async def _lost_replies(trial: Trial) -> None:
    victim = await trial.victim()
    trial.mark(victim)
    victim.proxy.lose_replies()
    await _taken_over(trial)
    victim.proxy.heal()


# -- done to the server ----------------------------------------------------------------------------------------


def _server(trial: Trial) -> OwnServer:
    assert trial.stage.server is not None, "the matrix does not do this to somebody else's server"
    return trial.stage.server


async def _restart(trial: Trial) -> None:
    """The server is away for longer than any lease lasts: nobody may be taken for dead because of it."""
    await trial.in_full_swing()
    _server(trial).kill()
    trial.mark()
    manner = trial.stage.fleet.manner
    await asyncio.sleep(manner.lease + manner.sweep)
    await _server(trial).start()
    await trial.all_recovered()


async def _lose_the_last_moments(trial: Trial) -> None:
    """What is lost are chunks and ends, and claims of jobs that were in the queue before."""
    await trial.add(trial.size, _MAY_LOSE, chunks=4)
    await trial.in_full_swing()
    size, claimed = _server(trial).file_size(), len(trial.watch.started())
    await trial.watch.until("more jobs start", lambda: len(trial.watch.started()) > claimed + 2, PATIENCE)
    _server(trial).kill()
    trial.mark()
    _server(trial).lose_since(size)
    await _server(trial).start()
    await trial.all_recovered()


async def _pause_clients(trial: Trial) -> None:
    await trial.in_full_swing()
    trial.mark()
    await _server(trial).pause_clients(_PAUSE)
    await trial.all_recovered()


async def _kill_clients(trial: Trial) -> None:
    await trial.in_full_swing()
    for _ in range(3):
        trial.mark()
        await _server(trial).kill_clients()
        await trial.all_recovered()


async def _flush(trial: Trial) -> None:
    """What is lost is lost: its readers are told, and the workers go on with what comes afterwards."""
    await trial.in_full_swing()
    trial.expect_lost()
    await _server(trial).flush()
    await trial.add(trial.size, AS_USUAL)


async def _fill_up(trial: Trial) -> None:
    victim = await trial.victim()
    victim.forget_lines()
    trial.mark()
    await _server(trial).be_full()
    await victim.says("maxmemory", PATIENCE)
    await _server(trial).have_room()
    await trial.all_recovered()


# -- done by the upstream --------------------------------------------------------------------------------------


async def _nothing(trial: Trial) -> None:
    """The upstream does it, as the jobs' plans say."""


async def _refuse_for_good(trial: Trial) -> None:
    gives_up = Expectation(ends=frozenset({"failed"}), dead=True, max_attempts=2)
    await trial.add(2, gives_up, always="500")


FAULTS: tuple[Fault, ...] = (
    Fault("nothing goes wrong", _nothing, expected=_ONE_ATTEMPT),
    Fault("kill -9", _kill),
    Fault("SIGSTOP past the lease, SIGCONT", _freeze),
    Fault("SIGTERM in mid-answer", _terminate, expected=_ONE_ATTEMPT),
    Fault("worker cut off past the lease", _cut_off),
    Fault("worker's packets held back past the lease", _black_hole),
    Fault("worker's connections cut five times", _cut_again_and_again, expected=_ONE_ATTEMPT),
    Fault("worker's replies delayed", _slow_replies),
    Fault("worker's replies lost", _lost_replies),
    Fault("Redis kill -9, restart past the lease", _restart, Needs.OWN_SERVER),
    Fault(
        "Redis kill -9, last moments lost",
        _lose_the_last_moments,
        Needs.OWN_SERVER,
        expected=_MAY_LOSE,
    ),
    Fault("CLIENT PAUSE past the lease", _pause_clients, Needs.OWN_SERVER),
    Fault("CLIENT KILL", _kill_clients, Needs.OWN_SERVER, expected=_ONE_ATTEMPT),
    Fault("FLUSHALL", _flush, Needs.OWN_SERVER),
    Fault("maxmemory reached", _fill_up, Needs.OWN_SERVER),
    Fault("upstream hangs", _nothing, upstream="hang"),
    Fault("upstream cuts the answer", _nothing, upstream="cut"),
    Fault("upstream says 429", _nothing, upstream="429", expected=_ONE_ATTEMPT),
    Fault("upstream says 500", _refuse_for_good, upstream="500"),
)
