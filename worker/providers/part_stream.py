"""An answer as it arrives, part by part or all that is there at once.

A fast service sends hundreds of chunks in one read. Whoever takes them one by one pays for each with a turn through
every generator on the way, which costs as much as to make the part; so our providers make a list of parts of each
read, and `PartStream.reads` hands it on as it is. To all others a `PartStream` is an asynchronous generator of parts.
"""

import functools
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, ParamSpec

from worker.providers.base import Part

P = ParamSpec("P")


class PartStream(AsyncGenerator[Part, None]):
    """The parts of an answer, out of a generator of lists, of which none is empty.

    One that is dropped half-way, without ``aclose``, closes its call all the same: nobody else holds the generator,
    and the loop closes a generator that nobody holds.
    """

    __slots__ = ("_reads", "_waiting")

    def __init__(self, reads: AsyncGenerator[list[Part]]) -> None:
        self._reads = reads
        self._waiting: list[Part] = []  # what the last read brought and nobody took yet, the next one last

    def reads(self) -> AsyncIterator[list[Part]]:
        """Return what is left of the answer, read by read: all parts that are ready, in order, and at least one.

        Raises, while iterating:
            ProviderError: the answer failed; all that came before it has been returned by then.
        """
        return self._rest() if self._waiting else self._reads

    async def _rest(self) -> AsyncGenerator[list[Part]]:
        waiting, self._waiting = self._waiting[::-1], []
        yield waiting
        async for parts in self._reads:
            yield parts

    async def __anext__(self) -> Part:
        return self._waiting.pop() if self._waiting else self._first_of(await self._reads.__anext__())

    async def asend(self, value: None) -> Part:
        """Return the next part: there is nothing that could be sent to an answer."""
        return await anext(self)

    async def athrow(self, *error: Any) -> Part:
        """Raise the error where the answer is read, which ends it; what nobody took yet is dropped."""
        self._waiting = []
        return self._first_of(await self._reads.athrow(*error))

    async def aclose(self) -> None:
        """Close the call; what nobody took yet is dropped."""
        self._waiting = []
        await self._reads.aclose()

    def _first_of(self, parts: list[Part]) -> Part:
        self._waiting = parts[::-1]
        return self._waiting.pop()


def part_stream(generate: Callable[P, AsyncGenerator[list[Part]]]) -> Callable[P, PartStream]:
    """Make a generator of lists of parts return a `PartStream`; its arguments stay as they are."""

    @functools.wraps(generate)
    def ask(*args: P.args, **kwargs: P.kwargs) -> PartStream:
        return PartStream(generate(*args, **kwargs))

    return ask
