"""Every name in Redis, spelled once. The braces are Redis Cluster hash tags: one slot per queue, one per job."""

import re
from dataclasses import dataclass

GROUP = "workers"
"""The consumer group of every jobs stream, made at 0 so that it sees jobs older than itself."""

NOBODY = "-"
"""The consumer of that group which holds what was released, until somebody reclaims it."""

FRAME_FIELD = "f"
"""The one field of a log entry: the frame's bytes."""

JOB_FIELD = "job"
"""The one field of a jobs-stream entry: the job's bytes."""

MAX_NAME_CHARS = 128
NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._:@/+=-]{0,127}"
_NAME = re.compile(NAME_PATTERN)


def is_name(text: str) -> bool:
    """Whether ``text`` may name a job, a queue or a prefix: no braces, no white space, 1 to 128 characters."""
    return _NAME.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Keys:
    """The names under one prefix.

    Lifetimes: what belongs to a queue stays; what belongs to a job or a provider has a TTL at every moment.
    """

    prefix: str = "chat"

    def __post_init__(self) -> None:
        if not is_name(self.prefix):
            raise ValueError(f"prefix {self.prefix!r}: use letters, digits and ._:@/+=- (at most 128)")

    def jobs(self, queue: str) -> str:
        """Stream, group ``workers``; an entry lives until settled."""
        return f"{self.prefix}:{{{queue}}}:jobs"

    def dead(self, queue: str) -> str:
        """Stream of buried entries, bounded by count."""
        return f"{self.prefix}:{{{queue}}}:dead"

    def later(self, queue: str) -> str:
        """Sorted set of jobs that are not due yet; the score is when they are, in ms."""
        return f"{self.prefix}:{{{queue}}}:later"

    def counts(self, queue: str) -> str:
        """Hash of what is counted for the operator: ``dead_dropped``."""
        return f"{self.prefix}:{{{queue}}}:counts"

    def control(self, queue: str) -> str:
        """Channel on which the queue's workers hear of cancels, and of jobs that are due sooner than any other."""
        return f"{self.prefix}:{{{queue}}}:control"

    def log(self, job_id: str) -> str:
        """Stream of frames; an entry's id is the id of its last event."""
        return f"{self.prefix}:{{{job_id}}}:log"

    def record(self, job_id: str) -> str:
        """Hash: status, attempt, entry, worker, times, provider, model."""
        return f"{self.prefix}:{{{job_id}}}:record"

    def cancel(self, job_id: str) -> str:
        """String, present once a cancel was asked for."""
        return f"{self.prefix}:{{{job_id}}}:cancel"

    def events(self, job_id: str) -> str:
        """Channel of the frames, live."""
        return f"{self.prefix}:{{{job_id}}}:events"

    def parked(self, provider: str) -> str:
        """String with a TTL: until when the provider is to be left alone, in ms."""
        return f"{self.prefix}:{{provider:{provider}}}:parked"

    def slots(self, provider: str) -> str:
        """Sorted set of the calls of a provider that run in all workers; the score is when each one's lease ends."""
        return f"{self.prefix}:{{provider:{provider}}}:slots"
