"""Takes new entries off the queues, and loses none that Redis handed over in a reply which never came."""

from collections.abc import Sequence
from typing import Any

import structlog
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError

from producer.connection import Arg, Line, bounded
from producer.connection.refusals import is_demotion
from producer.wire.keys import GROUP, JOB_FIELD, Keys
from worker.holdings import Entry, Holdings
from worker.settings import Settings
from worker.turns import Turns

_JOB_FIELD = JOB_FIELD.encode()

logger = structlog.get_logger("chatrelay.queue")


class EntryReader:
    """Reads the streams of this worker's queues.

    ``line`` is its own, because a blocking read keeps it busy. A read ends by itself after ``settings.poll``; it is
    never cancelled, because Redis may have handed an entry over already.
    """

    def __init__(self, line: Line, keys: Keys, holdings: Holdings, settings: Settings) -> None:
        self._line = line
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
                await self._ask("XGROUP", "CREATE", stream, GROUP, "0", "MKSTREAM")
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
                self._line.close()  # fakeredis hangs up after an error, and would do so in the middle of a read
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
            entries = await self._unheard(count) if self._in_doubt else await self._new(count)
        except ResponseError as error:
            if not str(error).startswith("NOGROUP"):
                raise
            logger.warning("the group is gone, it will be made again", error=str(error))
            self._is_open = False
            return []
        except (RedisError, OSError):
            self._in_doubt = True
            raise
        # A group that was made again hands over once more what is running here; and what Redis is asked about after a
        # doubt may be reclaimed by this very worker meanwhile.
        new = self._holdings.without_held(entries)
        self._holdings.add(new)
        return new

    async def rest(self) -> list[Entry]:
        """Return what Redis handed to this worker in replies that never arrived, so that it can be released."""
        return await self._unheard(None)

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
        command = ("XREADGROUP", *who, "COUNT", count, *block, "STREAMS", *streams, *(">" for _ in streams))
        reply = await self._ask(*command, blocks_for=(block_ms or 0) / 1000)
        return [
            Entry(queue, entry_id.decode(), body_of(fields))
            for stream, entries in reply or ()
            for queue in (self._queues[stream.decode()],)
            for entry_id, fields in entries
        ]

    async def _unheard(self, count: int | None) -> list[Entry]:
        """Return what Redis handed to this consumer in a reply that never arrived; at most ``count``."""
        found: list[Entry] = []
        for stream, queue in self._queues.items():
            held = set(self._holdings.of(queue))
            most = len(held) + (10_000 if count is None else count + 1)
            pending = await self._ask("XPENDING", stream, GROUP, "-", "+", most, self._holdings.consumer)
            for entry_id, _, _, deliveries in pending:
                if entry_id.decode() not in held:
                    found.append(await self._fetch(stream, entry_id, deliveries))
        self._in_doubt = count is not None and len(found) > count
        return found[:count]

    async def _fetch(self, stream: str, entry_id: bytes, deliveries: int) -> Entry:
        reply = await self._ask("XRANGE", stream, entry_id, entry_id)
        body = body_of(reply[0][1]) if reply else b""
        return Entry(self._queues[stream], entry_id.decode(), body, deliveries)

    async def _ask(self, *command: Arg, blocks_for: float = 0.0) -> Any:
        try:
            async with bounded(self._timeout + blocks_for):
                if not self._line.is_open:
                    await self._line.open()
                return await self._line.ask(*command)
        except RedisError as error:
            if isinstance(error, RedisTimeoutError) or is_demotion(error):
                self._line.close()  # what is silent may stay so, and what was demoted does
            raise


def body_of(fields: Sequence[bytes] | None) -> bytes:
    """Return the job's bytes in an entry; empty, where something else added it."""
    if fields and len(fields) == 2 and fields[0] == _JOB_FIELD:  # as in all that a producer added
        return fields[1]
    fields = fields or ()
    return dict(zip(fields[::2], fields[1::2], strict=True)).get(_JOB_FIELD, b"")
