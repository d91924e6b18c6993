"""Providers that are not as they should be: the limits hold all the same, and each part is taken once."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from tests.worker.test_relay import Relayed, limits, texts
from worker.attempt import LeaseLost
from worker.outcome import Answered
from worker.providers.errors import TimedOut

SHORT = 0.05  # seconds


class Fresh:
    """Begins anew whenever it is asked for an iterator."""

    def __init__(self) -> None:
        self.closed = 0

    async def __aiter__(self) -> AsyncIterator[str]:
        try:
            for text in "abc":
                yield text
        finally:
            self.closed += 1


async def test_an_answer_whose_iterator_is_another_object_is_read_once() -> None:
    run, fresh = Relayed(), Fresh()
    assert await run.of(fresh) == Answered("stop", 3)  # type: ignore[arg-type]
    assert texts(await run.events()) == ["a", "b", "c"]
    assert fresh.closed == 1


async def test_an_iterator_that_is_another_object_is_closed_when_the_answer_is_given_up() -> None:
    run, fresh = Relayed(), Fresh()
    run.attempt.lose()
    with pytest.raises(LeaseLost):
        await run.of(fresh)  # type: ignore[arg-type]
    assert fresh.closed == 1


async def test_a_provider_that_swallows_the_cancel_and_goes_on_is_ended_by_its_next_part() -> None:
    async def goes_on() -> AsyncGenerator[str]:
        yield "a"
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            yield "never mind"
        raise AssertionError("it was asked for more")

    run = Relayed()
    with pytest.raises(TimedOut):
        await run.of(goes_on(), limits(between_chunks=SHORT))


async def test_a_provider_that_swallows_the_cancel_and_waits_on_is_cancelled_again() -> None:
    swallowed = 0

    async def waits_on() -> AsyncGenerator[str]:
        nonlocal swallowed
        yield "a"
        while swallowed < 3:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
        await asyncio.Event().wait()

    run = Relayed()
    with pytest.raises(TimedOut):
        await run.of(waits_on(), limits(between_chunks=SHORT))
    assert swallowed == 3
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
