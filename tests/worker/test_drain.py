"""G10: who stops takes nothing new, keeps its leases, finishes what it can, hands back the rest at once, uncounted."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import Producer, Started, Waiting
from producer.status import server_ms
from producer.wire.keys import GROUP, NOBODY, Keys
from tests.conftest import StartWorker
from tests.support.facts import until
from tests.support.gated import Gate, gated_registry
from tests.support.holders import holders
from tests.support.transcripts import attempt_of, events_of, starts_of
from worker.providers.provider import Provider
from worker.providers.registry import Registry

LONG = 60.0  # seconds: nobody's lease ends, and nobody sweeps, while a test runs


async def is_past(redis: Redis, instant_ms: float) -> bool:
    return await server_ms(redis) > instant_ms


async def test_leases_are_renewed_as_long_as_an_answer_is_being_finished(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """Others look for the dead's jobs all the time, and the grace time is many leases long."""
    gate, lease = Gate(), 1.0
    stopping = await start_worker(gated_registry(gate), lease=lease, sweep=60, grace=60.0, name="stopping")
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await start_worker(gated_registry(gate), lease=lease, sweep=0.05, name="other")
    stopping.stop()
    asked = await server_ms(redis)
    await until(lambda: is_past(redis, asked + 3 * lease * 1000))
    gate.open.set()
    assert (await producer.result(job.id)).text == "one two"
    await stopping.stopped()
    assert [started.worker for started in await starts_of(producer, job.id)] == ["stopping"]
    assert gate.calls == 1


async def test_who_stops_neither_reclaims_nor_promotes_nor_takes(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate, lease = Gate(), 0.2
    stopping = await start_worker(gated_registry(gate), lease=lease, sweep=0.05, poll=0.01, grace=60.0)
    running = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    stopping.stop()
    # Its last read ends by itself, and would still be handed something: handed back, but on the move meanwhile.
    await until(lambda: _reads_no_more(redis, keys))
    delayed = await producer.enqueue("x", provider="gated", delay=0.05)
    dead, new = [await producer.enqueue("x", provider="gated") for _ in range(2)]
    reply: Any = await redis.xreadgroup(GROUP, "dead", {keys.jobs("default"): ">"}, count=1)
    asked = await server_ms(redis)
    await until(lambda: is_past(redis, asked + 5 * lease * 1000))
    assert await redis.zcard(keys.later("default")) == 1
    assert (await holders(redis, keys))[reply[0][1][0][0].decode()] == "dead"
    gate.open.set()
    await producer.result(running.id)
    await stopping.stopped()
    assert gate.calls == 1
    assert {(await producer.status(job.id)).status for job in (delayed, dead, new)} == {"queued"}


async def _reads_no_more(redis: Redis, keys: Keys) -> bool:
    """Whether nobody has asked for new entries for longer than a read takes."""
    consumers = await redis.xinfo_consumers(keys.jobs("default"), GROUP)
    return all(consumer["idle"] > 50 for consumer in consumers)


async def test_what_the_last_read_brings_is_handed_back_and_never_begun(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """Redis hands over what comes while the read waits, and a read is never cut off."""
    gate = Gate()
    gate.open.set()
    stopping = await start_worker(gated_registry(gate), lease=LONG, sweep=LONG, poll=1.0)
    await producer.result((await producer.enqueue("x", provider="gated")).id)
    await stopping.idle()
    stopping.stop()
    job = await producer.enqueue("x", provider="gated")
    await stopping.stopped()
    assert gate.calls == 1
    assert (await producer.status(job.id)).status == "queued"
    # Whether the last read had begun by then is the machine's to say: if not, nobody was handed the entry.
    assert list((await holders(redis, keys)).values()) in ([NOBODY], [])
    await start_worker(gated_registry(gate), lease=LONG, sweep=LONG, name="w2")
    assert (await producer.result(job.id)).text == "one two"


async def test_another_worker_goes_on_at_once_with_what_was_handed_back_and_it_costs_no_attempt(
    producer: Producer, start_worker: StartWorker, redis: Redis
) -> None:
    """No lease ends and no sweep comes: it is the hint that brings it."""
    gate, other_gate = Gate(), Gate()
    other_gate.open.set()
    stopping = await start_worker(
        gated_registry(gate), lease=LONG, sweep=LONG, grace=0.1, concurrency=3, name="stopping"
    )
    jobs = [await producer.enqueue("x", provider="gated", max_attempts=1) for _ in range(3)]
    await until(lambda: gate.open_calls == 3)
    await start_worker(gated_registry(other_gate), lease=LONG, sweep=LONG, name="other")
    await producer.result((await producer.enqueue("x", provider="gated")).id)  # it is there, and listens
    asked = await server_ms(redis)
    stopping.stop()
    for job in jobs:
        assert (await producer.result(job.id)).text == "one two"
        events = await events_of(producer, job.id)
        (waiting,) = [event for event in events if isinstance(event, Waiting)]
        starts = [event for event in events if isinstance(event, Started)]
        assert waiting.reason == "released"
        assert [(one.worker, one.number) for one in starts] == [("stopping", 1), ("other", 1)]
        assert attempt_of(starts[1]) - asked < 5000
    assert (gate.open_calls, other_gate.calls) == (0, 4)


async def test_a_second_stop_hurries_what_the_first_one_let_finish(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    stopping = await start_worker(gated_registry(gate), grace=3600.0, lease=LONG, sweep=LONG)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    (entry_id,) = await holders(redis, keys)
    stopping.stop()
    await until(lambda: _reads_no_more(redis, keys))
    assert (stopping.running, gate.open_calls) == (1, 1)
    stopping.stop()
    await stopping.stopped()
    assert (gate.open_calls, gate.closed) == (0, 1)
    assert await holders(redis, keys) == {entry_id: NOBODY}
    status = await producer.status(job.id)
    assert (status.status, status.attempts) == ("waiting", 0)  # uncounted


async def test_who_has_stopped_leaves_the_group(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    stopping = await start_worker(gated_registry(gate), grace=0.0, lease=LONG, sweep=LONG)
    await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    stopping.stop()
    await stopping.stopped()
    consumers = await redis.xinfo_consumers(keys.jobs("default"), GROUP)
    assert [consumer["name"].decode() for consumer in consumers] == [NOBODY]


@pytest.mark.parametrize("grace", [0.0, 60.0])
async def test_an_answer_that_ends_while_its_worker_stops_is_whole_and_settled(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, grace: float
) -> None:
    """Whichever comes first: it is done once, or handed back, and never both."""

    class Quick:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> AsyncIterator[str]:
            for _ in range(3):
                await asyncio.sleep(0)
                yield "x"

    def registry() -> Registry:
        return Registry([Provider("quick", "quick", Quick, "", True, ())])

    jobs = [await producer.enqueue("x", provider="quick") for _ in range(20)]
    stopping = await start_worker(registry(), grace=grace, lease=LONG, sweep=LONG, name="w1")
    await anext(event async for event in producer.subscribe(jobs[3].id) if event.type == "started")
    stopping.stop()
    await stopping.stopped()
    await start_worker(registry(), lease=LONG, sweep=LONG, name="w2")
    for job in jobs:
        assert (await producer.result(job.id)).text == "xxx"
        events = await events_of(producer, job.id)
        assert [event.terminal for event in events].count(True) == 1
        assert {start.number for start in events if isinstance(start, Started)} == {1}
    await until(lambda: _is_empty(redis, keys))


async def _is_empty(redis: Redis, keys: Keys) -> bool:
    return await redis.xlen(keys.jobs("default")) == 0
