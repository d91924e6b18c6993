"""What the operator may set: read once, at the edge."""

import os
import secrets
import socket
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from producer.wire.lifetimes import RETENTION_MS


def default_name() -> str:
    """Return a name for this worker: where it runs, and which process it is."""
    return f"{socket.gethostname()}-{os.getpid()}"


class Settings(BaseModel):
    """A worker's settings. Times are seconds."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    redis_url: Annotated[str, Field(repr=False)]  # may hold a password
    prefix: str = "chat"
    queues: Annotated[tuple[str, ...], Field(min_length=1)] = ("default",)
    weights: dict[str, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)
    """How often each queue's turn comes, compared with the others; 1 for those that are not named."""
    strict: bool = False
    """Serve a queue only while those named before it are empty."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Jobs that run at the same time."""
    name: Annotated[str, Field(min_length=1, max_length=128)] = Field(default_factory=default_name)
    grace: Annotated[float, Field(ge=0)] = 30.0
    """How long a stopping worker goes on with what it runs, before it hands it back."""
    timeout: Annotated[float, Field(gt=0)] = 5.0
    """How long Redis may take to answer before the connection counts as broken."""
    lease: Annotated[float, Field(gt=0)] = 15.0
    """How long a claimed job is safe from other workers; renewed three times as often."""
    sweep: Annotated[float, Field(gt=0)] = 5.0
    """How often the jobs of dead workers are looked for. A killed worker's jobs start anew within lease + sweep."""
    retention: Annotated[float, Field(ge=1, validate_default=True)] = RETENTION_MS / 1000
    """How long an ended job can still be read; longer than lease + sweep."""
    backoff: Annotated[float, Field(ge=0)] = 1.0
    """The longest pause before the first retry; it doubles with each further one, and a random part of it is taken."""
    longest_backoff: Annotated[float, Field(ge=0)] = 60.0
    max_wait: Annotated[float, Field(gt=0)] = 86_400.0
    """How long after its first claim a job may still be put off because its providers ask to be left alone."""
    max_dead: Annotated[int, Field(ge=1)] = 10_000
    """How many buried jobs a queue keeps."""
    poll: Annotated[float, Field(gt=0)] = 1.0
    """How long one read waits for a job. A stopping worker lets its last read end."""
    check: Annotated[float, Field(gt=0)] | None = None
    """How often the cancel marks of running jobs are looked at, for the case that the hint was lost.

    None: as often as their leases are renewed.
    """
    consumer_suffix: str = Field(default_factory=lambda: secrets.token_hex(4))
    """Keeps two workers of one name apart in the consumer group."""

    @field_validator("retention")
    @classmethod
    def _outlives_a_dead_workers_entry(cls, retention: float, info: ValidationInfo) -> float:
        if "lease" not in info.data or "sweep" not in info.data:
            return retention  # what is wrong with these is told of them
        until_reclaimed = info.data["lease"] + info.data["sweep"]
        if retention <= until_reclaimed:
            # A worker may die when it has ended a job, and before it has settled its entry. Whoever reclaims that
            # entry knows only by the job's record that nothing is left to do.
            raise ValueError(
                f"it has to be longer than lease + sweep, which are {until_reclaimed:g} s together, "
                "or a job that has ended could be run again"
            )
        return retention
