"""What is known of a job while a worker runs it, and what of that goes into its dead letter."""

from producer.wire.dead import AttemptError, DeadLetter
from producer.wire.job import Job
from worker.attempt import Attempt
from worker.holdings import Entry
from worker.outcome import Failure, Outcome, Unburied, Undecodable, fit
from worker.queue import Claimed
from worker.standing import Standing

_NOTHING = Standing()
_MAX_KEPT_CHARS = 500  # of an error's message, in the job's history


class Run:
    """What is known of a job while it runs here: its present attempt, and how it went so far."""

    __slots__ = ("attempt", "claimed", "entry", "errors", "finished", "job", "standing")

    def __init__(self, entry: Entry, job: Job, claimed: Claimed) -> None:
        self.entry = entry
        self.job = job
        self.errors = claimed.errors
        self.standing = _NOTHING
        self.begin(claimed)

    def begin(self, claimed: Claimed) -> None:
        """Go on with the attempt that this claim began."""
        self.claimed: Claimed = claimed
        self.attempt: Attempt = claimed.attempt
        self.finished = False

    @property
    def attempts(self) -> int:
        """How many attempts counted. One that only found that there are none left does not."""
        return min(self.attempt.number, getattr(self.job, "max_attempts", self.attempt.number))

    def note(self, failure: Failure, provider: str) -> None:
        """Add to the job's history."""
        message = fit(failure.message, _MAX_KEPT_CHARS)
        what = (self.attempt.now_ms(), self.attempt.number, provider, failure.code, message)
        self.errors = (*self.errors, AttemptError(*what))


def letter_of(entry: Entry, outcome: Outcome, run: Run | None) -> DeadLetter:
    """Return what is buried with the entry; ``run`` is None where nothing was claimed."""
    if isinstance(outcome, Unburied):
        return DeadLetter.from_summary(outcome.letter, entry.body)
    code, reason = (
        (outcome.code, outcome.message)
        if isinstance(outcome, Failure)
        else ("invalid_job", outcome.reason if isinstance(outcome, Undecodable) else "")
    )
    if run is None:
        return DeadLetter(entry.body, Job.id_in(entry.body) or "", code, fit(reason))
    provider = run.errors[-1].provider if run.errors else ""
    history = (run.attempts, provider, run.errors)
    return DeadLetter(entry.body, run.job.id, code, fit(reason), *history)
