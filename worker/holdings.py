"""The entries that this worker has been handed and has not parted with."""

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
        self._ids.get(entry.queue, set()).discard(entry.id)
