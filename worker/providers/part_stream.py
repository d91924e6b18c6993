"""An answer as it arrives, part by part or all that is there at once.

A fast service sends hundreds of chunks in one read. Whoever takes them one by one pays for each with a turn through
every generator on the way, which costs as much as to make the part. So our providers yield the parts of each read as a
list, or the flow of a response that is still to come; and `PartStream.pour` hands it all on as it is. To all others a
`PartStream` is an asynchronous generator of parts.
"""

import asyncio
import functools
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, ParamSpec

from worker.providers.base import Part
from worker.providers.flow import Flow, Take

P = ParamSpec("P")

Step = list[Part] | Flow
"""What a provider yields: parts, at least one, or all that will come out of a flow."""


class PartStream(AsyncGenerator[Part, None]):
    """The parts of an answer, out of a generator of steps.

    What is raised while a flow runs, be it a cancel, is raised in the generator where it yielded the flow. A stream
    that is dropped half-way, without ``aclose``, closes its call all the same: nobody else holds the generator, and
    the loop closes a generator that nobody holds.
    """

    __slots__ = ("_flow", "_steps", "_waiting")

    def __init__(self, steps: AsyncGenerator[Step]) -> None:
        self._steps = steps
        self._flow: Flow | None = None
        self._waiting: list[Part] = []  # what was ready and nobody took yet, the next one last

    async def pour(self, take: Take) -> bool:
        """Hand over all parts as they become ready, in order; return whether that was all.

        It returns false when ``take`` did, and goes on when it is called again. ``take`` is not to raise anything.

        Raises:
            ProviderError: the answer failed; all that came before it has been handed over by then.
        """
        waiting, self._waiting = self._waiting[::-1], []
        if waiting and not take(waiting):
            return False
        while True:
            try:
                if self._flow is not None and not await self._flow.pour(take):
                    return False
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the generator says what it is
                parts = await self._step(self._steps.athrow(error))
            else:
                parts = await self._step(anext(self._steps))
            if parts is None:
                return True
            if parts and not take(parts):
                return False

    async def __anext__(self) -> Part:
        while not self._waiting:
            parts = await self._read()
            if parts is None:
                raise StopAsyncIteration
            self._waiting = parts[::-1]
        return self._waiting.pop()

    async def asend(self, value: None) -> Part:
        """Return the next part: there is nothing that could be sent to an answer."""
        return await anext(self)

    async def athrow(self, *error: Any) -> Part:
        """Raise the error where the answer is read, which ends it; what nobody took yet is dropped."""
        self._waiting = []
        self._waiting = (await self._step(self._steps.athrow(*error)) or [])[::-1]
        return await anext(self)

    async def aclose(self) -> None:
        """Close the call; what nobody took yet is dropped."""
        self._waiting, self._flow = [], None
        await self._steps.aclose()

    async def _read(self) -> list[Part] | None:
        """Return parts that are ready, maybe none; None at the end."""
        if self._flow is not None:
            try:
                parts = await self._flow.read()
            except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - the generator says what it is
                return await self._step(self._steps.athrow(error))
            if parts is not None:
                return parts
        return await self._step(anext(self._steps))

    async def _step(self, going: Awaitable[Step]) -> list[Part] | None:
        """Go on in the generator; return the parts that it yields, none where it is a flow; None at its end."""
        self._flow = None
        try:
            step = await going
        except StopAsyncIteration:
            return None
        if isinstance(step, Flow):
            self._flow = step
            return []
        return step


def part_stream(generate: Callable[P, AsyncGenerator[Step]]) -> Callable[P, PartStream]:
    """Make a generator of steps return a `PartStream`; its arguments stay as they are."""

    @functools.wraps(generate)
    def ask(*args: P.args, **kwargs: P.kwargs) -> PartStream:
        return PartStream(generate(*args, **kwargs))

    return ask
