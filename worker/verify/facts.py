"""What was seen of a trial: values only. The checker judges them, others collect them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from producer.wire.events import Event


class Kept(Enum):
    """What Redis kept of what it had acknowledged."""

    ALL = "all"
    MOST = "most"
    """It lost the last moments, as with an append-only file that is written every second."""
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Call:
    """One call to the provider, as the upstream itself saw it.

    ``text`` is what it sent; ``is_whole``: with the end mark; ``is_closed``: the connection serves it no more.
    """

    number: int
    text: str
    is_whole: bool
    is_closed: bool = True


@dataclass(frozen=True, slots=True)
class Transcript:
    """What one reader got, from the cursor ``after`` on; ``error`` says what else than an end stopped it."""

    reader: str
    events: Sequence[Event]
    after: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True)
class JobFacts:
    """All that is known of one accepted job.

    ``log`` is None where there is none; ``problem``: why it cannot be read. ``highest_number``: how many attempts
    may have counted, where the trial knows that.
    """

    id: str
    log: Sequence[Event] | None
    calls: Sequence[Call]
    transcripts: Sequence[Transcript]
    status: str | None = None
    problem: str | None = None
    expected: frozenset[str] = frozenset({"done"})
    cancel_promised: bool = False
    highest_number: int | None = None
    kept: Kept = Kept.ALL


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What is still there once every job has ended. ``dead`` holds the ids of buried jobs.

    ``stopped_workers``: those that had the time to leave. A killed one's consumer is there until it is tidied away.
    """

    waiting: int = 0
    pending: int = 0
    later: int = 0
    consumers: Sequence[str] = ()
    stopped_workers: Sequence[str] = ()
    slots: Sequence[str] = ()
    keys_without_ttl: Sequence[str] = ()
    dead: frozenset[str] = frozenset()
    expected_dead: frozenset[str] = frozenset()
    open_calls: Sequence[str] = ()
    connections: Sequence[str] = ()
    tasks: Sequence[str] = ()
    complaints: Sequence[str] = ()
    """Lines that no worker should ever write: a bug's traceback, a task that nobody awaited."""
    exit_statuses: Mapping[str, int] = field(default_factory=dict)
    """Of the workers that were asked to stop and had the time to."""
