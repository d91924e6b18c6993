"""What each script promises, as a small model: given the world before and after a call, was that allowed?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from producer import scripts as producer_scripts
from producer.connection import Call, Script
from producer.wire.events import EventId
from producer.wire.job import Job
from producer.wire.keys import NOBODY
from tests.support.world import ENDED, Hold, JobState, World
from worker import scripts as worker_scripts


@dataclass
class Life:
    """What the model remembers of a job's present life."""

    attempt: int = 0
    turn: int = 0
    entry: str = ""
    handed_over: dict[str, int] = field(default_factory=dict)
    """Per entry: the latest handover that a claim was made with."""


@dataclass
class Past:
    """What the model remembers of all that was."""

    lives: dict[str, Life] = field(default_factory=dict)
    letters_due: dict[str, int] = field(default_factory=dict)
    told: dict[str, list[bytes]] = field(default_factory=dict)
    """Every frame that ever stood in a job's log, of all its lives."""
    seen: dict[str, int] = field(default_factory=dict)
    """How often which script was said, and with which result: what a run has reached."""

    def life(self, job_id: str) -> Life:
        return self.lives.setdefault(job_id, Life())


@dataclass(frozen=True)
class Said:
    """A call that was made: what came of it, and the world on both sides of it."""

    call: Call
    result: Any
    before: World
    after: World
    past: Past

    def arg(self, number: int) -> str:
        """The argument, counted from 1 as in the script."""
        value = self.call.args[number - 1]
        return value.decode(errors="replace") if isinstance(value, bytes) else str(value)

    @property
    def word(self) -> str:
        """The result's first word."""
        first = self.result[0] if isinstance(self.result, list) and self.result else self.result
        return first.decode() if isinstance(first, bytes) else str(first)

    @property
    def job_id(self) -> str:
        return self.call.keys[0].partition("{")[2].partition("}")[0]

    @property
    def job(self) -> JobState:
        """The job before the call."""
        return self.before.jobs[self.job_id]

    @property
    def job_after(self) -> JobState:
        return self.after.jobs[self.job_id]

    @property
    def new_frames(self) -> tuple[tuple[str, bytes], ...]:
        return self.job_after.log[len(self.job.log) :]

    def changed_only(self, *parts: str) -> None:
        """Raise if it changed anything but these parts; those of a job begin with a dot."""
        allowed = {f"{self.job_id}{part}" if part.startswith(".") else part for part in parts}
        changed = self.before.differs_from(self.after) - allowed
        assert not changed, f"{name_of(self.call.script)} changed {sorted(changed)}"


# -- entries: only who holds one changes anything about it ----------------------------------------------------------


def _is_held(said: Said) -> bool:
    """Whether the call's consumer holds its entry; if it does not, nothing may have come of the call."""
    entry = said.arg(5) if said.call.script is worker_scripts.RELEASE else said.arg(3)
    if said.before.holder_of(entry) == said.arg(2):
        return True
    assert said.result in (0, -1), "who does not hold an entry is told so"
    said.changed_only()
    return False


def _settled(said: Said) -> None:
    entries = [said.arg(number) for number in range(3, len(said.call.args) + 1)]
    held = {entry for entry in entries if said.before.holder_of(entry) == said.arg(2)}
    assert said.result == len(held)
    said.changed_only("entries", "held")
    _gone(said, held)


def _left(said: Said) -> None:
    _gone(said, {said.arg(3)})


def _gone(said: Said, gone: set[str]) -> None:
    assert said.before.entries.keys() - said.after.entries.keys() == gone
    assert said.before.held.keys() - said.after.held.keys() == gone
    assert all(said.after.held[entry] == said.before.held[entry] for entry in said.after.held)


def _deferred(said: Said) -> None:
    if _is_held(said):
        said.changed_only("entries", "held", "later")
        _left(said)
        body = said.call.args[4]
        assert said.after.later == {**said.before.later, body: float(said.arg(4))}


def _buried(said: Said) -> None:
    if _is_held(said):
        said.changed_only("entries", "held", "dead")
        _left(said)
        *others, (_, job_id) = said.after.dead
        assert others == list(said.before.dead)
        assert job_id == Job.id_in(said.before.entries[said.arg(3)])


def _released(said: Said) -> None:
    if _is_held(said):
        said.changed_only("held")
        entry = said.arg(5)
        hold = Hold(NOBODY, said.before.held[entry].deliveries, is_over=True)
        assert said.after.held == {**said.before.held, entry: hold}


def _renewed(said: Said) -> None:
    said.changed_only("held")
    consumer, entries = said.arg(2), [said.arg(number) for number in range(3, len(said.call.args) + 1)]
    mine = [entry for entry in entries if said.before.holder_of(entry) == consumer]
    assert [entry.decode() for entry in said.result] == [entry for entry in entries if entry not in mine]
    renewed = {entry: Hold(consumer, said.before.held[entry].deliveries, is_over=False) for entry in mine}
    assert said.after.held == {**said.before.held, **renewed}


def _reclaimed(said: Said) -> None:
    said.changed_only("held")
    consumer = said.arg(2)
    for entry, hold in said.before.held.items():
        taken = Hold(consumer, hold.deliveries + 1, is_over=False)
        assert said.after.held[entry] == (taken if hold.is_over else hold)


def _promoted(said: Said) -> None:
    said.changed_only("entries", "later")
    due = {body for body, score in said.before.later.items() if score <= said.after.now}
    assert said.after.later.keys() == said.before.later.keys() - due
    new = [body for entry, body in said.after.entries.items() if entry not in said.before.entries]
    assert sorted(new) == sorted(due), "what was due did not go to the queue, once each"


def _left_the_group(said: Said) -> None:
    said.changed_only()


# -- jobs: only the attempt that owns one writes ---------------------------------------------------------------------


def _owns(said: Said, attempt: int) -> bool:
    return said.past.life(said.job_id).attempt == attempt and said.job.status == "running"


def _appended(said: Said) -> None:
    event_id = said.arg(1)
    if _owns(said, EventId.parse(event_id).attempt) and not said.job.has(event_id):
        said.changed_only(".log", ".fence")
        assert said.word == "written"
        assert said.new_frames == ((event_id, said.call.args[1]),)
        return
    said.changed_only()
    assert said.word == ("repeated" if said.job.has(event_id) else "lost")


def _finished(said: Said) -> None:
    event_id, status = said.arg(2), said.arg(4)
    if not _owns(said, int(said.arg(1))):
        said.changed_only()
        is_known = said.job.attempt == int(said.arg(1)) and said.job.has(event_id)
        assert said.word in (("repeated",) if is_known else ("lost", "gone")), (
            "who owns nothing was not told so"
        )
        return
    if said.job.mark is not None and status != "cancelled":
        said.changed_only()
        assert said.result == [b"cancel", said.job.mark]
        return
    said.changed_only(".log", ".fence", ".record", ".mark")
    assert said.word == "written"
    assert said.new_frames == ((event_id, said.call.args[2]),)
    assert said.job_after.status == status
    assert said.job_after.number == said.job.number - int(said.arg(6))
    if status in ENDED:
        assert said.job_after.mark is None
    if said.arg(9):
        said.past.letters_due[said.job_id] = said.past.letters_due.get(said.job_id, 0) + 1


def _claimed(said: Said) -> None:
    answers: Mapping[str, Callable[[Said], None]] = {
        "claimed": _became_owner,
        "ended": _met_an_ended_job,
        "elsewhere": _left_it_to_another_entry,
        "early": _came_too_early,
        "lost": _came_too_late,
    }
    if said.job.status == "running" and said.job.record["claim"] == said.arg(11):
        assert said.word == "claimed", "a claim that was said again is not recognised"
    answers[said.word](said)


def _became_owner(said: Said) -> None:
    life, job, entry, deliveries = said.past.life(said.job_id), said.job, said.arg(1), int(said.arg(2))
    attempt = int(said.result[1])
    if attempt == life.attempt and job.status == "running":  # said again after its reply was lost
        said.changed_only()
        assert job.record["claim"] == said.arg(11)
        return
    said.changed_only(".log", ".fence", ".record")
    assert job.status not in ENDED, "an ended job was claimed"
    _may_claim(said, life)
    assert attempt > max([life.attempt, *(EventId.parse(event.id).attempt for event in job.events())])
    assert said.new_frames == ()
    assert said.job_after.number == job.number + 1 == int(said.result[2])
    assert said.result[3] == (job.mark or b""), "a cancel was not told"
    assert said.job_after.fence == f"{attempt - 1}-18446744073709551615", "earlier owners can still write"
    life.attempt, life.turn, life.entry = attempt, int(said.arg(3)), entry
    life.handed_over[entry] = max(deliveries, life.handed_over.get(entry, 0))


def _may_claim(said: Said, life: Life) -> None:
    if said.arg(13) == str(life.attempt):  # a worker's own next attempt
        return
    entry, deliveries, turn = said.arg(1), int(said.arg(2)), int(said.arg(3))
    assert deliveries > life.handed_over.get(entry, 0), "somebody claimed it who lost the entry before"
    if entry != life.entry and said.job.status == "running":
        is_gone = said.arg(14) == life.entry and life.entry not in said.before.entries
        assert is_gone, "an entry took a job over that runs in another one"
    elif entry != life.entry:
        assert turn >= life.turn, "an old entry of the job came before the one that stands for it"
    assert float(said.job.record.get("due", 0)) <= said.after.now, "it is not due yet"


def _met_an_ended_job(said: Said) -> None:
    said.changed_only()
    assert said.job.status in ENDED


def _left_it_to_another_entry(said: Said) -> None:
    said.changed_only()
    if said.job.status == "running":  # whether it is there, the worker looks for itself
        assert said.result[1].decode() == said.job.record["entry"] != said.arg(1)
        return
    others = [entry for entry in said.before.entries_of(said.job_id) if entry != said.arg(1)]
    later = [body for body in said.before.later if Job.id_in(body) == said.job_id]
    # An operator who died in the middle of a retry left the letter: the new life is not in the queue yet.
    letters = [letter for letter, job_id in said.before.dead if job_id == said.job_id]
    assert others or later or letters, "the job was left to an entry that is not there"


def _came_too_early(said: Said) -> None:
    said.changed_only()
    assert int(said.result[1]) == int(said.job.record["due"]) > said.before.now


def _came_too_late(said: Said) -> None:
    said.changed_only()
    handed_over = said.past.life(said.job_id).handed_over.get(said.arg(1), 0)
    assert int(said.arg(2)) <= handed_over, "nobody else has claimed the entry"


def _chosen(said: Said) -> None:
    said.changed_only(".record")
    assert said.job_after.status == said.job.status
    assert said.job_after.attempt == said.job.attempt


# -- producers ------------------------------------------------------------------------------------------------------


def _accepted(said: Said) -> None:
    if said.word == "accepted" and said.job_after.log != said.job.log:
        assert said.job.status in (None, *ENDED), "a life that goes on was begun anew"
        said.changed_only(".log", ".fence", ".record", ".mark")
        assert said.job_after.mark is None
        said.past.lives[said.job_id] = Life(attempt=said.job_after.attempt)
    else:
        said.changed_only(".record")


def _added(said: Said) -> None:
    said.changed_only("entries", "later")


def _retried(said: Said) -> None:
    said.changed_only("entries", "dead")
    gone = [job_id for letter, job_id in said.before.dead if (letter, job_id) not in said.after.dead]
    for job_id in gone:
        said.past.letters_due[job_id] -= 1
    assert len(gone) == len(said.after.entries) - len(said.before.entries)


def _confirmed(said: Said) -> None:
    said.changed_only(".record")
    assert said.job_after.status == said.job.status


def _cancelled(said: Said) -> None:
    if said.word == "requested":
        said.changed_only(".mark")
        assert said.job.status == "running"
        assert said.job_after.mark is not None
    else:
        said.changed_only(".log", ".fence", ".record")
        is_said_again = said.job.status == "cancelled" and said.job.record["attempt"] == said.arg(1)
        has_ended = said.job.log != said.job_after.log
        assert (said.word == "cancelled") == (has_ended or is_said_again)


def _expired(said: Said) -> None:
    if said.job.mark is not None and said.arg(7) != "cancelled":
        said.changed_only()
        assert said.word in ("cancel", "ended", "running", "early", "again")
        return
    said.changed_only(".log", ".fence", ".record", ".mark")
    assert (said.word == "expired") == (said.job.log != said.job_after.log)
    if said.word == "expired":
        assert said.job.status not in ENDED
        assert (said.job_after.status, said.job_after.mark) == (said.arg(7), None)
        late = said.before.now - float(said.job.record["deadline"])
        assert late >= (float(said.arg(6)) if said.job.status == "running" else 0), "a worker may be about to"


def _withdrawn(said: Said) -> None:
    said.changed_only(".log", ".fence", ".record")
    if said.job_after.status is None and said.job.status is not None:
        assert said.job.is_provisional, "a job on its way was taken back"
        said.past.lives.pop(said.job_id, None)


def _nothing_of_a_job(said: Said) -> None:
    assert not said.before.differs_from(said.after)


_PROMISES: Mapping[Script, Callable[[Said], None]] = {
    worker_scripts.APPEND: _appended,
    worker_scripts.BURY: _buried,
    worker_scripts.CHOOSE: _chosen,
    worker_scripts.CLAIM: _claimed,
    worker_scripts.DEFER: _deferred,
    worker_scripts.FINISH: _finished,
    worker_scripts.LEAVE: _left_the_group,
    worker_scripts.PARK: _nothing_of_a_job,
    worker_scripts.PARKED: _nothing_of_a_job,
    worker_scripts.PROMOTE: _promoted,
    worker_scripts.READ_LOG: _nothing_of_a_job,
    worker_scripts.RECLAIM: _reclaimed,
    worker_scripts.RELEASE: _released,
    worker_scripts.RENEW: _renewed,
    worker_scripts.SETTLE: _settled,
    worker_scripts.STANDS: _nothing_of_a_job,
    producer_scripts.ACCEPT: _accepted,
    producer_scripts.CANCEL: _cancelled,
    producer_scripts.CONFIRM: _confirmed,
    producer_scripts.ENQUEUE: _added,
    producer_scripts.EXPIRE: _expired,
    producer_scripts.RETRY: _retried,
    producer_scripts.REVIVE: _accepted,
    producer_scripts.WITHDRAW: _withdrawn,
}

_NAMES = {
    script: name.lower()
    for package in (producer_scripts, worker_scripts)
    for name, script in vars(package).items()
    if isinstance(script, Script)
}


def name_of(script: Script) -> str:
    return _NAMES[script]


def check_call(said: Said) -> None:
    """Raise if the call did what it must not, or did not do what it must."""
    shape = said.word if len(said.word) < 2 or not said.word[0].isdecimal() else "..."
    outcome = f"{name_of(said.call.script)}: {shape}"
    said.past.seen[outcome] = said.past.seen.get(outcome, 0) + 1
    _PROMISES[said.call.script](said)
    for job_id, job in said.after.jobs.items():
        before = said.before.jobs[job_id].log
        goes_on = job.log[: len(before)] == before
        new_life = said.call.script in (
            producer_scripts.ACCEPT,
            producer_scripts.REVIVE,
            producer_scripts.WITHDRAW,
        )
        assert goes_on or new_life, "what stood in a log has changed"
        told = said.past.told.setdefault(job_id, [])
        told += [frame for _, frame in (job.log[len(before) :] if goes_on else job.log)]
