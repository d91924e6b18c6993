"""Upkeep: leases go on while a worker lives, and what a dead one held starts anew, soon and once."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import Producer
from producer.connection.tasks import end
from producer.status import server_ms
from producer.wire.keys import GROUP, NOBODY, Keys
from tests.conftest import StartWorker, on_real_servers
from tests.support.facts import until
from tests.support.gated import Gate, gated_registry
from tests.support.holders import holders
from tests.support.servers import Server
from tests.support.transcripts import attempt_of, events_of, starts_of
from tests.worker.conftest import MakeUpkeep
from worker.entry_reader import EntryReader
from worker.holdings import Entry
from worker.queue import Queue
from worker.settings import Settings

LATE = 1.0  # seconds that a busy machine may take on top of what is promised


async def taken_by_the_dead(redis: Redis, keys: Keys, count: int = 1, queue: str = "default") -> list[str]:
    """A worker takes entries, and is never heard of again."""
    reply: Any = await redis.xreadgroup(GROUP, "dead", {keys.jobs(queue): ">"}, count=count)
    ids = [entry_id.decode() for entry_id, _ in reply[0][1]]
    assert len(ids) == count
    return ids


@pytest.fixture
async def group(redis: Redis, keys: Keys) -> None:
    """The group, before any worker is there to make it."""
    await redis.xgroup_create(keys.jobs("default"), GROUP, id="0", mkstream=True)


# -- reclaim --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize("is_busy", [False, True], ids=["idle", "busy"])
async def test_a_dead_workers_job_starts_anew_within_lease_and_sweep_and_not_before_the_lease(
    is_busy: bool, producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """On a queue to which nothing new comes as well as on one that is never empty."""
    lease, sweep = 1.0, 0.4
    job = await producer.enqueue("x", provider="echo")
    lived = await server_ms(redis)
    await taken_by_the_dead(redis, keys)
    died = await server_ms(redis)
    await start_worker(lease=lease, sweep=sweep)
    ended = asyncio.ensure_future(producer.result(job.id))
    while is_busy and not ended.done():
        await producer.result((await producer.enqueue("new", provider="echo")).id)
    await ended
    (started,) = await starts_of(producer, job.id)
    assert attempt_of(started) - lived >= 1000 * lease
    assert attempt_of(started) - died <= 1000 * (lease + sweep + LATE)
    assert started.number == 1  # the dead one had not begun


@pytest.mark.usefixtures("group")
async def test_all_that_a_dead_worker_held_starts_anew(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    jobs = [await producer.enqueue(str(i), provider="echo") for i in range(12)]
    await taken_by_the_dead(redis, keys, 12)
    worker = await start_worker(lease=0.3, sweep=0.1, concurrency=3)
    assert [(await producer.result(job.id)).text for job in jobs] == [str(i) for i in range(12)]
    await worker.idle()
    assert await holders(redis, keys) == {}


@pytest.mark.usefixtures("group")
async def test_a_worker_without_a_free_slot_leaves_the_dead_ones_jobs_to_others_and_runs_them_first_when_it_has_one(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """Or they would wait for ever while all are busy."""
    gate = Gate()
    busy = await producer.enqueue("x", provider="gated")
    worker = await start_worker(gated_registry(gate), concurrency=1, lease=0.2, sweep=0.05)
    await gate.first_chunk_out.wait()
    old = [await producer.enqueue("old", provider="gated") for _ in range(3)]
    ids = await taken_by_the_dead(redis, keys, 3)
    new = await producer.enqueue("new", provider="gated")
    began = await server_ms(redis)
    await until(lambda: _is_past(redis, began + 700))  # a lease and many a sweep later
    assert [(await holders(redis, keys))[entry_id] for entry_id in ids] == ["dead"] * 3
    assert (worker.running, gate.calls) == (1, 1)
    gate.open.set()
    starts = [await start_of(producer, job.id) for job in (busy, *old, new)]
    assert starts == sorted(starts)


async def start_of(producer: Producer, job_id: str) -> int:
    await producer.result(job_id)
    ((_, started),) = [(job_id, event) for event in await starts_of(producer, job_id)]
    return int(started.id.partition("-")[0])


class Slots:
    """As many free slots as the test says."""

    def __init__(self, free: int) -> None:
        self._free = free
        self.taken: list[str] = []

    def free(self) -> int:
        return self._free

    def take(self, entry: Entry) -> None:
        self.taken.append(entry.id)


async def grow_old(redis: Redis, keys: Keys, ids: list[str], seconds: float) -> None:
    await redis.xclaim(keys.jobs("default"), GROUP, "dead", 0, ids, idle=int(seconds * 1000), justid=True)


async def test_a_hint_brings_released_entries_to_those_only_who_have_a_free_slot(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys, upkeep_of: MakeUpkeep
) -> None:
    """And nothing of those who may still live."""
    for _ in range(2):
        await producer.enqueue("x", provider="echo")
    (entry,) = await reader.take(1)
    (other,) = await taken_by_the_dead(redis, keys)
    await grow_old(redis, keys, [other], 1000)
    await queue.release(entry)
    full, free = Slots(0), Slots(2)
    await upkeep_of(full)._reclaim_released()
    assert full.taken == []
    assert await holders(redis, keys) == {entry.id: NOBODY, other: "dead"}
    await upkeep_of(free)._reclaim_released()
    assert free.taken == [entry.id]
    assert (await holders(redis, keys))[other] == "dead"


async def test_hints_without_end_do_not_keep_the_dead_ones_jobs_waiting(
    reader: EntryReader, producer: Producer, redis: Redis, keys: Keys, upkeep_of: MakeUpkeep
) -> None:
    await producer.enqueue("x", provider="echo")
    ids = await taken_by_the_dead(redis, keys)
    await grow_old(redis, keys, ids, 1000)
    slots = Slots(1)
    upkeep = upkeep_of(slots, sweep=0.05)

    def is_taken_though_hints_come() -> bool:
        upkeep.hear("released")
        return slots.taken == ids

    reclaiming = asyncio.create_task(upkeep.reclaim())
    await until(is_taken_though_hints_come)
    await end(reclaiming)


async def test_a_full_worker_leaves_all_to_others_and_catches_up_when_it_has_a_slot(
    reader: EntryReader,
    producer: Producer,
    redis: Redis,
    keys: Keys,
    settings: Settings,
    upkeep_of: MakeUpkeep,
) -> None:
    for _ in range(3):
        await producer.enqueue("x", provider="echo")
    ids = await taken_by_the_dead(redis, keys, 3)
    slots = Slots(0)
    upkeep = upkeep_of(slots)
    await upkeep._reclaim_all()
    assert not upkeep.is_behind
    await grow_old(redis, keys, ids, settings.lease + 1)
    await upkeep._reclaim_all()
    assert (slots.taken, upkeep.is_behind) == ([], True)
    slots._free = 3
    await upkeep.catch_up()
    assert (slots.taken, upkeep.is_behind) == (ids, False)


@on_real_servers
async def test_one_that_gets_a_slot_after_an_outage_gives_the_living_time_to_renew_before_it_catches_up(
    reader: EntryReader,
    producer: Producer,
    redis: Redis,
    keys: Keys,
    settings: Settings,
    upkeep_of: MakeUpkeep,
) -> None:
    await producer.enqueue("x", provider="echo")
    ids = await taken_by_the_dead(redis, keys)
    await grow_old(redis, keys, ids, settings.lease + 1)
    slots = Slots(0)
    upkeep = upkeep_of(slots, lease=0.6, sweep=0.3)
    await upkeep._reclaim_all()
    assert upkeep.is_behind
    slots._free = 1
    await redis.client_pause(1000)
    await upkeep.catch_up()
    assert (slots.taken, upkeep.is_behind) == ([], False)
    await until(lambda: upkeep.is_behind)
    await upkeep.catch_up()
    assert slots.taken == ids


async def test_all_pages_are_reclaimed_in_one_sweep(
    reader: EntryReader, producer: Producer, redis: Redis, keys: Keys, upkeep_of: MakeUpkeep
) -> None:
    await producer.enqueue("x", provider="echo")
    for _ in range(24):
        await redis.xadd(keys.jobs("default"), {"job": b"x"})
    ids = await taken_by_the_dead(redis, keys, 25)
    await grow_old(redis, keys, ids, 1000)
    slots = Slots(4)
    await upkeep_of(slots)._reclaim_all()
    assert slots.taken == ids


async def test_what_was_released_before_a_worker_came_is_taken_as_soon_as_it_comes(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """The one worker is replaced: nobody heard the hint, and nobody waits for a sweep."""
    gate = Gate()
    first = await start_worker(gated_registry(gate), lease=60, sweep=60, grace=0.0)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    first.stop()
    await first.stopped()
    gate.open.set()
    await start_worker(gated_registry(gate), lease=60, sweep=60, name="w2")
    assert (await producer.result(job.id, timeout=20)).text == "one two"


# -- renew ----------------------------------------------------------------------------------------------------


async def test_a_worker_that_lives_keeps_its_job_for_many_leases(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    lease = 1.0
    await start_worker(gated_registry(gate), lease=lease, sweep=60, name="w1")
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await start_worker(gated_registry(gate), lease=lease, sweep=0.05, name="w2")
    began = await server_ms(redis)
    await until(lambda: _is_past(redis, began + 3 * lease * 1000))
    gate.open.set()
    assert (await producer.result(job.id)).text == "one two"
    assert (len(await starts_of(producer, job.id)), gate.calls) == (1, 1)


async def _is_past(redis: Redis, instant_ms: float) -> bool:
    return await server_ms(redis) > instant_ms


async def test_a_lost_lease_stops_the_answer_and_closes_the_call_and_leaves_the_job_alone(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """G3, without a word of the provider: it is the renewal that tells."""
    gate = Gate()
    worker = await start_worker(gated_registry(gate), lease=0.6, sweep=60)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    (entry_id,) = await holders(redis, keys)
    await redis.xclaim(keys.jobs("default"), GROUP, "successor", 0, [entry_id])
    await until(lambda: gate.closed)
    await worker.idle()
    assert gate.open_calls == 0
    assert await holders(redis, keys) == {entry_id: "successor"}
    assert (await producer.status(job.id)).status == "running"
    frames = await redis.xrange(keys.log(job.id))
    assert len(frames) <= 3  # queued, started, one chunk; nothing was said of an end


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_job_whose_group_vanishes_while_it_runs_is_answered_once(
    server: Server, producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, workers: int
) -> None:
    """XGROUP DESTROY: nobody holds anything any more, and the group that is made again hands out all anew."""
    gate = Gate()
    for number in range(workers):
        # One alone is told by its read that the group is gone, and is to hear it first of that: a lease that is renewed
        # before the group is there again is lost, and the answer begins anew.
        times = {"lease": 60, "sweep": 60} if workers == 1 else {"lease": 0.4, "sweep": 0.1}
        await start_worker(gated_registry(gate), name=f"w{number}", **times)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await redis.xgroup_destroy(keys.jobs("default"), GROUP)
    await until(lambda: _is_handed_over_again(redis, keys))
    gate.open.set()
    assert (await producer.result(job.id)).text == "one two"
    events = await events_of(producer, job.id)
    assert [event.terminal for event in events].count(True) == 1
    if workers == 1 and server.real:  # it is told at once, finds its own entry there, and goes on
        assert gate.calls == 1
    await until(lambda: _is_empty(redis, keys))


async def _is_handed_over_again(redis: Redis, keys: Keys) -> bool:
    groups = await redis.xinfo_groups(keys.jobs("default"))
    return bool(groups) and bool(await holders(redis, keys))


async def _is_empty(redis: Redis, keys: Keys) -> bool:
    return bool(await redis.xlen(keys.jobs("default")) == 0)


@on_real_servers
@pytest.mark.usefixtures("group")
async def test_after_an_outage_the_living_get_the_time_to_renew(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    """All leases are over then. Those of the dead are found all the same, only later."""
    lease, gate, stream = 1.0, Gate(), keys.jobs("default")
    dead = await producer.enqueue("x", provider="gated")
    ids = await taken_by_the_dead(redis, keys)
    job = await producer.enqueue("x", provider="gated")
    await start_worker(gated_registry(gate), lease=lease, sweep=60, name="w1", concurrency=1)
    await gate.first_chunk_out.wait()
    await redis.xclaim(stream, GROUP, "dead", 0, ids, justid=True)
    await start_worker(
        gated_registry(gate), lease=lease, sweep=1.5, name="w2"
    )  # so that it looks in the outage
    other = await producer.enqueue("x", provider="gated")
    await until(lambda: _is_running(producer, other.id))
    await redis.xclaim(stream, GROUP, "dead", 0, ids, justid=True)
    await redis.execute_command("CLIENT", "PAUSE", int(2 * lease * 1000), "ALL")
    await until(lambda: _is_running(producer, dead.id))  # w2 has looked at all that stands in the queue
    gate.open.set()
    for one in (job, other, dead):
        await producer.result(one.id)
    assert [len(await starts_of(producer, one.id)) for one in (job, other, dead)] == [1, 1, 1]
    assert gate.calls == 3


async def _is_running(producer: Producer, job_id: str) -> bool:
    return (await producer.status(job_id)).status == "running"
