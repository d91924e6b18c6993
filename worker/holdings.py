"""The entries that this worker has been handed and has not parted with."""

import asyncio
from collections import defaultdict
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
        self._ids: defaultdict[str, set[str]] = defaultdict(set)
        self._dropped = asyncio.Event()

    def __contains__(self, entry: Entry) -> bool:
        return entry.id in self._ids[entry.queue]

    def of(self, queue: str) -> Sequence[str]:
        """Return the ids of the entries of this queue."""
        return list(self._ids[queue])

    def without_held(self, entries: Sequence[Entry]) -> list[Entry]:
        """Return those that are not held yet."""
        return [entry for entry in entries if entry.id not in self._ids[entry.queue]]

    def add(self, entries: Iterable[Entry]) -> None:
        """Hold these, too."""
        for entry in entries:
            self._ids[entry.queue].add(entry.id)

    def drop(self, entry: Entry) -> None:
        """Hold this one no longer."""
        self._ids[entry.queue].discard(entry.id)
        self._dropped.set()

    async def emptied(self) -> None:
        """Wait until nothing is held."""
        while any(self._ids.values()):
            self._dropped.clear()
            await self._dropped.wait()
