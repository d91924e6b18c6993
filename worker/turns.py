"""In which order several queues are looked at. Pure."""

from collections.abc import Mapping, Sequence


class Turns:
    """Whose turn it is.

    Strict: as they were given, so that a later queue is served only while the earlier ones are empty. Otherwise by
    weight: of ten turns, two queues with weights 4 and 1 come first in eight and in two, evenly spread, and neither
    ever starves. What the first one leaves free goes to the next.
    """

    def __init__(self, queues: Sequence[str], weights: Mapping[str, int], *, strict: bool = False) -> None:
        self._weights = {queue: weights.get(queue, 1) for queue in queues}
        self._strict = strict
        self._credit = dict.fromkeys(queues, 0)

    def next(self) -> Sequence[str]:
        """Return the queues in the order in which they are to be looked at this time."""
        if self._strict:
            return list(self._weights)
        for queue, weight in self._weights.items():
            self._credit[queue] += weight
        order = sorted(self._credit, key=lambda queue: -self._credit[queue])
        self._credit[order[0]] -= sum(self._weights.values())
        return order
