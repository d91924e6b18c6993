"""What was acknowledged shortly before the server was last heard of: it may have forgotten that since."""

from collections import deque
from collections.abc import Sequence

from producer.connection import Arg, Call, Script, pack

REMEMBERED_SECONDS = 3.0
"""How long an acknowledged call is remembered. Redis syncs every second, and waits for a slow disk for two."""

REMEMBERED_BYTES = 16 * 1024 * 1024
"""Bytes remembered at most; of a faster flow than this, only the last part can be said again."""


_UNPACKED_BYTES = 500
"""What a call that is not packed yet counts for, roughly."""

_Kept = bytes | tuple[Arg, ...]
"""A call as it was packed, or the words of one that nobody has said yet."""


class RecentCalls:
    """The last moments' calls, in order. ``now`` is monotonic, in seconds.

    They are kept as bytes, or as tuples of plain words, which the garbage collector forgets about, a list for each
    reply: a hundred thousand objects would keep it busy.
    """

    def __init__(self) -> None:
        self._replies: deque[tuple[float, int, list[_Kept]]] = deque()
        self._bytes = 0
        self._scripts: set[Script] = set()

    def add(self, calls: Sequence[Call], now: float) -> None:
        """Remember calls that were acknowledged together."""
        kept = [call.packed or call.words for call in calls]
        size = sum([len(call.packed) or _UNPACKED_BYTES for call in calls])
        self._replies.append((now, size, kept))
        self._bytes += size
        self._scripts.update([call.script for call in calls])

    def forget_the_old(self, now: float) -> None:
        """Forget what is older than the last moments; called whenever the server was heard of."""
        begin = now - REMEMBERED_SECONDS
        while self._replies and (self._replies[0][0] < begin or self._bytes > REMEMBERED_BYTES):
            self._bytes -= self._replies.popleft()[1]

    def calls(self) -> list[bytes]:
        """Return what is remembered, packed."""
        return [
            call if isinstance(call, bytes) else pack(*call) for _, _, kept in self._replies for call in kept
        ]

    def scripts(self) -> set[Script]:
        """Return all scripts that the calls may need."""
        return self._scripts
