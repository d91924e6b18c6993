"""The Producer for services without asyncio: the same verbs, and each one waits.

>>> with Producer("redis://localhost") as producer:  # doctest: +SKIP
...     for text in producer.stream("Why is the sky blue?", model="gpt-4o-mini"):
...         print(text, end="")
"""

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Generic, Self, TypeVar, Unpack

from producer.answer import Result
from producer.answer import TextStream as AsyncTextStream
from producer.cancellation import Cancellation
from producer.client import Producer as AsyncProducer
from producer.errors import AnswerRestarted, Unavailable
from producer.intake import JobFields, Messages
from producer.loop_thread import LoopThread
from producer.status import QueueInfo, Status
from producer.subscription import Subscription as AsyncSubscription
from producer.wire.events import Event
from producer.wire.job import Job

__all__ = ["Producer", "Subscription", "TextStream"]

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
        self._session = _Session(self._new_client())

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

    def cancel(self, job_id: str, *, reason: str = "requested") -> Cancellation:
        """Cancel a job, from any process: a waiting one never starts, a running one closes its upstream."""
        return self._wait(lambda client: client.cancel(job_id, reason=reason))

    # -- reading -------------------------------------------------------------------------------------------

    def subscribe(self, job_id: str, after: str | None = None) -> "Subscription":
        """Return the job's events, from the first one, or from the one that follows the cursor ``after``."""
        session = self._here()
        return Subscription(session, session.client.subscribe(job_id, after))

    def stream(
        self,
        messages: Messages,
        *,
        on_restart: Callable[[int], object] | None = None,
        **fields: Unpack[JobFields],
    ) -> "TextStream":
        """Enqueue a job and return its text as it arrives: ``for text in producer.stream("hello")``.

        ``on_restart`` is called, in the thread that iterates, with the number of characters that stand when
        handed-out text was superseded. The job is enqueued with the first step.
        """
        session = self._here()
        return TextStream(session, session.client.stream(messages, **fields), on_restart)

    def text(
        self, job_id: str, after: str | None = None, *, on_restart: Callable[[int], object] | None = None
    ) -> "TextStream":
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

    # -- where it happens ----------------------------------------------------------------------------------

    def _wait(self, verb: Callable[[AsyncProducer], Coroutine[Any, Any, T]]) -> T:
        session = self._here()
        return session.thread.wait(lambda: verb(session.client))

    def _here(self) -> "_Session":
        session = self._session
        if session.thread.lost and not session.thread.closed:
            # Two threads that come here at once make one each. Both work; the one not kept ends by itself.
            session = self._session = _Session(self._new_client())
        return session


class _Session:
    """A client and the thread that it lives in, held by the Producer and its readers; the last one ends it."""

    def __init__(self, client: AsyncProducer) -> None:
        self.client = client
        self.thread = LoopThread(client.aclose)
        weakref.finalize(self, self.thread.stop).atexit = False  # the thread sees to that itself


class _Reader(ABC, Generic[T]):
    """Fetches all that is ready in one visit to the thread, and hands it out one by one.

    What was fetched is put where the next step finds it, not returned: a caller who is interrupted may go on.
    """

    def __init__(self, session: _Session) -> None:
        self._session = session
        self._ready: deque[T] = deque()
        self._over = False
        self._turn = asyncio.Lock()
        self._fetching: asyncio.Task[Any] | None = None

    def __iter__(self) -> Self:
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Leave; the job goes on. A reader that is merely dropped leaves as well."""
        self._over = True
        self._ready.clear()
        with contextlib.suppress(Unavailable):  # nothing is held where nothing can be asked
            self._session.thread.wait(self._leave)

    def _take(self) -> T:
        while True:
            try:
                return self._ready.popleft()
            except IndexError:  # also where another thread was faster
                over = self._over
            if over:
                raise StopIteration
            try:
                self._session.thread.wait(self._fetch)
            except Unavailable:
                if not self._over:
                    raise

    # -- inside the thread ---------------------------------------------------------------------------------

    async def _fetch(self) -> None:
        async with self._turn:
            if self._ready or self._over:
                return
            self._fetching = asyncio.current_task()
            try:
                items = await self._read()
            finally:
                self._fetching = None
            if not self._over:
                self._ready.extend(items)
                self._over = not items

    async def _leave(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
        await self._leave_source()

    @abstractmethod
    async def _read(self) -> Sequence[T]: ...

    @abstractmethod
    async def _leave_source(self) -> None: ...


class Subscription(_Reader[Event]):
    """Every event of a job's log, once and in order, to the terminal one: ``for event in subscription``.

    Raises, while iterating: what `producer.Subscription` raises.
    """

    def __init__(self, session: _Session, subscription: AsyncSubscription) -> None:
        super().__init__(session)
        self._subscription = subscription
        self._cursor = subscription.cursor

    @property
    def job_id(self) -> str:
        """The job."""
        return self._subscription.job_id

    @property
    def cursor(self) -> str | None:
        """The id of the last event handed out, for ``subscribe(after=…)``; None before the first."""
        return self._cursor

    @property
    def end(self) -> Event | None:
        """The terminal event, once it was read, or found to be where the cursor stood already."""
        return self._subscription.end

    def __next__(self) -> Event:
        event = self._take()
        self._cursor = event.id
        return event

    async def _read(self) -> Sequence[Event]:
        return await self._subscription.read()

    async def _leave_source(self) -> None:
        await self._subscription.aclose()


class TextStream(_Reader[str | AnswerRestarted]):
    """The text of an answer as it arrives: ``for text in stream``.

    Raises, while iterating: what `producer.TextStream` raises.
    """

    def __init__(
        self, session: _Session, stream: AsyncTextStream, on_restart: Callable[[int], object] | None
    ) -> None:
        super().__init__(session)
        self._stream = stream
        self._on_restart = on_restart

    @property
    def job(self) -> Job | None:
        """The job that was enqueued for this stream; None where it reads another one's."""
        return self._stream.job

    @property
    def end(self) -> Event | None:
        """The terminal event, once it was read."""
        return self._stream.end

    def __next__(self) -> str:
        while isinstance(item := self._take(), AnswerRestarted):
            if self._on_restart is None:
                raise item
            self._on_restart(item.keeps)
        return item

    async def _read(self) -> Sequence[str | AnswerRestarted]:
        try:
            return await self._stream.read()
        except AnswerRestarted as restarted:  # said once, so it must not be lost with an interrupted step
            return (restarted,)

    async def _leave_source(self) -> None:
        await self._stream.aclose()
