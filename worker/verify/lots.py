"""What is to happen to each job of a soak: drawn from the seed and the job's number, and from nothing else."""

import random
from dataclasses import dataclass
from typing import Literal

from worker.verify.readers import Way
from worker.verify.upstream import Plan

_UPSTREAM = ("hang", "cut", "429", "500", "")


@dataclass(frozen=True, slots=True)
class Dose:
    """How much of everything. Times are seconds, shares are between 0 and 1."""

    chunks: int = 50
    pace: float = 0.03
    in_flight: int = 80
    trouble_every: float = 1.0
    cancels: float = 0.0
    upstream_faults: float = 0.0
    continues: float = 0.0
    highest_number: int | None = None
    """How many attempts of a job may count, where the run knows that."""


@dataclass(frozen=True, slots=True)
class Lot:
    """One job's lot. ``cancel_after``: seconds from its acceptance; ``beside``: who reads besides its first reader."""

    plan: Plan
    on_retry: Literal["restart", "continue"]
    cancel_after: float | None
    beside: tuple[Way, ...]


def draw(seed: int, number: int, dose: Dose) -> Lot:
    """Draw the lot of the job of this number."""
    dice = random.Random(f"{seed}/{number}")
    pace = dose.pace * dice.uniform(0.5, 1.5)
    hit = dice.random() < dose.upstream_faults
    faults = tuple(dice.choices(_UPSTREAM, k=dice.choice((1, 1, 2)))) if hit else ()
    cancelled = dice.random() < dose.cancels
    return Lot(
        plan=Plan(f"s{seed:x}-{number}", dose.chunks, pace, faults),
        on_retry="continue" if dice.random() < dose.continues else "restart",
        cancel_after=dice.uniform(0, 1.2) * dose.chunks * pace if cancelled else None,
        beside=tuple(dice.choices(tuple(Way), k=dice.choice((0, 0, 1, 2)))),
    )
