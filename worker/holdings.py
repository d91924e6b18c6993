"""The entries that this worker has been handed and has not parted with."""

import asyncio
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Entry(NamedTuple):
    """A job's place in a queue's stream. ``deliveries``: how often it was handed to a worker, this time included."""

    queue: str
    id: str
    body: bytes
    deliveries: int = 1


class Holdings:
    """What the consumer, which is this worker's name within the group, holds."""

    def __init__(self, consumer: str) -> None:
        self.consumer = consumer
        self._ids: dict[str, set[str]] = {}
        self._dropped = asyncio.Event()

    def __contains__(self, entry: Entry) -> bool:
        return entry.id in self._ids.get(entry.queue, ())

    def of(self, queue: str) -> Sequence[str]:
        """Return the ids of the entries of this queue."""
        return list(self._ids.get(queue, ()))

    def add(self, entries: Iterable[Entry]) -> None:
        """Hold these, too."""
        for entry in entries:
            self._ids.setdefault(entry.queue, set()).add(entry.id)

    def drop(self, entry: Entry) -> None:
        """Hold this one no longer."""
        if (ids := self._ids.get(entry.queue)) is not None:
            ids.discard(entry.id)
        self._dropped.set()

    async def emptied(self) -> None:
        """Wait until nothing is held."""
        while any(self._ids.values()):
            self._dropped.clear()
            await self._dropped.wait()
