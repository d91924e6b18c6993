"""A provider that asks to be left alone is left alone, by all workers, and that costs no attempt."""

import asyncio
from collections.abc import AsyncIterator, Collection
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import Producer, Started, Waiting
from producer.status import server_ms
from producer.wire.events import EventId
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.facts import PATIENCE, until
from tests.support.transcripts import until_it_waits
from worker import parking as parking_module
from worker.parking import Parking
from worker.providers.errors import RateLimited
from worker.providers.provider import Provider
from worker.providers.registry import Registry
from worker.writer import Writer


@pytest.fixture(autouse=True)
def _all_come_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The moments by which jobs are spread would blur what is compared here."""
    monkeypatch.setattr("worker.retry._SPREAD", 0.0)


@pytest.fixture
def parking(writer: Writer, keys: Keys) -> Parking:
    return Parking(writer, keys)


@pytest.fixture
def another(writer: Writer, keys: Keys) -> Parking:
    """Another worker's."""
    return Parking(writer, keys)


async def test_what_one_worker_parks_is_parked_for_all(
    parking: Parking, another: Parking, redis: Redis
) -> None:
    before = await server_ms(redis)
    until_ms = await parking.park("p", 30.0)
    assert before + 30_000 <= until_ms <= await server_ms(redis) + 30_000
    assert await another.answers(another.ask(["p", "q"])) == {"p": until_ms}


async def test_the_longer_parking_wins(parking: Parking, another: Parking) -> None:
    long = await parking.park("p", 60.0)
    assert await another.park("p", 1.0) == long
    assert await parking.answers(parking.ask(["p"])) == {"p": long}
    longer = await another.park("p", 90.0)
    assert longer > long
    assert await parking.answers(parking.ask(["p"])) == {"p": longer}


async def test_parking_ends_by_itself(parking: Parking, another: Parking, redis: Redis, keys: Keys) -> None:
    until_ms = await parking.park("p", 1.0)
    assert 0 < await redis.pttl(keys.parked("p")) <= 1000

    async def is_free() -> bool:
        return not await another.answers(another.ask(["p"]))

    await until(is_free)
    assert await server_ms(redis) >= until_ms


@pytest.mark.usefixtures("longest_pauses")
async def test_where_the_provider_does_not_say_the_rest_doubles_up_to_a_minute(
    parking: Parking, redis: Redis, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And begins anew once the provider has answered; each provider has its own."""
    clock = 0.0
    monkeypatch.setattr(parking_module.time, "monotonic", lambda: clock)

    async def rest(name: str = "p") -> int:
        nonlocal clock
        clock += 61  # whatever rest there was is over
        await redis.delete(keys.parked(name))
        before = await server_ms(redis)
        return round((await parking.park(name, None) - before) / 1000)

    assert [await rest() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert await rest("q") == 1
    parking.works("p")
    assert [await rest(), await rest(), await rest("q")] == [1, 2, 2]


async def test_calls_that_were_under_way_together_make_the_rest_no_longer(
    parking: Parking, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A single burst of 16 is one refusal, and not 16."""
    monkeypatch.setattr(parking_module.time, "monotonic", lambda: 61.0)  # for them no time passes
    for _ in range(16):
        until_ms = await parking.park("p", None)
        assert until_ms <= await server_ms(redis) + 1000


# -- in workers -----------------------------------------------------------------------------------------------


class Upstream:
    """Refuses the first calls, and answers from then on; it keeps when it was called, by its own clock."""

    def __init__(self, *retry_after: float | None) -> None:
        self.left = list(retry_after)
        self.called_at: list[float] = []

    def registry(self, *names: str, allowed: Collection[str] = ()) -> Registry:
        upstream = self

        class Sometimes:
            @classmethod
            async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> AsyncIterator[str]:
                upstream.called_at.append(asyncio.get_running_loop().time())
                if upstream.left:
                    raise RateLimited("slow down", status=429, retry_after=upstream.left.pop(0))
                yield "answer"

        allows = frozenset(allowed)
        return Registry(
            Provider(name, name, Sometimes, "", True, (), allowed=allows) for name in names or ("p",)
        )


async def test_retry_after_parks_the_provider_for_every_worker_and_costs_no_attempt(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    upstream = Upstream(3.0)
    await start_worker(upstream.registry(), name="w1", queues=("first",))
    first = await producer.enqueue("x", provider="p", queue="first", max_attempts=1)
    subscription = producer.subscribe(first.id)
    _, started, waiting = [await anext(subscription) for _ in range(3)]
    assert isinstance(started, Started)
    assert isinstance(waiting, Waiting)
    parked_until = int(await redis.get(keys.parked("p")))
    assert (waiting.reason, waiting.until) == ("rate_limited", parked_until)
    await start_worker(upstream.registry(), name="w2", queues=("second",))
    second = await producer.enqueue("x", provider="p", queue="second", max_attempts=1)
    for job in (first, second):
        assert (await producer.result(job.id)).text == "answer"
    assert len(upstream.called_at) == 3
    assert min(upstream.called_at[1:]) - upstream.called_at[0] >= 3.0 - 0.005
    events = [event async for event in producer.subscribe(second.id)]
    assert [event.type for event in events] == ["queued", "waiting", "started", "chunk", "done"]
    assert (events[1].reason, events[1].until) == ("rate_limited", parked_until)  # type: ignore[union-attr]
    for job in (first, second):
        starts = [event async for event in producer.subscribe(job.id) if isinstance(event, Started)]
        assert {event.number for event in starts} == {1}


async def test_a_provider_that_keeps_refusing_is_asked_again_until_it_answers(
    producer: Producer, start_worker: StartWorker
) -> None:
    """However few attempts the job has: to be refused is none."""
    upstream = Upstream(0.05, 0.05, 0.05, 0.05)
    await start_worker(upstream.registry())
    job = await producer.enqueue("x", provider="p", max_attempts=1)
    assert (await producer.result(job.id)).text == "answer"
    assert len(upstream.called_at) == 5


async def test_a_service_that_a_job_chose_parks_nobody_else(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await start_worker(Upstream(3600.0).registry(allowed={"base_url"}))
    own = await producer.enqueue("x", provider="p", options={"base_url": "http://own"})
    await until_it_waits(producer, own.id)
    assert await redis.get(keys.parked("p")) is None
    other = await producer.enqueue("x", provider="p")
    async with asyncio.timeout(PATIENCE):
        assert (await producer.result(other.id)).text == "answer"


async def test_a_job_waits_for_the_service_that_it_chose(
    producer: Producer, start_worker: StartWorker
) -> None:
    upstream = Upstream(0.05, None)
    await start_worker(upstream.registry(allowed={"base_url"}))
    job = await producer.enqueue("x", provider="p", options={"base_url": "http://own"}, max_attempts=1)
    assert (await producer.result(job.id)).text == "answer"
    assert len(upstream.called_at) == 3
    waits = [event.reason async for event in producer.subscribe(job.id) if isinstance(event, Waiting)]
    assert waits == ["rate_limited", "rate_limited"]


async def test_a_job_that_chose_its_service_does_not_wait_for_the_shared_one(
    producer: Producer, start_worker: StartWorker, writer: Writer, keys: Keys
) -> None:
    await start_worker(Upstream().registry(allowed={"base_url"}))
    await Parking(writer, keys).park("p", 60.0)
    job = await producer.enqueue("x", provider="p", options={"base_url": "http://own"})
    assert (await producer.result(job.id, timeout=PATIENCE)).text == "answer"


async def test_a_job_that_only_sets_a_time_limit_speaks_with_the_shared_service(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await start_worker(Upstream(3600.0).registry(allowed={"timeout"}))
    job = await producer.enqueue("x", provider="p", options={"timeout": 5})
    await until_it_waits(producer, job.id)
    assert await redis.get(keys.parked("p")) is not None


@pytest.mark.usefixtures("longest_pauses")
async def test_the_answer_of_a_jobs_own_service_says_nothing_of_the_shared_one(
    producer: Producer, start_worker: StartWorker
) -> None:
    """What the shared one says next, it says for the second time in a row: the rest is longer."""

    class Shared:
        refusals = 2

        @classmethod
        async def create_async_generator(
            cls, model: str, messages: Any, base_url: str | None = None, **_: Any
        ) -> AsyncIterator[str]:
            if base_url is None and cls.refusals:
                cls.refusals -= 1
                raise RateLimited("slow down", status=429)
            yield "answer"

    await start_worker(Registry([Provider("p", "p", Shared, "", True, (), allowed={"base_url"})]))
    first = await producer.enqueue("x", provider="p", max_attempts=1)
    await until_it_waits(producer, first.id)
    own = await producer.enqueue("x", provider="p", options={"base_url": "http://own"})
    for job in (own, first):
        assert (await producer.result(job.id, timeout=PATIENCE)).text == "answer"
    waits = [event async for event in producer.subscribe(first.id) if isinstance(event, Waiting)]
    assert len(waits) == 2
    assert waits[1].until - EventId.parse(waits[1].id).attempt >= 2000


async def test_a_parked_provider_is_passed_over_for_the_next_of_the_list(
    producer: Producer, start_worker: StartWorker, writer: Writer, keys: Keys
) -> None:
    upstream = Upstream()
    await start_worker(upstream.registry("p", "q"))
    await Parking(writer, keys).park("p", 60.0)
    job = await producer.enqueue("x", provider=["p", "q"])
    assert (await producer.result(job.id)).text == "answer"
    assert (await producer.status(job.id)).provider == "q"
    events = [event async for event in producer.subscribe(job.id)]
    assert [event.type for event in events] == ["queued", "started", "chunk", "done"]
    assert isinstance(events[1], Started)
    assert events[1].provider == "q"


async def test_where_all_are_parked_the_job_waits_for_the_first_that_comes_back(
    producer: Producer, start_worker: StartWorker, writer: Writer, keys: Keys
) -> None:
    upstream = Upstream()
    await start_worker(upstream.registry("p", "q"))
    parking = Parking(writer, keys)
    await parking.park("p", 60.0)
    soon = await parking.park("q", 2.0)
    job = await producer.enqueue("x", provider=["p", "q"])
    events = [event async for event in producer.subscribe(job.id)]
    assert [event.type for event in events] == ["queued", "waiting", "started", "chunk", "done"]
    waiting, started = events[1:3]
    assert isinstance(waiting, Waiting)
    assert isinstance(started, Started)
    assert (waiting.until, started.provider, started.number) == (soon, "q", 1)


async def test_who_has_waited_for_too_long_fails(producer: Producer, start_worker: StartWorker) -> None:
    upstream = Upstream(30.0)
    await start_worker(upstream.registry(), max_wait=10.0)
    job = await producer.enqueue("x", provider="p")
    last = [event async for event in producer.subscribe(job.id)][-1]
    assert (last.type, getattr(last, "code", None)) == ("failed", "rate_limited")
