"""What waits for the writer: a call, or something that makes one when its turn comes."""

import asyncio
from typing import Any, Protocol

from redis.exceptions import RedisError

from producer.connection import Call


class Pending:
    """Something to be said to Redis.

    ``call``: once it was made, until its result has been told. ``is_suspect``: the connection broke when it went
    alone, to a server that was there.
    """

    __slots__ = ("call", "is_suspect")

    remembered: bool = True
    """Whether a server that forgot it is told again."""
    repeated: bool = True
    """Whether it is said again when its reply did not come."""

    def __init__(self, call: Call | None = None) -> None:
        self.call = call
        self.is_suspect = False

    def prepare(self) -> Call | None:
        """Return the call: made now if it was not yet, then the same one again; None if there is none any more."""
        return self.call

    def tell(self, result: Any) -> None:
        """Take the call's result, or the `RedisError` that it ended with."""
        raise NotImplementedError


class Asked(Pending):
    """A call whose result somebody awaits."""

    __slots__ = ("future", "remembered", "repeated")

    def __init__(
        self, call: Call | None, loop: asyncio.AbstractEventLoop, *, remembered: bool, repeated: bool
    ) -> None:
        self.call = call
        self.is_suspect = False
        self.future: asyncio.Future[Any] = loop.create_future()
        self.remembered = remembered
        self.repeated = repeated

    def tell(self, result: Any) -> None:
        """Wake whoever awaits it, and is still there."""
        if self.future.done():
            return
        if isinstance(result, RedisError):
            self.future.set_exception(result)
        else:
            self.future.set_result(result)


class Sender(Protocol):
    """A `worker.writer.Writer`, for those who have something to say to Redis."""

    loop: asyncio.AbstractEventLoop

    def add(self, pending: Pending) -> None:
        """Send it with the next pipeline, and tell it the result."""

    def submit(self, call: Call, *, remember: bool = True, repeat: bool = True) -> "asyncio.Future[Any]":
        """Send ``call`` with the next pipeline; the future becomes its result."""

    def remember(self, call: Call) -> None:
        """Say ``call`` to a server that forgot what it acknowledged just now."""
