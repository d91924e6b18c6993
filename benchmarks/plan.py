"""What the upstream is to answer: the plan travels as the job's prompt, so every way hands it on unchanged."""

import json
from dataclasses import asdict, dataclass
from typing import Any, Self

STAMP_DIGITS = 16  # of a monotonic clock in ns: enough for the uptime of a hundred days
_SEQ_DIGITS = 3
TEXT_CHARS = 1 + STAMP_DIGITS + _SEQ_DIGITS
"""Characters in each chunk, of either manner."""


@dataclass(frozen=True, slots=True)
class Plan:
    """``chunks`` in one answer, ``rate`` of them a second; a rate of 0 is as fast as the socket takes them.

    ``gated`` answers are held back until the upstream is told to open its gate, and then begin together.
    """

    chunks: int = 5
    rate: float = 0.0
    gated: bool = False

    def prompt(self) -> str:
        """Return the plan as a prompt."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, body: Any) -> Self:
        """Read the plan out of a request; an everyday prompt means the default."""
        try:
            return cls(**json.loads(body["messages"][-1]["content"]))
        except (ValueError, TypeError, KeyError, IndexError):
            return cls()

    def fast_text(self, seq: int) -> str:
        """Return the text of chunk ``seq`` of a fast answer; a paced one's holds the time, see `stamped`."""
        return f"{seq:0{STAMP_DIGITS}d}{seq % 1000:0{_SEQ_DIGITS}d} "

    def is_exact(self, texts: list[str]) -> bool:
        """Whether these are all the chunks of one answer, each in its place."""
        if len(texts) != self.chunks:
            return False
        if not self.rate:
            return all(text == self.fast_text(seq) for seq, text in enumerate(texts))
        stamps = [text[1 : 1 + STAMP_DIGITS] for text in texts]
        return stamps == sorted(stamps) and all(
            len(text) == TEXT_CHARS and text[-_SEQ_DIGITS:] == f"{seq % 1000:0{_SEQ_DIGITS}d}"
            for seq, text in enumerate(texts)
        )


def stamped(now_ns: int, seq: int) -> bytes:
    """Return the text of chunk ``seq`` of a paced answer, written at ``now_ns``."""
    return b"@%0*d%0*d" % (STAMP_DIGITS, now_ns, _SEQ_DIGITS, seq % 1000)
