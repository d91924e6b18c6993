"""What was acknowledged shortly before the server was last heard of: it may have forgotten that since."""

from collections import deque

from producer.connection import Call

REMEMBERED_SECONDS = 3.0
"""How long an acknowledged call is remembered. Redis syncs every second, and waits for a slow disk for two."""

REMEMBERED_BYTES = 16 * 1024 * 1024
"""Bytes remembered at most; of a faster flow than this, only the last part can be said again."""


class RecentCalls:
    """The last moments' calls, in order. ``now`` is monotonic, in seconds."""

    def __init__(self) -> None:
        self._calls: deque[tuple[float, int, Call]] = deque()
        self._bytes = 0

    def add(self, call: Call, size: int, now: float) -> None:
        """Remember a call of ``size`` bytes."""
        self._calls.append((now, size, call))
        self._bytes += size

    def forget_the_old(self, now: float) -> None:
        """Forget what is older than the last moments; called whenever the server was heard of."""
        begin = now - REMEMBERED_SECONDS
        while self._calls and (self._calls[0][0] < begin or self._bytes > REMEMBERED_BYTES):
            self._bytes -= self._calls.popleft()[1]

    def calls(self) -> list[Call]:
        """Return what is remembered."""
        return [call for _, _, call in self._calls]
