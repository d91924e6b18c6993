"""The queue's verbs: by the consumer that holds the entry, and by nobody else (G3)."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ResponseError

from producer import Producer
from producer.connection import Line
from producer.wire.codec import unpack_map
from producer.wire.dead import DeadLetter
from producer.wire.events import Waiting
from producer.wire.job import Job
from producer.wire.keys import GROUP, NOBODY, Keys
from tests.conftest import on_real_servers
from tests.support.facts import until
from worker.entry_reader import EntryReader
from worker.event_log import End, EventLog
from worker.holdings import Entry, Holdings
from worker.outcome import Lost, NothingToDo, TooEarly
from worker.queue import Claim, Claimed, Queue
from worker.settings import Settings
from worker.writer import Writer

LONG_AGO_MS = 100_000  # any lease of these tests is over after this


@dataclass
class Other:
    """Another worker at the same queues."""

    consumer: str
    holdings: Holdings
    reader: EntryReader
    queue: Queue


@pytest.fixture
async def other(line: Line, keys: Keys, writer: Writer, settings: Settings, reader: EntryReader) -> Other:
    holdings = Holdings("w2:y")
    theirs = settings.model_copy(update={"name": "w2"})
    their_reader = EntryReader(line, keys, holdings, theirs)
    their_reader._is_open = (
        True  # our reader made the group; fakeredis hangs up on who makes one that is there
    )
    return Other("w2:y", holdings, their_reader, Queue(writer, keys, holdings, theirs))


async def taken(producer: Producer, reader: EntryReader, count: int = 1) -> list[Entry]:
    for _ in range(count):
        await producer.enqueue("x", provider="echo")
    return await reader.take(count)


async def grow_old(redis: Redis, keys: Keys, entries: list[Entry], ms: int = LONG_AGO_MS) -> None:
    """Let the entries look as if their holders had been silent for so long."""
    stream = keys.jobs("default")
    holders = {entry_id: consumer for entry_id, consumer, _, _ in await held(redis, keys)}
    for entry in entries:
        await redis.xclaim(stream, GROUP, holders[entry.id], 0, [entry.id], idle=ms, justid=True)


async def held(redis: Redis, keys: Keys) -> list[tuple[str, str, int, int]]:
    """Each entry that is held: its id, by whom, for how many ms, and how often it was handed over."""
    pending = await redis.xpending_range(keys.jobs("default"), GROUP, "-", "+", 10_000)
    return [
        (
            one["message_id"].decode(),
            one["consumer"].decode(),
            one["time_since_delivered"],
            one["times_delivered"],
        )
        for one in pending
    ]


async def holders(redis: Redis, keys: Keys) -> dict[str, str]:
    return {entry_id: consumer for entry_id, consumer, _, _ in await held(redis, keys)}


async def idle_of(redis: Redis, keys: Keys) -> dict[str, int]:
    return {entry_id: idle for entry_id, _, idle, _ in await held(redis, keys)}


Verb = Callable[[Queue, Entry], Awaitable[Any]]

VERBS: dict[str, Verb] = {
    "settle": lambda queue, entry: queue.settle(entry),
    "release": lambda queue, entry: queue.release(entry),
    "defer": lambda queue, entry: queue.defer(entry, 2**45),
    "bury": lambda queue, entry: queue.bury(entry, DeadLetter(entry.body, "j", "x", "x")),
    "leave": lambda queue, entry: queue.leave(),
}

every_verb = pytest.mark.parametrize("verb", VERBS.values(), ids=VERBS)


async def everything(redis: Redis, keys: Keys) -> Any:
    """All that a verb on an entry can change."""
    return (
        await redis.xrange(keys.jobs("default")),
        [(entry_id, consumer, deliveries) for entry_id, consumer, _, deliveries in await held(redis, keys)],
        await redis.zrange(keys.later("default"), 0, -1),
        await redis.xrange(keys.dead("default")),
    )


# -- by its holder only ---------------------------------------------------------------------------------------


@every_verb
async def test_who_lost_an_entry_changes_nothing(
    verb: Verb,
    queue: Queue,
    reader: EntryReader,
    holdings: Holdings,
    other: Other,
    producer: Producer,
    redis: Redis,
    keys: Keys,
) -> None:
    (entry,) = await taken(producer, reader)
    await grow_old(redis, keys, [entry])
    _, (theirs,) = await other.queue.reclaim("default", "0-0", 1)
    assert theirs.id == entry.id
    before = await everything(redis, keys)
    await verb(queue, entry)
    assert await everything(redis, keys) == before
    await other.queue.settle(theirs)
    assert await redis.xlen(keys.jobs("default")) == 0
    await verb(queue, entry)  # nor once the other one is through with it
    assert await everything(redis, keys) == ([], [], [], [])


@every_verb
async def test_where_the_group_is_gone_a_verb_changes_nothing_and_does_not_fail(
    verb: Verb, queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    (entry,) = await taken(producer, reader)
    await redis.xgroup_destroy(keys.jobs("default"), GROUP)
    await verb(queue, entry)
    assert await redis.xlen(keys.jobs("default")) == 1
    await redis.delete(keys.jobs("default"))
    await verb(queue, entry)
    there = [keys.jobs("default"), keys.later("default"), keys.dead("default"), keys.counts("default")]
    assert await redis.exists(*there) == 0


async def test_a_holder_parts_with_what_it_holds(
    queue: Queue, reader: EntryReader, holdings: Holdings, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entries = await taken(producer, reader, 4)
    for verb, entry in zip(VERBS.values(), entries, strict=False):
        await verb(queue, entry)
    released = entries[1]
    assert await holders(redis, keys) == {released.id: NOBODY}
    assert await redis.xlen(keys.jobs("default")) == 1
    ((body, due),) = await redis.zrange(keys.later("default"), 0, -1, withscores=True)
    assert (Job.decode(body).id, due) == (Job.decode(entries[2].body).id, 2**45)
    ((_, letter),) = await redis.xrange(keys.dead("default"))
    assert letter[b"job"] == entries[3].body
    assert list(holdings.of("default")) == []


# -- renew ----------------------------------------------------------------------------------------------------


async def test_renewing_keeps_what_is_held_and_tells_what_is_lost(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entries = await taken(producer, reader, 5)
    await grow_old(redis, keys, entries)
    lost = [entries[1].id, entries[3].id]
    await redis.xclaim(keys.jobs("default"), GROUP, other.consumer, 0, lost, idle=50_000)
    assert sorted(entry.id for entry in await queue.renew()) == lost
    for entry_id, consumer, idle, deliveries in await held(redis, keys):
        if entry_id in lost:  # the lease of another one is not ours to renew
            assert (consumer, deliveries, idle >= 50_000) == (other.consumer, 2, True)
        else:
            assert (consumer, deliveries, idle < 50_000) == ("w1:x", 1, True)


async def test_entries_that_end_together_are_settled_together_but_for_those_that_others_hold(
    queue: Queue,
    reader: EntryReader,
    holdings: Holdings,
    other: Other,
    producer: Producer,
    redis: Redis,
    keys: Keys,
) -> None:
    entries = await taken(producer, reader, 450)  # more than go into one call
    lost = entries[3]
    await grow_old(redis, keys, [lost])
    await other.queue.reclaim("default", "0-0", 1)
    calls = {queue.settle(entry) for entry in entries}
    assert len(calls) == 3
    assert sorted(holdings.of("default")) == sorted(entry.id for entry in entries)
    await asyncio.gather(*calls)
    assert await holders(redis, keys) == {lost.id: other.consumer}
    assert [entry_id.decode() for entry_id, _ in await redis.xrange(keys.jobs("default"))] == [lost.id]
    assert holdings.of("default") == []


async def test_what_was_parted_with_while_it_was_renewed_is_not_lost(
    queue: Queue, reader: EntryReader, producer: Producer
) -> None:
    entries = await taken(producer, reader, 3)
    settled = [asyncio.ensure_future(queue.settle(entry)) for entry in entries]
    # The settling is on its way before the renewal, and its reply comes before it, too.
    await asyncio.sleep(0)
    assert await queue.renew() == []
    await asyncio.gather(*settled)


async def test_more_entries_than_are_renewed_at_once_are_all_renewed(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    body = (await producer.enqueue("x", provider="echo")).encode()
    for _ in range(430):
        await redis.xadd(keys.jobs("default"), {"job": body})
    entries = await reader.take(431)
    assert len(entries) == 431
    await grow_old(redis, keys, entries)
    lost = [entries[index].id for index in (0, 199, 200, 430)]
    await redis.xclaim(keys.jobs("default"), GROUP, "thief", 0, lost, idle=LONG_AGO_MS)
    assert sorted(entry.id for entry in await queue.renew()) == sorted(lost)
    old = {entry_id for entry_id, idle in (await idle_of(redis, keys)).items() if idle >= LONG_AGO_MS}
    assert old == set(lost)


async def test_where_the_group_is_gone_all_is_lost(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entries = await taken(producer, reader, 2)
    await redis.xgroup_destroy(keys.jobs("default"), GROUP)
    assert sorted(entry.id for entry in await queue.renew()) == [entry.id for entry in entries]
    await redis.delete(keys.jobs("default"))
    assert len(await queue.renew()) == 2
    assert await redis.exists(keys.jobs("default")) == 0


# -- reclaim --------------------------------------------------------------------------------------------------


async def test_reclaiming_follows_its_cursor_to_the_end_and_leaves_the_living_alone(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    """More than one page of them, and what lives stands in between."""
    await producer.enqueue("x", provider="echo")
    for _ in range(59):
        await redis.xadd(keys.jobs("default"), {"job": b"x"})
    theirs = await other.reader.take(60)
    dead = [entry for index, entry in enumerate(theirs) if index % 3]
    await grow_old(redis, keys, dead)
    cursor, found = "0-0", list[Entry]()
    while True:
        cursor, page = await queue.reclaim("default", cursor, 7)
        assert len(page) <= 7
        found += page
        if cursor == "0-0":
            break
    assert [(entry.id, entry.body) for entry in found] == [(entry.id, entry.body) for entry in dead]
    assert {entry.deliveries for entry in found} == {2}
    expected = {entry.id: "w1:x" if entry in dead else other.consumer for entry in theirs}
    assert await holders(redis, keys) == expected


async def test_each_reclaiming_counts_as_a_delivery(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    (entry,) = await taken(producer, reader)
    told = []
    for who in (other.queue, queue, other.queue):
        await grow_old(redis, keys, [entry])
        for holdings in (queue._holdings, other.holdings):
            holdings.drop(entry)
        _, (again,) = await who.reclaim("default", "0-0", 1)
        told.append(again.deliveries)
    assert told == [2, 3, 4]


async def test_what_is_held_here_is_not_handed_out_a_second_time_and_its_lease_goes_on(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    entries = await taken(producer, reader, 2)
    await grow_old(redis, keys, entries)
    assert (await queue.reclaim("default", "0-0", 5))[1] == []
    assert all(idle < LONG_AGO_MS for idle in (await idle_of(redis, keys)).values())


async def test_an_entry_whose_body_is_gone_stands_in_nobodys_way(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    gone, stays = await taken(producer, other.reader, 2)
    await redis.xdel(keys.jobs("default"), gone.id)
    await grow_old(redis, keys, [gone, stays])
    _, found = await queue.reclaim("default", "0-0", 5)
    assert [entry.id for entry in found] == [stays.id]
    assert await holders(redis, keys) == {stays.id: "w1:x"}


async def test_something_that_is_no_job_is_reclaimed_as_what_it_is(
    queue: Queue, reader: EntryReader, other: Other, redis: Redis, keys: Keys
) -> None:
    await redis.xadd(keys.jobs("default"), {"note": "by hand", "job": "x"})
    await redis.xadd(keys.jobs("default"), {"note": "by hand"})
    entries = await other.reader.take(2)
    await grow_old(redis, keys, entries)
    _, found = await queue.reclaim("default", "0-0", 5)
    assert [entry.body for entry in found] == [b"x", b""]


@on_real_servers  # the imitation hangs up on errors, and a reclaim is not said again
async def test_reclaiming_where_there_is_no_group_says_so_and_makes_none(
    queue: Queue, redis: Redis, keys: Keys
) -> None:
    await redis.delete(keys.jobs("default"))
    with pytest.raises(ResponseError, match="NOGROUP"):
        await queue.reclaim("default", "0-0", 5)
    assert await redis.exists(keys.jobs("default")) == 0


# -- release --------------------------------------------------------------------------------------------------


async def test_what_is_released_keeps_its_place_and_can_be_reclaimed_at_once(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    """By a worker with any lease: nobody waits for one to end."""
    first, second, third = await taken(producer, reader, 3)
    await queue.release(second)
    ids = [entry_id.decode() for entry_id, _ in await redis.xrange(keys.jobs("default"))]
    assert ids == [first.id, second.id, third.id]
    _, found = await other.queue.reclaim("default", "0-0", 5)
    assert [(entry.id, entry.body) for entry in found] == [(second.id, second.body)]


async def test_the_workers_are_told_that_something_was_released(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    (entry,) = await taken(producer, reader)
    async with redis.pubsub() as ears:
        await ears.subscribe(keys.control("default"))
        assert (await ears.get_message(timeout=5))["type"] == "subscribe"
        await queue.release(entry)
        heard = await ears.get_message(timeout=5)
    assert unpack_map(heard["data"], max_bytes=100) == {"type": "released"}


# -- claim ----------------------------------------------------------------------------------------------------


def claim_of(entry: Entry, turn: int = 0) -> Claim:
    job = Job.decode(entry.body)
    return Claim(job.id, job.created_at, turn, "echo", "m")


async def test_a_claim_that_comes_after_somebody_elses_is_lost(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    """A worker that was frozen between taking an entry and claiming its job."""
    (entry,) = await taken(producer, reader)
    await grow_old(redis, keys, [entry])
    _, (theirs,) = await other.queue.reclaim("default", "0-0", 1)
    claimed = await other.queue.claim(theirs, claim_of(theirs))
    assert isinstance(claimed, Claimed)
    assert await queue.claim(entry, claim_of(entry)) == Lost()
    record = await redis.hgetall(keys.record(claimed.attempt.job_id))
    assert (record[b"worker"], record[b"number"]) == (b"w2", b"1")


async def test_a_job_that_is_put_off_is_not_claimed_before_its_time(
    queue: Queue,
    reader: EntryReader,
    other: Other,
    log: EventLog,
    producer: Producer,
    redis: Redis,
    keys: Keys,
) -> None:
    """Its worker died between saying so and deferring it, so that its entry stands in the queue still."""
    (entry,) = await taken(producer, reader)
    claimed = await queue.claim(entry, claim_of(entry))
    assert isinstance(claimed, Claimed)
    attempt = claimed.attempt
    due = attempt.now_ms() + 600_000
    waiting = Waiting(attempt.next_id(), due, "retry")
    await log.finish(attempt, End(waiting, "waiting", 60_000, due_ms=due))
    await grow_old(redis, keys, [entry])
    _, (theirs,) = await other.queue.reclaim("default", "0-0", 1)
    assert await other.queue.claim(theirs, claim_of(theirs)) == TooEarly(due)
    await other.queue.defer(theirs, due)
    ((body, score),) = await redis.zrange(keys.later("default"), 0, -1, withscores=True)
    assert (Job.decode(body).id, Job.decode(body).turn, score) == (attempt.job_id, 1, due)
    assert await redis.xlen(keys.jobs("default")) == 0


async def test_of_two_entries_of_one_job_the_later_turn_stands_for_it(
    queue: Queue,
    reader: EntryReader,
    other: Other,
    log: EventLog,
    producer: Producer,
    redis: Redis,
    keys: Keys,
) -> None:
    """A restart of Redis may bring back an entry that was deferred already."""
    (entry,) = await taken(producer, reader)
    body = Job.next_turn(entry.body)
    await redis.xadd(keys.jobs("default"), {"job": body})
    (later,) = await reader.take(1)
    claimed = await queue.claim(later, claim_of(later, turn=1))
    assert isinstance(claimed, Claimed)
    assert await queue.claim(entry, claim_of(entry)) == NothingToDo()
    attempt = claimed.attempt
    await log.finish(attempt, End(Waiting(attempt.next_id(), 1, "retry"), "waiting", 60_000, due_ms=1))
    assert await queue.claim(entry, claim_of(entry)) == NothingToDo()


async def test_a_running_jobs_entry_that_is_handed_out_once_more_as_if_new_costs_no_attempt(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    """A restart of Redis may forget that it handed an entry over, and hand it over for the first time once more."""
    (entry,) = await taken(producer, reader)
    assert isinstance(await queue.claim(entry, claim_of(entry)), Claimed)
    assert await queue.claim(entry, claim_of(entry)) == Lost()
    claimed = await other.queue.claim(entry, claim_of(entry))
    assert isinstance(claimed, Claimed)
    assert claimed.attempt.number == 1


async def test_a_running_job_that_stands_in_the_queue_twice_is_run_once(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    (entry,) = await taken(producer, reader)
    await redis.xadd(keys.jobs("default"), {"job": entry.body})
    (double,) = await reader.take(1)
    assert isinstance(await queue.claim(entry, claim_of(entry)), Claimed)
    assert await queue.claim(double, claim_of(double)) == NothingToDo()


async def test_an_entry_whose_body_is_gone_is_taken_as_no_job(
    reader: EntryReader, holdings: Holdings, producer: Producer, redis: Redis, keys: Keys
) -> None:
    await producer.enqueue("x", provider="echo")
    ((_, ((entry_id, _),)),) = await redis.xreadgroup(GROUP, holdings.consumer, {keys.jobs("default"): ">"})
    await redis.xdel(keys.jobs("default"), entry_id)
    reader._in_doubt = True
    (entry,) = await reader.take(1)
    assert (entry.id, entry.body) == (entry_id.decode(), b"")


async def test_what_this_worker_reclaims_while_it_looks_for_what_it_never_heard_of_is_taken_once(
    line: Line, keys: Keys, holdings: Holdings, settings: Settings, producer: Producer, redis: Redis
) -> None:
    reader = EntryReader(line, keys, holdings, settings)
    await reader.open()
    await producer.enqueue("x", provider="echo")
    ((_, ((entry_id, fields),)),) = await redis.xreadgroup(
        GROUP, holdings.consumer, {keys.jobs("default"): ">"}
    )
    reclaimed = Entry("default", entry_id.decode(), fields[b"job"], 2)
    ask = line.ask

    async def ask_while_reclaiming(*command: Any) -> Any:
        if command[0] == "XRANGE":
            holdings.add([reclaimed])
        return await ask(*command)

    line.ask = ask_while_reclaiming  # type: ignore[method-assign]
    reader._in_doubt = True
    assert await reader.take(1) == []


# -- tidy, leave ----------------------------------------------------------------------------------------------


async def test_consumers_that_are_silent_and_hold_nothing_are_removed_and_no_others(
    queue: Queue, reader: EntryReader, other: Other, producer: Producer, redis: Redis, keys: Keys
) -> None:
    stream = keys.jobs("default")
    (entry,) = await taken(producer, other.reader)
    (released,) = await taken(producer, reader)
    await queue.release(released)
    await redis.xgroup_createconsumer(stream, GROUP, "gone")
    removed = set[str]()

    async def gone() -> bool:
        removed.update(await queue.tidy("default", 0.05))
        return "gone" in removed

    await until(gone)
    left = {consumer["name"].decode() for consumer in await redis.xinfo_consumers(stream, GROUP)}
    assert {other.consumer, NOBODY} <= left
    assert await holders(redis, keys) == {entry.id: other.consumer, released.id: NOBODY}


async def test_consumers_that_were_heard_of_lately_are_not_removed(
    queue: Queue, reader: EntryReader, redis: Redis, keys: Keys
) -> None:
    await redis.xgroup_createconsumer(keys.jobs("default"), GROUP, "new")
    assert await queue.tidy("default", 60) == []
    assert await queue.tidy("nowhere", 60) == []
    consumers = await redis.xinfo_consumers(keys.jobs("default"), GROUP)
    assert "new" in {one["name"].decode() for one in consumers}


async def test_a_consumer_that_holds_something_does_not_leave(
    queue: Queue, reader: EntryReader, producer: Producer, redis: Redis, keys: Keys
) -> None:
    (entry,) = await taken(producer, reader)
    await queue.leave()
    assert await holders(redis, keys) == {entry.id: "w1:x"}
    await queue.settle(entry)
    await queue.leave()
    assert await redis.xinfo_consumers(keys.jobs("default"), GROUP) == []
