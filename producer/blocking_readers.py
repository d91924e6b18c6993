"""What the blocking Producer hands out to iterate over: events, text, dead letters, each fetched in its thread."""

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Generic, Self, TypeVar

from producer.answer import TextStream as AsyncTextStream
from producer.client import Producer as AsyncProducer
from producer.dead import DeadJob
from producer.dead import DeadJobs as AsyncDeadJobs
from producer.errors import AnswerRestarted, Unavailable
from producer.loop_thread import LoopThread
from producer.subscription import Subscription as AsyncSubscription
from producer.wire.events import Event
from producer.wire.job import Job

T = TypeVar("T")


class Session:
    """A client and the thread that it lives in, held by the Producer and its readers; the last one ends it."""

    def __init__(self, client: AsyncProducer) -> None:
        self.client = client
        self.thread = LoopThread(client.aclose)
        weakref.finalize(self, self.thread.stop).atexit = False  # the thread sees to that itself


class _Reader(ABC, Generic[T]):
    """Fetches all that is ready in one visit to the thread, and hands it out one by one.

    What was fetched is put where the next step finds it, not returned: a caller who is interrupted may go on.
    """

    def __init__(self, session: Session) -> None:
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

    def __init__(self, session: Session, subscription: AsyncSubscription) -> None:
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
        self, session: Session, stream: AsyncTextStream, on_restart: Callable[[int], object] | None
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


class DeadJobs(_Reader[DeadJob]):
    """Every dead letter that stands there now, queue by queue: ``for dead in dead_jobs``.

    Raises, while iterating: what `producer.DeadJobs` raises.
    """

    def __init__(self, session: Session, dead_jobs: AsyncDeadJobs) -> None:
        super().__init__(session)
        self._dead_jobs = dead_jobs

    def __next__(self) -> DeadJob:
        return self._take()

    async def _read(self) -> Sequence[DeadJob]:
        return await self._dead_jobs.read()

    async def _leave_source(self) -> None:
        """It holds nothing."""
