"""Places: as many calls of a provider at the same time as it may have, in one worker and in all of them."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import Producer
from producer.connection import Call as ScriptCall
from producer.connection import Script
from producer.status import server_ms
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.facts import PATIENCE, until
from tests.support.gated import Gate, gated_registry
from worker import scripts
from worker.limits import Limits
from worker.providers.provider import Provider
from worker.providers.registry import Registry
from worker.writer import Writer

LEASE = 60.0  # seconds: nothing of these tests outlives it, unless it says so


class Anything:
    models = ()


PROVIDER = Provider("p", "p", Anything, "", True, ())


def local(limit: int) -> Provider:
    return replace(PROVIDER, concurrency=limit)


def fleet(limit: int) -> Provider:
    return replace(PROVIDER, fleet_concurrency=limit)


class Call:
    """A call of a provider, which has a place from `begun` on until it is told to `end`."""

    def __init__(self, limits: Limits, provider: Provider, holder: str) -> None:
        self.begun = asyncio.Event()
        self._ended = asyncio.Event()
        self.task = asyncio.create_task(self._run(limits, provider, holder))

    async def _run(self, limits: Limits, provider: Provider, holder: str) -> None:
        async with limits.place(provider, holder):
            self.begun.set()
            await self._ended.wait()

    async def end(self) -> None:
        self._ended.set()
        await self.task

    async def cancel(self) -> None:
        self.task.cancel()
        await asyncio.wait([self.task])


@pytest.fixture
def limits(writer: Writer, keys: Keys) -> Limits:
    return Limits(writer, keys, LEASE)


@pytest.fixture
def others(writer: Writer, keys: Keys) -> Limits:
    """Those of another worker."""
    return Limits(writer, keys, LEASE)


async def holders(redis: Redis, keys: Keys) -> set[str]:
    return {member.decode() for member in await redis.zrange(keys.slots("p"), 0, -1)}


async def test_without_a_limit_nothing_is_asked_of_redis(limits: Limits, redis: Redis, keys: Keys) -> None:
    calls = [Call(limits, PROVIDER, str(i)) for i in range(100)]
    for call in calls:
        await call.begun.wait()
    assert await redis.exists(keys.slots("p")) == 0
    for call in calls:
        await call.end()


async def test_a_worker_has_no_more_calls_than_its_own_limit(limits: Limits, others: Limits) -> None:
    first, second, third = [Call(limits, local(2), str(i)) for i in range(3)]
    elsewhere = Call(others, local(2), "elsewhere")
    for call in (first, second, elsewhere):
        await call.begun.wait()
    assert not third.begun.is_set()
    await second.end()
    await third.begun.wait()
    for call in (first, third, elsewhere):
        await call.end()


async def test_all_workers_together_have_no_more_calls_than_the_fleets_limit(
    limits: Limits, others: Limits, redis: Redis, keys: Keys
) -> None:
    provider = fleet(3)
    first = [Call(limits, provider, f"a{i}") for i in range(5)]
    second = [Call(others, provider, f"b{i}") for i in range(5)]
    left = [*first, *second]
    while left:
        await until(lambda: sum(call.begun.is_set() for call in left) == min(3, len(left)))
        assert len(await holders(redis, keys)) <= 3
        done = next(call for call in left if call.begun.is_set())
        await done.end()
        left.remove(done)
    await until(lambda: _nobody(redis, keys))


async def _nobody(redis: Redis, keys: Keys) -> bool:
    return await holders(redis, keys) == set()


async def test_providers_do_not_share_their_places(limits: Limits) -> None:
    first = Call(limits, fleet(1), "a")
    second = Call(limits, replace(fleet(1), name="q"), "b")
    for call in (first, second):
        await call.begun.wait()
        await call.end()


async def test_the_places_of_a_dead_worker_come_back_after_its_lease_and_not_before(
    writer: Writer, keys: Keys, limits: Limits, redis: Redis
) -> None:
    living = Call(limits, fleet(2), "living")
    await living.begun.wait()
    dead = Call(Limits(writer, keys, 0.6), fleet(2), "dead")
    await dead.begun.wait()
    until_ms = await redis.zscore(keys.slots("p"), "dead")
    assert until_ms is not None
    waiting = Call(limits, fleet(2), "waiting")
    await waiting.begun.wait()
    seconds, microseconds = await redis.time()
    late = seconds + microseconds / 1e6 - until_ms / 1000
    assert 0 <= late < 2
    assert await holders(redis, keys) == {"living", "waiting"}
    for call in (living, waiting):
        await call.end()
    await dead.cancel()


async def test_a_place_that_is_renewed_stays_for_many_leases(
    writer: Writer, keys: Keys, limits: Limits, redis: Redis
) -> None:
    lease = 2.0
    living = Limits(writer, keys, lease)
    held = Call(living, fleet(1), "held")
    await held.begun.wait()
    waiting = Call(limits, fleet(1), "waiting")
    began = await server_ms(redis)
    while await server_ms(redis) < began + 2500 * lease:
        await asyncio.sleep(
            0.01
        )  # more often than upkeep does: a machine may stand still for most of a lease
        living.renew()
    assert not waiting.begun.is_set()
    await held.end()
    await waiting.begun.wait()
    await waiting.end()
    assert living._held == {}


async def test_one_asks_for_all_that_wait_here_and_they_come_in_their_order(
    limits: Limits, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    submit = writer.submit

    def note(call: Any, **how: Any) -> Any:
        if call.script is scripts.ACQUIRE:
            asked.append(call.args[0])
        return submit(call, **how)

    monkeypatch.setattr(limits, "_writer", SimpleNamespace(submit=note))
    held = Call(limits, fleet(1), "held")
    await held.begun.wait()
    waiting = [Call(limits, fleet(1), f"waiting{number}") for number in range(50)]
    for call in waiting:
        await held.end()
        async with asyncio.timeout(PATIENCE):
            await call.begun.wait()
        assert [one.begun.is_set() for one in waiting].count(True) == waiting.index(call) + 1
        held = call
    await held.end()
    assert list(dict.fromkeys(asked)) == ["held", *(f"waiting{number}" for number in range(50))]
    assert len(asked) < 4 * len(waiting)


async def test_those_for_whom_there_are_places_do_not_wait_for_each_other(
    limits: Limits, writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies: list[asyncio.Future[int]] = []

    def note(call: Any, **how: Any) -> Any:
        replies.append(asyncio.get_running_loop().create_future())
        return replies[-1] if call.script is scripts.ACQUIRE else writer.submit(call, **how)

    monkeypatch.setattr(limits, "_writer", SimpleNamespace(submit=note))
    calls = [Call(limits, fleet(9), f"one{number}") for number in range(5)]
    await until(lambda: len(replies) == 5)  # before any of them is answered
    for reply in replies:
        reply.set_result(1)
    for call in calls:
        await call.begun.wait()
        await call.end()


async def all_said(writer: Writer, keys: Keys) -> None:
    """Wait until Redis has done all that was asked of it before this."""
    await writer.submit(scripts.PARKED.on([keys.parked("p")]))


async def test_who_stops_waiting_for_a_place_gives_back_none_that_others_hold(
    limits: Limits, others: Limits, writer: Writer, redis: Redis, keys: Keys
) -> None:
    held = Call(limits, fleet(1), "held")
    await held.begun.wait()
    waiting = [Call(one, fleet(1), f"waiting{i}") for i, one in enumerate((limits, others))]
    await asyncio.sleep(0)  # they ask
    await all_said(writer, keys)
    for call in waiting:
        await call.cancel()
    last = Call(others, fleet(1), "last")
    await asyncio.sleep(0)
    await all_said(writer, keys)
    assert await holders(redis, keys) == {"held"}
    assert not last.begun.is_set()
    await held.end()
    await last.begun.wait()
    assert await holders(redis, keys) == {"last"}
    await last.end()


async def test_who_stops_while_a_place_is_on_its_way_does_not_keep_it(
    limits: Limits, redis: Redis, keys: Keys
) -> None:
    for i in range(20):
        call = Call(limits, fleet(1), f"c{i}")
        for _ in range(i % 4):
            await asyncio.sleep(0)
        await call.cancel()
    last = Call(limits, fleet(1), "last")
    await last.begun.wait()
    await last.end()
    await until(lambda: _nobody(redis, keys))


async def test_a_place_that_is_given_after_it_was_given_back_is_given_back_again(keys: Keys) -> None:
    """Redis may refuse one call for a while, and take the next one."""
    asked: list[tuple[Script, asyncio.Future[int]]] = []

    class Waiting:
        def submit(self, call: ScriptCall, *, remember: bool = True) -> "asyncio.Future[int]":
            asked.append((call.script, asyncio.get_running_loop().create_future()))
            return asked[-1][1]

    call = Call(Limits(Waiting(), keys, LEASE), fleet(1), "c")  # type: ignore[arg-type]
    await asyncio.sleep(0)  # it asks
    await call.cancel()
    asked[0][1].set_result(1)
    await asyncio.sleep(0)  # the answer is heard
    assert asked[-1][0] is scripts.VACATE
    assert not asked[-1][1].done()
    assert len(asked) == 3


async def test_a_call_that_fails_gives_its_place_back(limits: Limits, redis: Redis, keys: Keys) -> None:
    with pytest.raises(ZeroDivisionError):
        async with limits.place(fleet(1), "fails"):
            raise ZeroDivisionError
    async with limits.place(fleet(1), "next"):
        assert await holders(redis, keys) == {"next"}


# -- in workers -----------------------------------------------------------------------------------------------


def limited(gate: Gate, **limits: Any) -> Registry:
    (provider,) = gated_registry(gate)
    return Registry([replace(provider, **limits)])


async def test_two_workers_keep_to_the_fleets_limit(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    for name in ("w1", "w2"):
        await start_worker(limited(gate, fleet_concurrency=2), name=name, lease=0.6)
    jobs = [await producer.enqueue("x", provider="gated") for _ in range(6)]
    await until(lambda: gate.open_calls == 2)
    await until(lambda: _all_claimed(producer, [job.id for job in jobs]))
    assert gate.calls == 2
    gate.open.set()
    for job in jobs:
        assert (await producer.result(job.id)).text == "one two"
    await until(lambda: _no_slot(redis, keys))


async def _all_claimed(producer: Producer, ids: list[str]) -> bool:
    return {(await producer.status(job_id)).status for job_id in ids} == {"running"}


async def _no_slot(redis: Redis, keys: Keys) -> bool:
    return bool(await redis.zcard(keys.slots("gated")) == 0)


@pytest.mark.parametrize("limit", ["concurrency", "fleet_concurrency"])
async def test_a_job_that_waits_for_a_place_can_be_cancelled_and_never_calls(
    producer: Producer, start_worker: StartWorker, limit: str
) -> None:
    gate = Gate()
    await start_worker(limited(gate, **{limit: 1}))
    running = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    waiting = await producer.enqueue("x", provider="gated")
    await until(lambda: _all_claimed(producer, [waiting.id]))
    await producer.cancel(waiting.id, wait=5)
    assert [event.type async for event in producer.subscribe(waiting.id)] == ["queued", "cancelled"]
    assert (gate.calls, gate.open_calls) == (1, 1)
    gate.open.set()
    assert (await producer.result(running.id)).text == "one two"
