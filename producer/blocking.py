"""The Producer for services without asyncio: the same verbs, and each one waits.

>>> with Producer("redis://localhost") as producer:  # doctest: +SKIP
...     for text in producer.stream("Why is the sky blue?", model="gpt-4o-mini"):
...         print(text, end="")
"""

from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Self, TypeVar, Unpack

from producer.answer import Result
from producer.blocking_readers import DeadJobs, Session, Subscription, TextStream
from producer.cancellation import Cancellation
from producer.client import Producer as AsyncProducer
from producer.dead import DeadFilter, DeadJob
from producer.intake import JobFields, Messages
from producer.revival import Retry
from producer.status import QueueInfo, Status
from producer.wire.job import Job

__all__ = ["DeadJobs", "Producer", "Subscription", "TextStream"]

T = TypeVar("T")


class Producer:
    """A client: use it as ``with Producer(url) as producer``. One serves a whole process and all its threads.

    It may also be made once and never closed: it ends with the interpreter, or when nobody holds it any more.
    A process that is forked off begins with connections of its own. What waits can be interrupted (Ctrl-C).

    Args and Raises: as for `producer.Producer`, whose twin this is; so are the errors of every verb.
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
        self._new_client = partial(
            AsyncProducer,
            url,
            prefix=prefix,
            timeout=timeout,
            max_queue_length=max_queue_length,
            idle_check=idle_check,
            patience=patience,
        )
        self._session = Session(self._new_client())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections. Whoever still waits, in whatever thread, is told `Unavailable`."""
        self._session.thread.close()

    # -- writing -------------------------------------------------------------------------------------------

    def enqueue(self, messages: Messages, **fields: Unpack[JobFields]) -> Job:
        """Put a job on its queue and return it. The same ``id`` enqueued twice is one job: the first one."""
        return self._wait(lambda client: client.enqueue(messages, **fields))

    def cancel(self, job_id: str, *, reason: str = "requested", wait: float | None = None) -> Cancellation:
        """Cancel a job, from any process: a waiting one never starts, a running one closes its upstream.

        ``wait``: seconds for which to wait until a running one has ended; without it, `REQUESTED` is answered.
        """
        return self._wait(lambda client: client.cancel(job_id, reason=reason, wait=wait))

    # -- reading -------------------------------------------------------------------------------------------

    def subscribe(self, job_id: str, after: str | None = None) -> Subscription:
        """Return the job's events, from the first one, or from the one that follows the cursor ``after``."""
        session = self._here()
        return Subscription(session, session.client.subscribe(job_id, after))

    def stream(
        self,
        messages: Messages,
        *,
        on_restart: Callable[[int], object] | None = None,
        **fields: Unpack[JobFields],
    ) -> TextStream:
        """Enqueue a job and return its text as it arrives: ``for text in producer.stream("hello")``.

        ``on_restart`` is called, in the thread that iterates, with the number of characters that stand when
        handed-out text was superseded. The job is enqueued with the first step.
        """
        session = self._here()
        return TextStream(session, session.client.stream(messages, **fields), on_restart)

    def text(
        self, job_id: str, after: str | None = None, *, on_restart: Callable[[int], object] | None = None
    ) -> TextStream:
        """Return the text of a job that is there already, as it arrives, or from the cursor ``after`` on."""
        session = self._here()
        return TextStream(session, session.client.text(job_id, after), on_restart)

    def result(self, job_id: str, timeout: float | None = None) -> Result:
        """Wait for the job's end, for ``timeout`` seconds at most, and return the whole answer."""
        return self._wait(lambda client: client.result(job_id, timeout))

    def status(self, job_id: str) -> Status:
        """Return what is known of the job at this moment."""
        return self._wait(lambda client: client.status(job_id))

    def queues(self) -> list[QueueInfo]:
        """Return every queue under this prefix, by name."""
        return self._wait(lambda client: client.queues())

    # -- dead letters --------------------------------------------------------------------------------------

    def dead(
        self, queue: str | None = None, *, limit: int | None = 1000, **wanted: Unpack[DeadFilter]
    ) -> list[DeadJob]:
        """Return the oldest dead letters, of a queue or of all, the oldest first; at most ``limit``, None for all."""
        return self._wait(lambda client: client.dead(queue, limit=limit, **wanted))

    def each_dead(self, queue: str | None = None, **wanted: Unpack[DeadFilter]) -> DeadJobs:
        """Return every dead letter, queue by queue, to iterate over: as many as there are, in little memory."""
        session = self._here()
        return DeadJobs(session, session.client.each_dead(queue, **wanted))

    def find_dead(self, *ids: str, queue: str | None = None) -> list[DeadJob]:
        """Return the dead letters of these ids, each a letter's own or its job's; an id may have several, or none."""
        return self._wait(lambda client: client.find_dead(*ids, queue=queue))

    def retry_dead(self, dead: DeadJob) -> Retry:
        """Give the job of a dead letter a new life under the same id, with all its attempts; the letter goes."""
        return self._wait(lambda client: client.retry_dead(dead))

    def drop_dead(self, dead: DeadJob) -> bool:
        """Delete a dead letter, and with it the job's bytes; false if it is there no more."""
        return self._wait(lambda client: client.drop_dead(dead))

    # -- where it happens ----------------------------------------------------------------------------------

    def _wait(self, verb: Callable[[AsyncProducer], Coroutine[Any, Any, T]]) -> T:
        session = self._here()
        return session.thread.wait(lambda: verb(session.client))

    def _here(self) -> Session:
        session = self._session
        if session.thread.lost and not session.thread.closed:
            # Two threads that come here at once make one each. Both work; the one not kept ends by itself.
            session = self._session = Session(self._new_client())
        return session
