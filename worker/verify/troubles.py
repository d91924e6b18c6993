"""Troubles at random: one after another is done to a stage, and undone after a while."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

from worker.verify.fleet import WorkerProcess
from worker.verify.servers import OwnServer
from worker.verify.stage import Stage

_LEAST_AT_WORK = 2  # workers that are spared, so that the jobs get on
_LATE = (0.05, 0.5)  # seconds by which replies are delayed
_PAUSE = (0.2, 1.5)  # seconds of CLIENT PAUSE

KINDS: Mapping[str, int] = {
    "kill": 4,
    "freeze": 4,
    "terminate": 2,
    "cut": 2,
    "black_hole": 1,
    "delay": 1,
    "lose_replies": 1,
    "kill_clients": 1,
    "pause_clients": 1,
    "restart": 1,
}
"""How often each kind happens, in relation to the others."""


class Troubles:
    """Makes trouble on a stage whose server is ours; ``hit`` is told which worker died or froze, and which way.

    It owns what it has begun: `settle` waits until all of it is undone.
    """

    def __init__(self, stage: Stage, dice: random.Random, hit: Callable[[str, str], object]) -> None:
        self.counts: Counter[str] = Counter()
        self.outages: list[tuple[float, float]] = []
        """When the server was away, from and to, in seconds, monotonic."""
        self._stage = stage
        self._dice = dice
        self._hit = hit
        self._out_of_action: set[WorkerProcess] = set()
        self._undoing: set[asyncio.Task[None]] = set()
        self._server_busy = asyncio.Lock()

    @property
    def _server(self) -> OwnServer:
        assert self._stage.server is not None, "trouble is made for servers of our own"
        return self._stage.server

    async def make(self, kinds: Mapping[str, int]) -> None:
        """Make one trouble, of a kind that is drawn from ``kinds`` by its weight."""
        (kind,) = self._dice.choices(list(kinds), list(kinds.values()))
        makers: Mapping[str, Callable[[], Awaitable[bool]]] = {
            "kill": self._kill,
            "freeze": self._freeze,
            "terminate": self._terminate,
            "kill_clients": self._kill_clients,
            "pause_clients": self._pause_clients,
            "restart": self.restart_server,
        }
        made = await (makers[kind]() if kind in makers else self._disturb_way(kind))
        self.counts[kind] += made

    async def settle(self) -> None:
        """Wait until every trouble is undone.

        Raises:
            WorkerDied: one that should have come up, or ended, did not.
        """
        while self._undoing:
            await asyncio.gather(*self._undoing)

    async def restart_server(self) -> bool:
        """Kill the server and start it again, with the data that it had."""
        async with self._server_busy:
            began_at = time.monotonic()
            self._server.kill()
            await asyncio.sleep(self._dice.uniform(0, 0.5))
            await self._server.start()
            self.outages.append((began_at, time.monotonic()))
        return True

    # -- workers -------------------------------------------------------------------------------------------

    async def _kill(self) -> bool:
        victim = self._victim()
        if victim is not None:
            self._hit(victim.name, "kill")
            victim.kill()
            self._then(self._replace(victim))
        return victim is not None

    async def _terminate(self) -> bool:
        victim = self._victim()
        if victim is not None:
            victim.terminate()
            self._then(self._replace(victim))
        return victim is not None

    async def _freeze(self) -> bool:
        victim, manner = self._victim(), self._stage.fleet.manner
        if victim is not None:
            self._hit(victim.name, "freeze")
            victim.freeze()
            self._then(self._thaw(victim, self._dice.uniform(0.2, 2 * (manner.lease + manner.sweep))))
        return victim is not None

    async def _replace(self, victim: WorkerProcess) -> None:
        self._stage.fleet.retire(victim)
        self._out_of_action.discard(victim)
        await asyncio.gather(victim.ended(), self._stage.fleet.start())

    async def _thaw(self, victim: WorkerProcess, seconds: float) -> None:
        await asyncio.sleep(seconds)
        victim.thaw()
        self._out_of_action.discard(victim)

    async def _disturb_way(self, kind: str) -> bool:
        victim, manner = self._victim(), self._stage.fleet.manner
        if victim is None:
            return False
        match kind:
            case "cut":
                victim.proxy.refuse()
            case "black_hole":
                victim.proxy.black_hole()
            case "lose_replies":
                victim.proxy.lose_replies()
            case "delay":
                victim.proxy.delay(self._dice.uniform(*_LATE))
        self._then(self._heal(victim, self._dice.uniform(0.1, 2 * (manner.lease + manner.sweep))))
        return True

    async def _heal(self, victim: WorkerProcess, seconds: float) -> None:
        await asyncio.sleep(seconds)
        victim.proxy.heal()
        self._out_of_action.discard(victim)

    def _victim(self) -> WorkerProcess | None:
        """Return a worker at work, unless too few would be left."""
        at_work = [
            one for one in self._stage.fleet.workers if one.is_ready and one not in self._out_of_action
        ]
        if len(at_work) <= _LEAST_AT_WORK:
            return None
        victim = self._dice.choice(at_work)
        self._out_of_action.add(victim)
        return victim

    def _then(self, step: Coroutine[Any, Any, None]) -> None:
        undoing = asyncio.create_task(step, name="verify-undoing")
        self._undoing.add(undoing)
        undoing.add_done_callback(self._undone)

    def _undone(self, undoing: "asyncio.Task[None]") -> None:
        if not undoing.cancelled() and undoing.exception() is None:
            self._undoing.discard(undoing)  # one that failed stays, so that `settle` raises what it raised

    # -- the server ----------------------------------------------------------------------------------------

    async def _kill_clients(self) -> bool:
        async with self._server_busy:
            await self._server.kill_clients()
        return True

    async def _pause_clients(self) -> bool:
        seconds = self._dice.uniform(*_PAUSE)
        async with self._server_busy:
            began_at = time.monotonic()
            await self._server.pause_clients(seconds)
            self.outages.append((began_at, began_at + seconds))
        return True
