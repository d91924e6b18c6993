"""Entries that are settled together: one call for all of a queue that became ready before the next pipeline."""

import asyncio
from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError

from producer.connection import Call
from producer.wire.keys import GROUP, Keys
from worker import scripts
from worker.holdings import Entry, Holdings
from worker.pending import Pending, Sender

logger = structlog.get_logger("chatrelay.queue")

_SETTLED_AT_ONCE = 200  # entries; Redis does nothing else meanwhile


class Settlings:
    """Settles entries, each time all that there are."""

    def __init__(self, writer: Sender, keys: Keys, holdings: Holdings) -> None:
        self._writer = writer
        self._keys = keys
        self._holdings = holdings
        self._growing: dict[str, Settling] = {}

    def add(self, entry: Entry) -> "asyncio.Future[None]":
        """Settle the entry with the next pipeline; done when Redis has."""
        settling = self._growing.get(entry.queue)
        if settling is not None and settling.has_room:
            settling.entries.append(entry)
        else:
            jobs = self._keys.jobs(entry.queue)
            settling = self._growing[entry.queue] = Settling(jobs, self._holdings, self._writer.loop, entry)
            self._writer.add(settling)
        return settling.done


class Settling(Pending):
    """Entries of one queue. There may be more of them until the call is made."""

    __slots__ = ("_holdings", "_jobs", "done", "entries")

    remembered: bool = False  # for the reason that `Queue` gives for all that parts with an entry

    def __init__(self, jobs: str, holdings: Holdings, loop: asyncio.AbstractEventLoop, first: Entry) -> None:
        super().__init__()
        self._jobs = jobs
        self._holdings = holdings
        self.entries = [first]
        self.done: asyncio.Future[None] = loop.create_future()

    @property
    def has_room(self) -> bool:
        """Whether more may be added."""
        return self.call is None and len(self.entries) < _SETTLED_AT_ONCE

    def prepare(self) -> Call:
        """Make the call, the first time."""
        if self.call is None:
            ids = [entry.id for entry in self.entries]
            self.call = scripts.SETTLE.on([self._jobs], GROUP, self._holdings.consumer, *ids)
        return self.call

    def tell(self, result: Any) -> None:
        """Hold them no longer. Where Redis refuses for good, their jobs' records say that these have ended."""
        for entry in self.entries:
            self._holdings.drop(entry)
        if isinstance(result, RedisError):
            logger.error("redis refused to settle", entries=_named(self.entries), error=str(result))
        self.entries.clear()  # jobs of up to 4 MiB, and this is kept until there is another one
        if not self.done.done():  # whoever waited for it may have been cancelled
            self.done.set_result(None)


def _named(entries: Sequence[Entry]) -> list[str]:
    return [f"{entry.queue} {entry.id}" for entry in entries]
