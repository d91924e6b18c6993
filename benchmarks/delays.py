"""How long chunks were under way: the upstream stamps each one, whoever receives it looks at the same clock."""

import math
from array import array
from collections.abc import Mapping
from typing import Any

_LATE_NS = 50_000_000
"""A chunk that is there this long after the upstream's last write had not kept up with it."""


class Delays:
    """The chunks that one process received. Times are ns of the monotonic clock."""

    def __init__(self) -> None:
        self.ends = 0
        self.failures = 0
        self.last_end_at = 0
        self._sent_at = array("q")
        self._came_at = array("q")
        self._first_at: dict[str, int] = {}

    def chunk(self, stream: str, sent_at: int, now: int) -> None:
        """Note a chunk."""
        self._sent_at.append(sent_at)
        self._came_at.append(now)
        self._first_at.setdefault(stream, now)

    def end(self, now: int, *, is_done: bool) -> None:
        """Note that a stream has ended."""
        self.ends += 1
        self.failures += not is_done
        self.last_end_at = now

    def report(self, since: int, last_sent_at: int, handed: Mapping[str, int]) -> dict[str, Any]:
        """Return the figures of the chunks that were sent from ``since`` to ``last_sent_at``; times in ms.

        ``handed``: when each stream was asked for.
        """
        all_of_them = zip(self._sent_at, self._came_at, strict=True)
        pairs = [pair for pair in all_of_them if since <= pair[0] <= last_sent_at]
        delays = sorted((came - sent) / 1e6 for sent, came in pairs)
        firsts = sorted(
            (at - handed[stream]) / 1e6 for stream, at in self._first_at.items() if stream in handed
        )
        in_time = sum(came <= last_sent_at + _LATE_NS for _, came in pairs)
        return {
            "chunks": len(self._sent_at),
            "in_time": in_time / len(pairs) if pairs else 0.0,
            "delay": _percentiles(delays),
            "first": _percentiles(firsts),
            "last_end_at": self.last_end_at,
        }


def _percentiles(ordered: list[float]) -> dict[str, float]:
    if not ordered:
        return {}
    places = {"p50": 0.5, "p99": 0.99, "max": 1.0}
    return {name: ordered[max(0, math.ceil(share * len(ordered)) - 1)] for name, share in places.items()}
