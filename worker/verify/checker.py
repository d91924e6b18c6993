"""The checker: facts in, violations in plain words out. Pure, and it trusts nobody's own account."""

from collections.abc import Iterator, Sequence

from producer.wire.events import (
    QUEUED_ID,
    Chunk,
    Done,
    Event,
    EventId,
    Queued,
    Reasoning,
    Started,
    ToolCall,
    Usage,
    Waiting,
)
from worker.verify.facts import Call, JobFacts, Kept, Leftovers, Transcript

_UNCOUNTED = ("released", "rate_limited")
_NEEDS_A_START = (Chunk, Reasoning, ToolCall, Usage, Done)


def check_job(job: JobFacts) -> list[str]:
    """Return what is wrong with one job; nothing, if it is as promised."""
    return [f"job {job.id}: {violation}" for violation in _of_job(job)]


def check_leftovers(left: Leftovers) -> list[str]:
    """Return what should not be there any more."""
    return [*_in_redis(left), *_elsewhere(left)]


def _of_job(job: JobFacts) -> Iterator[str]:
    if job.problem is not None:
        yield f"its log cannot be read: {job.problem}"
    elif job.log is None:
        yield from _without_log(job)
    else:
        yield from _order(job.log)
        yield from _end(job, job.log)
        yield from _numbers(job, job.log)
        yield from _texts(job, job.log)
        for transcript in job.transcripts:
            yield from _transcript(transcript, job.log, job.kept)
    yield from (
        f"call {call.number} to the provider is still open" for call in job.calls if not call.is_closed
    )


def _without_log(job: JobFacts) -> Iterator[str]:
    if job.kept is not Kept.NOTHING:
        yield "it is lost: there is no log"
    for transcript in job.transcripts:
        ended = transcript.events and transcript.events[-1].terminal
        if transcript.error is None and not ended:
            yield f"reader {transcript.reader} was left without an end and without an error"


# -- the log ---------------------------------------------------------------------------------------------------


def _order(log: Sequence[Event]) -> Iterator[str]:
    if not log or not isinstance(log[0], Queued) or log[0].id != str(QUEUED_ID):
        yield "its log does not begin with `queued`"
    last, last_event = QUEUED_ID, log[0] if log else None
    for event in log[1:]:
        id_ = EventId.parse(event.id)
        if id_.attempt < last.attempt:
            yield f"event {event.id} of an old attempt stands after {last}"
        elif id_.attempt == last.attempt and id_.seq <= last.seq:
            yield f"event {event.id} stands twice, or out of order, after {last}"
        elif id_.attempt == last.attempt and id_.seq != last.seq + 1:
            yield f"a hole: {event.id} follows {last}"
        elif id_.attempt > last.attempt and id_.seq != 0:
            yield f"a hole: attempt {id_.attempt} begins at {event.id}"
        elif id_.attempt > last.attempt and isinstance(event, _NEEDS_A_START):
            yield f"attempt {id_.attempt} begins with `{event.type}` and not with `started`"
        elif id_.attempt == last.attempt and isinstance(event, Started):
            yield f"attempt {id_.attempt} starts again, at {event.id}"
        elif id_.attempt == last.attempt and isinstance(last_event, Waiting):
            yield f"attempt {id_.attempt} goes on after its `waiting`, with {event.id}"
        last, last_event = id_, event


def _end(job: JobFacts, log: Sequence[Event]) -> Iterator[str]:
    ends = [event for event in log if event.terminal]
    if not ends:
        said = log[-1].type if log else "nothing"
        yield f"it has no end: the last event is `{said}`, its status {job.status!r}"
        return
    if len(ends) > 1:
        yield f"it has {len(ends)} ends: {', '.join(f'{event.type} {event.id}' for event in ends)}"
    if not log[-1].terminal:
        yield f"`{log[-1].type}` {log[-1].id} stands after its end {ends[-1].id}"
    end = ends[-1]
    if job.cancel_promised and end.type != "cancelled":
        yield f"a cancel was promised, and it ended as {end.type!r}"
    elif not job.cancel_promised and end.type not in job.expected:
        why = getattr(end, "message", "") or getattr(end, "reason", "")
        yield f"it ended as {end.type!r} ({why}), expected: {', '.join(sorted(job.expected))}"
    if job.status != end.type:
        yield f"its record says {job.status!r}, its log {end.type!r}"


def _numbers(job: JobFacts, log: Sequence[Event]) -> Iterator[str]:
    """Each attempt that counted is counted; one that was released or met a rate limit is not."""
    least = 1
    for event in log:
        if isinstance(event, Started):
            # A server that forgot a claim may hand the job to another worker, who does not count it again.
            if event.number < least - (job.kept is Kept.MOST):
                yield f"attempt {event.id} has number {event.number}, and {least - 1} counted before it"
            if job.highest_number is not None and event.number > job.highest_number:
                yield f"attempt {event.id} has number {event.number}: something counted that must not"
            least = max(least, event.number) + 1
        elif isinstance(event, Waiting) and event.reason in _UNCOUNTED:
            least = max(1, least - 1)


# -- texts -----------------------------------------------------------------------------------------------------


def _texts(job: JobFacts, log: Sequence[Event]) -> Iterator[str]:
    text, own = "", list[str]()
    calls_used: set[int] = set()
    for event in log:
        if isinstance(event, Started):
            yield from _partial("".join(own), job.calls, calls_used)
            text += "".join(own)
            if event.keeps > len(text):
                yield f"attempt {event.id} keeps {event.keeps} characters of {len(text)}"
            text, own = text[: event.keeps], []
        elif isinstance(event, Chunk):
            own.append(event.text)
        elif isinstance(event, Done):
            yield from _whole(event, text, "".join(own), job.calls)
    yield from _partial("".join(own), job.calls, calls_used)


def _partial(own: str, calls: Sequence[Call], used: set[int]) -> Iterator[str]:
    """What one attempt said is the beginning of what the upstream sent in one call, and no other attempt's."""
    if not own:
        return
    sources = [call.number for call in calls if call.text.startswith(own)]
    if not sources:
        yield f"an attempt's text is no beginning of any one call's: …{own[-60:]!r}"
    elif set(sources) <= used:
        yield f"call {sources[-1]}'s text stands in two attempts"
    used.update(sources[:1])


def _whole(done: Done, kept: str, own: str, calls: Sequence[Call]) -> Iterator[str]:
    if done.chars != len(kept) + len(own):
        yield f"`done` says {done.chars} characters, the log holds {len(kept) + len(own)}"
    if not any(call.is_whole and call.text == own for call in calls):
        sent = [(call.number, len(call.text), call.is_whole) for call in calls]
        yield f"`done`, but no call was whole and sent these {len(own)} characters; calls: {sent}"


# -- readers ---------------------------------------------------------------------------------------------------


def _transcript(transcript: Transcript, log: Sequence[Event], kept: Kept) -> Iterator[str]:
    who = f"reader {transcript.reader}"
    if transcript.error is not None:
        if kept is not Kept.NOTHING:
            yield f"{who} ended with an error: {transcript.error}"
        return
    cursor = EventId.parse(transcript.after) if transcript.after else EventId(0, 0)
    due = [event for event in log if EventId.parse(event.id) > cursor]
    if kept is not Kept.ALL:
        due_ids = {event.id for event in due}
        yield from _lost_beside(who, [event for event in transcript.events if event.id not in due_ids], due)
        read = [event for event in transcript.events if event.id in due_ids]
    else:
        read = list(transcript.events)
    if read != due:
        yield f"{who} got something else than the log: {_difference(read, due)}"


def _lost_beside(who: str, beside: Sequence[Event], due: Sequence[Event]) -> Iterator[str]:
    """What Redis forgot after a reader had it may only belong to attempts that were superseded."""
    last_attempt = EventId.parse(due[-1].id).attempt if due else 0
    for event in beside:
        if event.terminal or EventId.parse(event.id).attempt >= last_attempt:
            yield f"{who} got {event.type} {event.id}, which is not in the log and was not superseded"
            return


def _difference(read: Sequence[Event], due: Sequence[Event]) -> str:
    for position, (got, wanted) in enumerate(zip(read, due, strict=False)):
        if got != wanted:
            return f"at place {position} {got.type} {got.id} for {wanted.type} {wanted.id}"
    if len(read) < len(due):
        return f"it stops after {len(read)} of {len(due)} events"
    return f"{len(read) - len(due)} events too many, from {read[len(due)].type} {read[len(due)].id} on"


# -- leftovers -------------------------------------------------------------------------------------------------


def _in_redis(left: Leftovers) -> Iterator[str]:
    if left.pending:
        yield f"{left.pending} entries are still pending"
    if left.waiting:
        yield f"{left.waiting} entries are still in the jobs stream"
    if left.later:
        yield f"{left.later} jobs are still put off"
    for consumer in left.consumers:
        if consumer.rpartition(":")[0] in left.stopped_workers:
            yield f"consumer {consumer} was left by a worker that has stopped"
    yield from (f"slot {slot} was not given back" for slot in left.slots)
    yield from (f"key {key} has no TTL" for key in left.keys_without_ttl)
    for job_id in sorted(left.expected_dead - left.dead):
        yield f"job {job_id} failed for good and is not among the dead"
    for job_id in sorted(left.dead - left.expected_dead):
        yield f"job {job_id} is among the dead, and should not be"


def _elsewhere(left: Leftovers) -> Iterator[str]:
    yield from (f"the upstream still serves {call}" for call in left.open_calls)
    yield from (f"connection {connection} was left open" for connection in left.connections)
    yield from (f"task {task} was left running" for task in left.tasks)
    yield from (f"a worker wrote: {line}" for line in left.complaints)
    for worker, status in left.exit_statuses.items():
        if status != 0:
            yield f"worker {worker} ended with status {status}"
