"""The queues as verbs: take, claim, settle, release, bury."""

import asyncio
import secrets
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from producer.connection import Call, bounded
from producer.wire.events import QUEUED_ID, Queued, encode
from producer.wire.keys import GROUP, JOB_FIELD, Keys
from producer.wire.lifetimes import UNFINISHED_MS
from worker import scripts
from worker.event_log import Attempt
from worker.settings import Settings
from worker.writer import Writer

logger = structlog.get_logger("chatrelay.queue")

_MANY = 1000
MAX_DEAD = 10_000
"""About how many buried entries a queue keeps."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A job's place in a queue's stream, handed to this worker."""

    queue: str
    id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Claimed:
    """This worker owns the job. ``cancel_reason``: somebody cancelled it, so it is not to start."""

    attempt: Attempt
    cancel_reason: str | None


class Queue:
    """The queues that this worker serves.

    ``reader`` is a connection of its own, because a blocking read keeps it busy. A read ends by itself after
    ``settings.poll``; it is never cancelled, because Redis may have handed an entry over already.
    """

    def __init__(self, reader: Redis, writer: Writer, keys: Keys, settings: Settings) -> None:
        self._reader = reader
        self._writer = writer
        self._keys = keys
        self._streams = {keys.jobs(queue): queue for queue in settings.queues}
        self._worker = settings.name
        self._consumer = f"{settings.name}:{settings.consumer_suffix}"
        self._timeout = settings.timeout
        self._retention_ms = int(settings.retention * 1000)
        self._is_open = False
        self._in_doubt = False
        self._parked: deque[Entry] = deque()
        self._held: set[tuple[str, str]] = set()
        self._block_ms = max(1, int(settings.poll * 1000))

    async def open(self) -> None:
        """Make the groups where there are none; at 0, so that jobs older than their group are seen."""
        for stream in self._streams:
            try:
                async with bounded(self._timeout):
                    await self._reader.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
        self._is_open = True

    async def take(self, count: int) -> list[Entry]:
        """Return new entries as soon as there are any, at most ``count``; none if there are none for a while.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or refuses. Nothing is lost: calling again
                brings what was on its way when the connection broke.
        """
        if not self._is_open:
            await self.open()
        try:
            entries = await self._unheard(count) if self._in_doubt else await self._waiting(count)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            logger.warning("the group is gone, it will be made again", error=str(error))
            self._is_open = False
            return []
        except (RedisError, OSError):
            self._in_doubt = True
            raise
        self._held.update((entry.queue, entry.id) for entry in entries)
        self._parked.extend(entries[count:])
        return entries[:count]

    async def _waiting(self, count: int) -> list[Entry]:
        if self._parked:
            return [self._parked.popleft() for _ in range(min(count, len(self._parked)))]
        # A group that was made again hands over once more what is running here.
        return [entry for entry in await self._new(count) if (entry.queue, entry.id) not in self._held]

    async def _new(self, count: int) -> list[Entry]:
        if len(self._streams) == 1:
            return await self._read(list(self._streams), count, self._block_ms)
        entries: list[Entry] = []
        for stream in self._in_turn():
            try:
                entries += await self._read([stream], count - len(entries), None)
            except RedisError:
                if not entries:
                    raise
                self._in_doubt = True
                break  # what Redis has handed over already must not be dropped
            if len(entries) >= count:
                break
        # A blocking read of several streams may bring one entry of each: what has no slot yet is parked.
        return entries or await self._read(list(self._streams), 1, self._block_ms)

    def _in_turn(self) -> list[str]:
        """Return the streams, each time another one first, so that none keeps the others waiting."""
        first, *others = self._streams
        self._streams = {stream: self._streams[stream] for stream in (*others, first)}
        return list(self._streams)

    async def _unheard(self, count: int) -> list[Entry]:
        """Return what Redis handed to this consumer in a reply that never arrived."""
        entries: list[Entry] = []
        for stream, queue in self._streams.items():
            held = sum(of_queue == queue for of_queue, _ in self._held)
            # One more than is wanted: it tells whether there is more.
            handed_over = await self._read([stream], held + count + 1, None, after="0")
            entries += [entry for entry in handed_over if (entry.queue, entry.id) not in self._held]
        self._in_doubt = len(entries) > count
        return entries[:count]

    async def _read(
        self, streams: Sequence[str], count: int, block_ms: int | None, after: str = ">"
    ) -> list[Entry]:
        block = () if block_ms is None else ("BLOCK", block_ms)
        command = ("XREADGROUP", "GROUP", GROUP, self._consumer, "COUNT", count, *block, "STREAMS", *streams)
        async with bounded(self._timeout + (block_ms or 0) / 1000):
            reply = await self._reader.execute_command(*command, *(after for _ in streams))
        return [
            Entry(
                self._streams[stream.decode()], entry_id.decode(), (fields or {}).get(JOB_FIELD.encode(), b"")
            )
            for stream, entries in reply
            for entry_id, fields in entries
        ]

    async def claim(
        self, entry: Entry, job_id: str, *, created_at: int, provider: str = "", model: str = ""
    ) -> Claimed | None:
        """Become the job's owner, about to ask ``provider``, if there is one to ask.

        None if the job has ended, or if another entry of the same job runs it.
        """
        keys = self._keys
        names = [keys.log(job_id), keys.record(job_id), keys.cancel(job_id)]
        queued = encode(Queued(str(QUEUED_ID), entry.queue))
        who, token = (entry.id, self._worker), secrets.token_hex(4)
        what = (entry.queue, queued, created_at, provider, model)
        call = scripts.CLAIM.on(names, *who, UNFINISHED_MS, *what, token, self._retention_ms)
        match await self._writer.submit(call):
            case [b"claimed", attempt, number, mark]:
                cancel = mark.decode(errors="replace") if mark else None
                return Claimed(Attempt(job_id, int(attempt), int(number)), cancel)
        return None

    async def settle(self, entry: Entry) -> None:
        """Acknowledge and delete: nothing is left to do for this entry."""
        await self._part_with(entry, scripts.SETTLE.on([self._keys.jobs(entry.queue)], GROUP, entry.id))

    async def release(self, entry: Entry) -> None:
        """Hand the entry back for any worker to claim."""
        call = scripts.RELEASE.on([self._keys.jobs(entry.queue)], GROUP, entry.id, entry.body)
        await self._part_with(entry, call)

    async def bury(self, entry: Entry, reason: str) -> None:
        """Move the entry to the dead ones, with its bytes."""
        names = [self._keys.jobs(entry.queue), self._keys.dead(entry.queue)]
        call = scripts.BURY.on(names, GROUP, entry.id, MAX_DEAD, reason, entry.body, self._worker)
        await self._part_with(entry, call)

    def forget(self, entry: Entry) -> None:
        """Leave the entry to whoever owns its job now."""
        self._held.discard((entry.queue, entry.id))

    async def _part_with(self, entry: Entry, call: Call) -> None:
        await self._writer.submit(call)
        self.forget(entry)

    async def release_rest(self) -> None:
        """Hand back what was taken and never given out, and what was handed over in a reply that never arrived."""
        while self._parked:
            await self.release(self._parked.popleft())
        while self._in_doubt:
            for entry in await self._unheard(_MANY):
                await self.release(entry)

    async def leave(self) -> None:
        """Take this worker's consumer out of the groups, where it holds nothing."""
        calls = [scripts.LEAVE.on([stream], GROUP, self._consumer) for stream in self._streams]
        await asyncio.gather(*(self._writer.submit(call) for call in calls), return_exceptions=True)
