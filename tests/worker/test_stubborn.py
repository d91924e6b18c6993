"""Providers that are not as they should be: the limits hold all the same, and each part is taken once."""

import asyncio
import contextlib
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


class NeverClosed:
    """Says one thing, waits, and does not come back from being closed."""

    def __init__(self) -> None:
        self.is_told_to_close = False
        self._said = False

    def __aiter__(self) -> "NeverClosed":
        return self

    async def __anext__(self) -> str:
        if self._said:
            await asyncio.Event().wait()
        self._said = True
        return "a"

    async def aclose(self) -> None:
        self.is_told_to_close = True
        await asyncio.Event().wait()


@pytest.fixture
def _closing_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.relay._LONGEST_CLOSE", SHORT)


@pytest.mark.usefixtures("_closing_is_short")
async def test_a_provider_that_does_not_come_back_from_being_closed_is_left() -> None:
    run, stays = Relayed(), NeverClosed()
    with pytest.raises(TimedOut):
        await run.of(stays, limits(between_chunks=SHORT))  # type: ignore[arg-type]
    assert stays.is_told_to_close


@pytest.mark.usefixtures("_closing_is_short")
async def test_one_that_swallows_the_cancel_while_it_is_closed_is_cancelled_again() -> None:
    class Stubborn(NeverClosed):
        async def aclose(self) -> None:
            with contextlib.suppress(asyncio.CancelledError):
                await super().aclose()
            await super().aclose()

    run = Relayed()
    with pytest.raises(TimedOut):
        await run.of(Stubborn(), limits(between_chunks=SHORT))  # type: ignore[arg-type]


@pytest.mark.usefixtures("_closing_is_short")
async def test_what_ended_an_answer_is_told_and_not_that_closing_took_too_long() -> None:
    run, stays = Relayed(), NeverClosed()
    run.attempt.lose()
    with pytest.raises(LeaseLost):
        await run.of(stays, limits())  # type: ignore[arg-type]
    assert stays.is_told_to_close


async def test_an_answer_that_is_whole_stands_however_long_its_provider_takes_to_be_closed() -> None:
    class Slow(NeverClosed):
        async def __anext__(self) -> str:
            if self._said:
                raise StopAsyncIteration
            return await super().__anext__()

        async def aclose(self) -> None:
            self.is_told_to_close = True
            await asyncio.sleep(3 * SHORT)

    run, slow = Relayed(), Slow()
    answered = await run.of(slow, limits(between_chunks=SHORT))  # type: ignore[arg-type]
    assert (answered, slow.is_told_to_close) == (Answered("stop", 1), True)


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
