"""Another worker, every step of which the test takes: it may die between any two, as a process does."""

from producer.connection import Line
from producer.wire.events import Chunk, Done, Event, Started
from producer.wire.job import Job
from producer.wire.keys import Keys
from worker.attempt import Attempt
from worker.entry_reader import EntryReader
from worker.event_log import End, EventLog
from worker.holdings import Entry, Holdings
from worker.outcome import TooEarly
from worker.queue import Claim, Claimed, NotClaimed, Queue
from worker.settings import Settings
from worker.writer import Writer


class Rival:
    """It has no loops: it renews nothing, and whatever it does not part with, somebody else has to reclaim.

    The leases of others are over for it after a millisecond.
    """

    def __init__(self, line: Line, writer: Writer, keys: Keys, settings: Settings) -> None:
        holdings = Holdings(f"{settings.name}:{settings.consumer_suffix}")
        self._reader = EntryReader(line, keys, holdings, settings)
        self._log = EventLog(writer, keys)
        self.queue = Queue(writer, keys, holdings, settings)

    async def take(self) -> Entry:
        """Take a new entry."""
        while True:
            if entries := await self._reader.take(1):
                return entries[0]

    async def reclaim(self, queue: str = "default") -> Entry:
        """Take over an entry that somebody holds."""
        while True:
            _, entries = await self.queue.reclaim(queue, "0-0", 1)
            if entries:
                return entries[0]

    async def claim(self, entry: Entry) -> Claimed | NotClaimed:
        """Claim the entry's job."""
        job = Job.decode(entry.body)
        return await self.queue.claim(entry, Claim(job.id, job.created_at, job.turn, "rival", "rival-model"))

    async def own(self, entry: Entry) -> Attempt:
        """Claim the entry's job, which must succeed."""
        claimed = await self.claim(entry)
        assert isinstance(claimed, Claimed), claimed
        return claimed.attempt

    async def own_when_due(self, entry: Entry) -> Attempt:
        """Claim the entry's job as soon as the instant has come that it waits for."""
        while True:
            if isinstance(claimed := await self.claim(entry), Claimed):
                return claimed.attempt
            assert isinstance(claimed, TooEarly), claimed

    async def answer(self, attempt: Attempt, *texts: str) -> None:
        """Begin an answer, and leave it there."""
        await self.write(attempt, Started(attempt.next_id(), attempt.number, "rival", "rival", "rival-model"))
        await self.write(attempt, *(Chunk(attempt.next_id(), text) for text in texts))

    async def write(self, attempt: Attempt, *events: Event) -> None:
        """Append events, and see that they are in the log."""
        for event in events:
            self._log.append(attempt, event)
        await self._log.flush(attempt)

    async def finish(self, attempt: Attempt, *texts: str) -> None:
        """Answer, to the end."""
        await self.answer(attempt, *texts)
        done = Done(attempt.next_id(), "stop", sum(map(len, texts)))
        await self._log.finish(attempt, End(done, "done", ttl_ms=60_000))

    def die(self, entry: Entry) -> None:
        """Know nothing more of the entry; Redis still has it under this consumer's name."""
        self.queue.forget(entry)
