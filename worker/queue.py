"""The queues as verbs: claim, renew, settle, release, defer, bury, reclaim, promote.

Every verb on an entry is done by Redis only if this worker's consumer holds the entry at that moment. So a worker
that was frozen, and whose entries others have reclaimed meanwhile, changes nothing when it wakes.
"""

import asyncio
import itertools
import secrets
from dataclasses import replace
from typing import Any, NamedTuple

import structlog

from producer.connection import Call
from producer.wire.codec import pack
from producer.wire.dead import AttemptError, DeadLetter, unpack_errors
from producer.wire.frames import encode_queued
from producer.wire.job import Job
from producer.wire.keys import GROUP, NOBODY, Keys
from producer.wire.lifetimes import UNFINISHED_MS
from worker import scripts
from worker.attempt import Attempt
from worker.entry_reader import body_of
from worker.holdings import Entry, Holdings
from worker.outcome import Lost, NothingToDo, TooEarly, Unburied
from worker.pending import Sender
from worker.settings import Settings
from worker.settling import Settlings

logger = structlog.get_logger("chatrelay.queue")

LATER_HINT = pack({"type": "later"})
RELEASED_HINT = pack({"type": "released"})

_UNFINISHED = str(UNFINISHED_MS)

_RELEASED_IDLE_MS = 1_000_000_000
"""An entry that was released looks as if it had been silent for so long: longer than any lease."""

_RENEWED_AT_ONCE = 200  # entries; Redis does nothing else meanwhile
_PROMOTED_AT_ONCE = (100, 1024 * 1024)  # jobs, bytes


class Claim(NamedTuple):
    """What a worker says when it claims a job. ``provider``: the one that it is about to ask, '' for none.

    ``after``: the attempt that this worker has just ended, where it goes on to the job's next one by itself.
    ``gone``: an entry that stands for the job by its record, and is in no queue any more.
    """

    job_id: str
    created_at: int
    turn: int = 0
    provider: str = ""
    model: str = ""
    after: int | None = None
    gone: str = ""


class Claimed(NamedTuple):
    """This worker owns the job.

    ``cancel_reason``: somebody cancelled it, so it is not to start. ``errors``: how earlier attempts failed.
    ``is_first``: whether there was no attempt before. ``first_claim_ms``: when the first one began, by Redis' clock.
    """

    attempt: Attempt
    cancel_reason: str | None
    errors: tuple[AttemptError, ...] = ()
    is_first: bool = True
    first_claim_ms: int = 0


NotClaimed = Lost | NothingToDo | TooEarly | Unburied


class Queue:
    """The queues that this worker serves."""

    def __init__(self, writer: Sender, keys: Keys, holdings: Holdings, settings: Settings) -> None:
        self._writer = writer
        self._keys = keys
        self._holdings = holdings
        self._queues = settings.queues
        self._worker = settings.name
        self._lease_ms = int(settings.lease * 1000)
        self._retention = str(int(settings.retention * 1000))  # in ms, as text
        self._max_dead = settings.max_dead
        self._settlings = Settlings(writer, keys, holdings)
        # A claim's own name: a system call for each would cost more than all else about it.
        self._tokens_of_this_life = f"{secrets.token_hex(8)}-"
        self._tokens = itertools.count()

    # -- jobs ----------------------------------------------------------------------------------------------

    async def claim(self, entry: Entry, claim: Claim) -> Claimed | NotClaimed:
        """Become the owner of the entry's job; or return why there is nothing to run, and what follows."""
        token = f"{self._tokens_of_this_life}{next(self._tokens)}"
        call = self._claim_call(entry, claim, token)
        reply = await self._writer.submit(call, remember=False)
        match reply:
            case [b"claimed", attempt, number, mark, errors, had_attempts, first_claim_ms]:
                attempt, number = int(attempt), int(number)
                restored = scripts.RESTORE.unsaid(call.keys[:2], *call.args, attempt, number)
                self._writer.remember(restored)
                return Claimed(
                    Attempt(claim.job_id, attempt, number),
                    mark.decode(errors="replace") if mark else None,
                    unpack_errors(errors) if errors else (),
                    is_first=not had_attempts,
                    first_claim_ms=first_claim_ms,
                )
            case [b"elsewhere", other, queue] if other and not await self._stands(queue, other):
                return await self.claim(entry, claim._replace(gone=other.decode()))
            case [b"ended", letter]:
                return Unburied(letter) if letter else NothingToDo()
            case [b"early", due]:
                return TooEarly(int(due))
            case [b"lost"]:
                return Lost()
        return NothingToDo()

    def _claim_call(self, entry: Entry, claim: Claim, token: str) -> Call:
        keys, job_id = self._keys, claim.job_id
        names = [keys.log(job_id), keys.record(job_id), keys.cancel(job_id)]
        what = (entry.id, entry.deliveries, claim.turn, self._worker, _UNFINISHED, entry.queue)
        queued = encode_queued(entry.queue)
        asked = (claim.provider, claim.model, token, self._retention)
        after = "" if claim.after is None else claim.after
        return scripts.CLAIM.on(names, *what, queued, claim.created_at, *asked, after, claim.gone)

    async def _stands(self, queue: bytes, entry_id: bytes) -> bool:
        """Whether the entry is in the queue; a server that lost its last second may know of one that is not.

        That may be another queue than this worker's: one id can be enqueued to two.
        """
        call = scripts.STANDS.on([self._keys.jobs(queue.decode())], entry_id)
        return bool(await self._writer.submit(call, remember=False))

    async def choose(self, attempt: Attempt, provider: str, model: str) -> None:
        """Note which provider the attempt asks, where it is not the one that its claim named."""
        record = [self._keys.record(attempt.job_id)]
        await self._writer.submit(scripts.CHOOSE.on(record, attempt.id, provider, model))

    # -- entries -------------------------------------------------------------------------------------------

    def settle(self, entry: Entry) -> "asyncio.Future[None]":
        """Acknowledge and delete: nothing is left to do for this entry.

        Nobody has to wait for it: until Redis has done it, the entry is held, and its lease is renewed.
        """
        return self._settlings.add(entry)

    async def release(self, entry: Entry) -> None:
        """Hand the entry back for any worker to reclaim at once."""
        names = [self._keys.jobs(entry.queue), self._keys.control(entry.queue)]
        what = (NOBODY, RELEASED_HINT, entry.id, _RELEASED_IDLE_MS)
        await self._part_with(entry, scripts.RELEASE.on(names, *self._who, *what))

    async def defer(self, entry: Entry, due_ms: int) -> None:
        """Put the entry's job off until ``due_ms``, by Redis' clock."""
        queue = entry.queue
        names = [self._keys.jobs(queue), self._keys.later(queue), self._keys.control(queue)]
        body = Job.next_turn(entry.body)
        await self._part_with(entry, scripts.DEFER.on(names, *self._who, entry.id, due_ms, body, LATER_HINT))

    async def bury(self, entry: Entry, letter: DeadLetter) -> None:
        """Move the entry to the dead ones. The oldest of these fall over the bound; that is counted, and logged."""
        queue = entry.queue
        names = [self._keys.jobs(queue), self._keys.dead(queue), self._keys.counts(queue)]
        whole = replace(letter, entry=entry.id, worker=self._worker)
        fields = [part for field in whole.fields().items() for part in field]
        call = scripts.BURY.on(names, *self._who, entry.id, self._max_dead, *fields)
        dropped = await self._part_with(entry, call)
        if dropped > 0:
            logger.warning(
                "dead letters fell over the bound", queue=queue, dropped=dropped, bound=self._max_dead
            )

    def forget(self, entry: Entry) -> None:
        """Leave the entry to whoever owns it or its job now."""
        self._holdings.drop(entry)

    async def _part_with(self, entry: Entry, call: Call) -> int:
        # A server that forgot it is not told again: whoever reclaims the entry learns from the job's record what is
        # left to do. Where the end before this could not be written again, because of a cancel, say, all of it is.
        result: int = await self._writer.submit(call, remember=False)
        self.forget(entry)
        return result

    @property
    def _who(self) -> tuple[str, str]:
        return GROUP, self._holdings.consumer

    # -- upkeep --------------------------------------------------------------------------------------------

    async def renew(self) -> list[Entry]:
        """Renew the leases of all that is held; return what is no longer this worker's, without the bodies."""
        calls: list[tuple[str, Any]] = []
        for queue in self._queues:
            ids = self._holdings.of(queue)
            for start in range(0, len(ids) or 1, _RENEWED_AT_ONCE):
                some = ids[start : start + _RENEWED_AT_ONCE]
                call = scripts.RENEW.on([self._keys.jobs(queue)], *self._who, *some)
                calls.append((queue, self._writer.submit(call, remember=False)))
        lost = [Entry(queue, entry_id.decode(), b"") for queue, future in calls for entry_id in await future]
        return [entry for entry in lost if entry in self._holdings]

    async def reclaim(
        self, queue: str, cursor: str, count: int, *, released_only: bool = False
    ) -> tuple[str, list[Entry]]:
        """Take over up to ``count`` entries whose lease is over, looking on from ``cursor``; return the next one.

        The cursor begins and ends with ``0-0``. ``released_only``: what dead workers hold stays.

        Raises:
            redis.exceptions.RedisError: the reply was lost. What it held is reclaimed by somebody when a lease is over.
        """
        idle_ms = _RELEASED_IDLE_MS if released_only else self._lease_ms
        call = scripts.RECLAIM.on([self._keys.jobs(queue)], *self._who, idle_ms, cursor, count)
        next_cursor, found = await self._writer.submit(call, remember=False, repeat=False)
        entries = [
            Entry(
                queue,
                entry_id.decode(),
                body_of(fields),
                deliveries,
            )
            for entry_id, deliveries, fields in found
        ]
        # What this worker holds itself, and could not renew in time, is renewed by this.
        new = self._holdings.without_held(entries)
        self._holdings.add(new)
        return next_cursor.decode(), new

    async def has_overdue(self, queue: str) -> bool:
        """Whether there are entries whose lease is over."""
        call = scripts.OVERDUE.on([self._keys.jobs(queue)], GROUP, self._lease_ms)
        return bool(await self._writer.submit(call, remember=False, repeat=False))

    async def promote(self, queue: str) -> float | None:
        """Move what is due to the queue; return in how many seconds more is, None if nothing waits."""
        names = [self._keys.later(queue), self._keys.jobs(queue)]
        wait_ms = await self._writer.submit(scripts.PROMOTE.on(names, *_PROMOTED_AT_ONCE), remember=False)
        return None if wait_ms < 0 else wait_ms / 1000

    async def tidy(self, queue: str, silent_seconds: float) -> list[str]:
        """Remove the consumers that hold nothing and were silent for so long; return their names.

        One that is alive after all comes back with its next read.
        """
        call = scripts.TIDY.on([self._keys.jobs(queue)], GROUP, int(silent_seconds * 1000))
        return [name.decode() for name in await self._writer.submit(call, remember=False)]

    async def leave(self) -> None:
        """Take this worker's consumer out of the groups, where it holds nothing."""
        calls = [scripts.LEAVE.on([self._keys.jobs(queue)], *self._who) for queue in self._queues]
        await asyncio.gather(*(self._writer.submit(call) for call in calls), return_exceptions=True)
