"""The Producer: enqueue, subscribe, stream, result, status, cancel, queues, dead letters."""

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Self, Unpack

from producer.answer import Answer, Result, TextStream
from producer.cancellation import Cancellation, cancel_job, follow_to_end
from producer.connection import Url
from producer.connection.embedded import EmbeddedServer, NoEmbeddedServer, start_or_join
from producer.dead import DeadFilter, DeadJob, DeadJobs, dead_jobs, drop_dead, find_dead
from producer.errors import InvalidCursor, InvalidSetting, JobNotFound, ResultTimeout, Unavailable
from producer.intake import JobFields, Messages, new_job
from producer.link import Link
from producer.listener import Listener
from producer.revival import Retry, retry_dead
from producer.status import QueueInfo, Status, read_queues, read_record, status_of
from producer.submission import submit
from producer.subscription import Subscription
from producer.wire.codec import WireError
from producer.wire.events import QUEUED_ID, EventId
from producer.wire.job import Job
from producer.wire.keys import Keys, is_name


class Producer:
    """A client: use it as ``async with Producer(url) as producer``. One serves a whole event loop.

    In another loop than the one in which it was used first it raises RuntimeError: its connections are of no use there.
    `producer.blocking` serves a whole process.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``. Default: ``CHAT_REDIS_URL``, else an embedded server.
        prefix: the first part of every key; must be the workers' own.
        timeout: seconds that Redis may take, reconnecting included, before a call raises `Unavailable`.
        max_queue_length: with this many jobs in a queue, waiting, running or not due yet, ``enqueue`` raises
            `QueueFull`.
        idle_check: seconds without an event after which a subscription looks at the log by itself.
        patience: seconds for which a subscription that has begun bears that Redis is away.

    Raises:
        InvalidSetting: the URL or the prefix cannot be used.
        Unavailable: no URL is given, and no embedded server can be started.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        prefix: str = "chat",
        timeout: float = 5.0,
        max_queue_length: int | None = None,
        idle_check: float = 5.0,
        patience: float = 120.0,
    ) -> None:
        self._embedded: EmbeddedServer | None = None
        try:
            self._keys = Keys(prefix)
            self._url = Url(url or os.environ.get("CHAT_REDIS_URL") or self._start_embedded())
        except ValueError as error:
            raise InvalidSetting(str(error)) from error
        self._max_queue_length = max_queue_length or 0
        self._idle_check = idle_check
        self._patience = patience
        self._link = Link(self._url, timeout)
        self._listener = Listener(self._url, timeout)
        self._link.when_moved = self._listener.move

    def _start_embedded(self) -> str:
        try:
            self._embedded = start_or_join()
        except NoEmbeddedServer as error:
            raise Unavailable(str(error)) from error
        return self._embedded.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections. Subscriptions that are still read raise `Unavailable`."""
        try:
            await self._link.aclose()
        finally:
            try:
                await self._listener.aclose()
            finally:
                if self._embedded is not None:
                    await asyncio.to_thread(self._embedded.stop)

    # -- writing -------------------------------------------------------------------------------------------

    async def enqueue(self, messages: Messages, **fields: Unpack[JobFields]) -> Job:
        """Put a job on its queue and return it. The same ``id`` enqueued twice is one job: the first one.

        With ``delay`` or ``at`` no worker takes it before then, by the clock of Redis.

        Raises:
            InvalidJob: a field is wrong; nothing was written.
            QueueFull: the queue is at its bound; nothing was written.
            Unavailable: Redis cannot be reached. With an ``id`` of your own, calling again is safe.
        """
        new = new_job(messages, fields)
        await submit(self._link, self._keys, new, bound=self._max_queue_length)
        return new.job

    async def cancel(
        self, job_id: str, *, reason: str = "requested", wait: float | None = None
    ) -> Cancellation:
        """Cancel a job, from any process: a waiting one never starts, a running one closes its upstream.

        ``reason`` is told to its readers, cut to 500 characters. ``wait``: seconds for which to wait until a running
        one has ended; the answer is then definite, `CANCELLED` or `FINISHED`.

        Raises:
            JobNotFound: no such job, or its retention is over.
            ResultTimeout: it has not ended within ``wait`` seconds; the cancel stands.
            Unavailable: Redis cannot be reached.
        """
        outcome, running = await cancel_job(self._link, self._keys, _known(job_id), reason)
        if outcome is not Cancellation.REQUESTED or wait is None:
            return outcome
        # Behind all that earlier attempts wrote, which may be much.
        return await follow_to_end(self.subscribe(job_id, str(EventId(max(0, running - 1), 0))), wait)

    # -- reading -------------------------------------------------------------------------------------------

    def subscribe(self, job_id: str, after: str | None = None) -> Subscription:
        """Return the job's events, from the first one, or from the one that follows the cursor ``after``.

        Raises:
            InvalidCursor: ``after`` is not an event's id. For what iterating raises see `Subscription`.
            JobNotFound: no job can have such an id.
        """
        try:
            seen = None if after is None else EventId.parse(after)
        except WireError as error:
            raise InvalidCursor(str(error)) from error
        return Subscription(
            _known(job_id),
            keys=self._keys,
            link=self._link,
            listener=self._listener,
            after=seen,
            idle_check=self._idle_check,
            patience=self._patience,
        )

    def stream(
        self,
        messages: Messages,
        *,
        on_restart: Callable[[int], object] | None = None,
        **fields: Unpack[JobFields],
    ) -> TextStream:
        """Enqueue a job and return its text as it arrives: ``async for text in producer.stream("hello")``.

        ``on_restart`` is called with the number of characters that stand when handed-out text was superseded.

        Raises:
            InvalidJob: a field is wrong. For what iterating raises see `TextStream`.
        """
        new = new_job(messages, fields)

        async def begin() -> Subscription:
            nonlocal new
            this, new = new, replace(new, own_id=True)  # a first step that is cancelled may be taken again
            await submit(self._link, self._keys, this, bound=self._max_queue_length)
            return self.subscribe(this.job.id)

        return TextStream(begin, on_restart, new.job)

    def text(
        self, job_id: str, after: str | None = None, *, on_restart: Callable[[int], object] | None = None
    ) -> TextStream:
        """Return the text of a job that is there already, as it arrives, or from the cursor ``after`` on.

        Raises:
            InvalidCursor, JobNotFound: as for `subscribe`. For what iterating raises see `TextStream`.
        """
        subscription = self.subscribe(job_id, after)

        async def begin() -> Subscription:
            return subscription

        return TextStream(begin, on_restart, goes_on=after is not None and EventId.parse(after) > QUEUED_ID)

    async def result(self, job_id: str, timeout: float | None = None) -> Result:
        """Wait for the job's end and return the whole answer.

        Raises:
            JobFailed, JobCancelled: it ended without a whole answer.
            ResultTimeout: it did not end within ``timeout`` seconds; it goes on.
            JobNotFound, Unavailable: as for `Subscription`.
        """
        answer = Answer()
        try:
            async with asyncio.timeout(timeout):
                subscription = self.subscribe(job_id)
                while events := await subscription.read():
                    answer.add(events)
        except TimeoutError as error:
            raise ResultTimeout(f"job {job_id!r} has not ended within {timeout:g} s; it goes on") from error
        record, _ = await read_record(self._link, self._keys, job_id)
        return answer.result(job_id, status_of(job_id, record))

    async def status(self, job_id: str) -> Status:
        """Return what is known of the job at this moment.

        Raises:
            JobNotFound: no such job, or its retention is over.
            Unavailable: Redis cannot be reached.
        """
        record, _ = await read_record(self._link, self._keys, _known(job_id))
        if not record:
            raise JobNotFound(job_id)
        return status_of(job_id, record)

    async def queues(self) -> list[QueueInfo]:
        """Return every queue under this prefix, by name.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        return await read_queues(self._link, self._keys)

    # -- dead letters --------------------------------------------------------------------------------------

    async def dead(
        self, queue: str | None = None, *, limit: int | None = 1000, **wanted: Unpack[DeadFilter]
    ) -> list[DeadJob]:
        """Return the oldest dead letters, of a queue or of all, the oldest first; at most ``limit``, None for all.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        return await dead_jobs(self._link, self._keys, queue, limit, wanted)

    def each_dead(self, queue: str | None = None, **wanted: Unpack[DeadFilter]) -> DeadJobs:
        """Return every dead letter, queue by queue, to iterate over: as many as there are, in little memory.

        For what iterating raises see `DeadJobs`.
        """
        return DeadJobs(self._link, self._keys, queue, wanted)

    async def find_dead(self, *ids: str, queue: str | None = None) -> list[DeadJob]:
        """Return the dead letters of these ids, each a letter's own or its job's; an id may have several, or none.

        Raises:
            Unavailable: Redis cannot be reached.
        """
        return await find_dead(self._link, self._keys, queue, ids)

    async def retry_dead(self, dead: DeadJob) -> Retry:
        """Give the job of a dead letter a new life under the same id, with all its attempts; the letter goes.

        A deadline that has passed is dropped. The bound of the queue does not hold here.

        Raises:
            Unavailable: Redis cannot be reached. Calling again is safe.
        """
        return await retry_dead(self._link, self._keys, dead)

    async def drop_dead(self, dead: DeadJob) -> bool:
        """Delete a dead letter, and with it the job's bytes; false if it is there no more.

        Raises:
            Unavailable: Redis cannot be reached. Calling again is safe.
        """
        return await drop_dead(self._link, self._keys, dead)


def _known(job_id: str) -> str:
    """Return the id, if a job can have it: it becomes part of a key, and may come from anywhere."""
    if not is_name(job_id):
        raise JobNotFound(job_id[:128])
    return job_id
