"""An answer as it arrives, part by part or all that is there at once.

A fast service sends hundreds of chunks in one read. Whoever takes them one by one pays for each with a turn through
every generator on the way, which costs as much as to make the part; so our providers make a list of parts of each
read, and `PartStream.read` hands it on as it is. To all others a `PartStream` is an asynchronous generator of parts.
"""

import functools
from collections.abc import AsyncGenerator, Callable
from types import TracebackType
from typing import ParamSpec

from worker.providers.base import Part

P = ParamSpec("P")


class PartStream(AsyncGenerator[Part, None]):
    """The parts of an answer, out of a generator of lists, of which none is empty.

    One that is dropped without ``aclose`` closes its call all the same: nobody else holds the generator, and the
    loop closes a generator that nobody holds.
    """

    __slots__ = ("_reads", "_ready")

    def __init__(self, reads: AsyncGenerator[list[Part]]) -> None:
        self._reads = reads
        self._ready: list[Part] = []  # those of the last read that were not taken yet, the next one last

    async def read(self) -> list[Part]:
        """Return all parts that are ready, in their order: at least one, and none at the end.

        Raises:
            ProviderError: the answer failed; what came before was returned before.
        """
        if self._ready:
            return self._take()
        return await anext(self._reads, [])

    async def __anext__(self) -> Part:
        if not self._ready:
            self._ready = await anext(self._reads)
            self._ready.reverse()
        return self._ready.pop()

    async def asend(self, value: None) -> Part:
        """Return the next part; there is nothing to send to an answer."""
        return await anext(self)

    async def athrow(
        self,
        typ: type[BaseException] | BaseException,
        val: BaseException | object = None,
        tb: TracebackType | None = None,
    ) -> Part:
        """Raise the exception where the answer is read, which ends it."""
        self._ready = []
        error = typ if isinstance(typ, BaseException) else val if isinstance(val, BaseException) else typ()
        self._ready = await self._reads.athrow(error.with_traceback(tb or error.__traceback__))
        self._ready.reverse()
        return self._ready.pop()

    async def aclose(self) -> None:
        """Close the call; what was not taken yet is dropped."""
        self._ready = []
        await self._reads.aclose()

    def _take(self) -> list[Part]:
        ready, self._ready = self._ready, []
        ready.reverse()
        return ready


def part_stream(generate: Callable[P, AsyncGenerator[list[Part]]]) -> Callable[P, PartStream]:
    """Make a generator of lists of parts return a `PartStream`; its arguments stay as they are."""

    @functools.wraps(generate)
    def ask(*args: P.args, **kwargs: P.kwargs) -> PartStream:
        return PartStream(generate(*args, **kwargs))

    return ask
