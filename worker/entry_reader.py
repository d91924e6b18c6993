"""Takes new entries off the queues, and loses none that Redis handed over in a reply which never came."""

from collections.abc import Sequence
from typing import Any

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from producer.connection import bounded
from producer.wire.keys import GROUP, JOB_FIELD, Keys
from worker.holdings import Entry, Holdings
from worker.settings import Settings
from worker.turns import Turns

logger = structlog.get_logger("chatrelay.queue")


class EntryReader:
    """Reads the streams of this worker's queues.

    ``redis`` has a connection of its own for this, because a blocking read keeps it busy. A read ends by itself
    after ``settings.poll``; it is never cancelled, because Redis may have handed an entry over already.
    """

    def __init__(self, redis: Redis, keys: Keys, holdings: Holdings, settings: Settings) -> None:
        self._redis = redis
        self._keys = keys
        self._holdings = holdings
        self._queues = {keys.jobs(queue): queue for queue in settings.queues}
        self._turns = Turns(settings.queues, settings.weights, strict=settings.strict)
        self._timeout = settings.timeout
        self._block_ms = max(1, int(settings.poll * 1000))
        self._is_open = False
        self._in_doubt = False

    async def open(self) -> None:
        """Make the groups where there are none; at 0, so that jobs older than their group are seen."""
        for stream in self._queues:
            try:
                async with bounded(self._timeout):
                    await self._redis.xgroup_create(stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
        self._is_open = True

    async def take(self, count: int) -> list[Entry]:
        """Return new entries as soon as there are any, about ``count``; none if there are none for a while.

        A read of several queues at once may bring one of each.

        Raises:
            redis.exceptions.RedisError: Redis cannot be reached, or refuses. Nothing is lost: calling again
                brings what was on its way when the connection broke.
        """
        if not self._is_open:
            await self.open()
        try:
            entries = await self._unheard(count) if self._in_doubt else await self._next(count)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            logger.warning("the group is gone, it will be made again", error=str(error))
            self._is_open = False
            return []
        except (RedisError, OSError):
            self._in_doubt = True
            raise
        self._holdings.add(entries)
        return entries

    async def rest(self) -> list[Entry]:
        """Return what Redis handed to this worker in replies that never arrived, so that it can be released."""
        return await self._unheard(None)

    async def _next(self, count: int) -> list[Entry]:
        # A group that was made again hands over once more what is running here.
        return [entry for entry in await self._new(count) if entry not in self._holdings]

    async def _new(self, count: int) -> list[Entry]:
        if len(self._queues) == 1:
            return await self._read(list(self._queues), count, self._block_ms)
        entries: list[Entry] = []
        for queue in self._turns.next():
            try:
                entries += await self._read([self._keys.jobs(queue)], count - len(entries), None)
            except RedisError:
                if not entries:
                    raise
                self._in_doubt = True
                break  # what Redis has handed over already must not be dropped
            if len(entries) >= count:
                break
        return entries or await self._read(list(self._queues), 1, self._block_ms)

    async def _read(self, streams: Sequence[str], count: int, block_ms: int | None) -> list[Entry]:
        block = () if block_ms is None else ("BLOCK", block_ms)
        who = ("GROUP", GROUP, self._holdings.consumer)
        command = ("XREADGROUP", *who, "COUNT", count, *block, "STREAMS", *streams)
        async with bounded(self._timeout + (block_ms or 0) / 1000):
            reply = await self._redis.execute_command(*command, *(">" for _ in streams))
        return [
            Entry(self._queues[stream.decode()], entry_id.decode(), body_of(fields))
            for stream, entries in reply
            for entry_id, fields in entries
        ]

    async def _unheard(self, count: int | None) -> list[Entry]:
        """Return what Redis handed to this consumer in a reply that never arrived; at most ``count``."""
        found: list[Entry] = []
        for stream, queue in self._queues.items():
            held = self._holdings.of(queue)
            async with bounded(self._timeout):
                pending: Any = await self._redis.xpending_range(
                    stream,
                    GROUP,
                    "-",
                    "+",
                    len(held) + (10_000 if count is None else count + 1),
                    consumername=self._holdings.consumer,
                )
            unheard = [one for one in pending if one["message_id"].decode() not in held]
            found += [await self._fetch(stream, one["message_id"], one["times_delivered"]) for one in unheard]
        self._in_doubt = count is not None and len(found) > count
        return found[:count]

    async def _fetch(self, stream: str, entry_id: bytes, deliveries: int) -> Entry:
        async with bounded(self._timeout):
            reply: Any = await self._redis.xrange(stream, entry_id, entry_id)
        body = body_of(reply[0][1]) if reply else b""
        return Entry(self._queues[stream], entry_id.decode(), body, deliveries)


def body_of(fields: dict[bytes, bytes] | None) -> bytes:
    """Return the job's bytes in an entry; empty, where something else added it."""
    return (fields or {}).get(JOB_FIELD.encode(), b"")
