"""Dead letters: they are found, their jobs get a new life under the same id, and an old life cannot reach into it."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from producer import (
    AttemptError,
    Cancellation,
    DeadLetter,
    JobFailed,
    JobNotFound,
    Producer,
    Retry,
    Unavailable,
)
from producer.dead import PAGE, drop_dead
from producer.revival import _new_life, _revive, retry_dead
from producer.status import server_ms
from producer.wire.codec import pack, unpack_map
from producer.wire.job import MAX_JOB_BYTES, Job
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNCONFIRMED_MS, UNFINISHED_MS
from tests.conftest import StartWorker, on_real_servers
from tests.support.lossy import LOST, LosesReplies
from tests.support.stepped import Stepped, interleaved
from tests.support.undertaker import Undertaker

OLD_ATTEMPT = 4_000_000_000_000
"""An attempt whose number is ahead of the clock: what comes after it must be above it all the same."""


async def queued(redis: Redis, keys: Keys, queue: str = "default") -> list[bytes]:
    return [fields[b"job"] for _, fields in await redis.xrange(keys.jobs(queue))]


# -- finding ---------------------------------------------------------------------------------------------------


async def test_a_letter_is_told_whole(producer: Producer, undertaker: Undertaker) -> None:
    before = datetime.now(UTC)
    dead = await undertaker.failed("x", id="mine", queue="slow")
    assert await producer.dead() == [dead]
    assert (dead.queue, dead.job_id, dead.letter.code, dead.letter.attempts) == ("slow", "mine", "cut", 3)
    assert dead.letter.errors == (AttemptError(1, 3, "echo", "cut", "no end mark"),)
    assert abs(dead.buried_at - before) < timedelta(minutes=1)
    assert Job.decode(dead.letter.job).id == "mine"


async def test_letters_of_all_queues_come_oldest_first(producer: Producer, undertaker: Undertaker) -> None:
    buried = [await undertaker.bury(queue, reason=str(n)) for n, queue in enumerate("abcba")]
    found = await producer.dead()
    assert sorted(dead.letter.reason for dead in found) == list("01234")
    assert [dead.id for dead in found] == sorted(buried, key=lambda id_: [*map(int, id_.split("-"))])
    assert [dead.letter.reason for dead in await producer.dead("b")] == ["1", "3"]
    assert [dead.id for dead in await producer.dead(limit=2)] == [dead.id for dead in found[:2]]
    assert await producer.dead("nobody's") == []


async def test_letters_are_found_by_what_they_are_like(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    for code in ("cut", "timeout"):
        for provider in ("groq", "echo"):
            await undertaker.bury(code=code, provider=provider)
    fields: Mapping[Any, Any] = DeadLetter(b"", "", "cut", "long ago", provider="groq").fields()
    await redis.xadd(keys.dead("ancient"), fields, id="5-1")
    assert len(await producer.dead(code="cut")) == 3
    assert len(await producer.dead(code="cut", provider="groq")) == 2
    for age in (3600, timedelta(hours=1)):
        (dead,) = await producer.dead(older_than=age)
        assert dead.letter.reason == "long ago"
    assert [dead.id for dead in await producer.find_dead("5-1", "5-2", "nobody")] == ["5-1"]


async def test_more_letters_than_a_page_are_all_found_and_none_twice(
    producer: Producer, undertaker: Undertaker
) -> None:
    count = 2 * PAGE + 1
    for number in range(count):
        await undertaker.bury(job_id=f"j{number}", code=str(number % 2))
    assert [dead.job_id for dead in await producer.dead(limit=None)] == [f"j{n}" for n in range(count)]
    assert [dead.job_id async for dead in producer.each_dead()] == [f"j{n}" for n in range(count)]
    assert len(await producer.dead(code="1", limit=PAGE)) == PAGE
    (found,) = await producer.find_dead(f"j{count - 1}")
    assert await producer.find_dead(found.id, found.job_id, found.id) == [found]
    assert found.job_id == f"j{count - 1}"


async def test_what_is_buried_while_one_looks_is_not_looked_at(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    """Jobs that die again as soon as they are retried must not keep `retry --all` busy for ever."""
    await undertaker.bury(job_id="first")
    seen = []
    async for dead in producer.each_dead():
        seen.append(dead.job_id)
        begun = await server_ms(redis)
        while await server_ms(redis) == begun:
            pass  # the next letter's id is to be of a later millisecond
        for _ in range(PAGE):
            await undertaker.bury(job_id="again")
    assert seen == ["first"]


async def test_queues_tell_what_is_delayed_and_dead(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    await undertaker.bury("only-dead")
    await producer.enqueue("x", provider="echo", queue="only-delayed", delay=60)
    await producer.enqueue("x", provider="echo", queue="usual")
    await redis.hset(keys.counts("only-dead"), "dead_dropped", 7)
    told = {q.name: (q.length, q.delayed, q.dead, q.dropped) for q in await producer.queues()}
    assert told == {"only-dead": (0, 0, 1, 7), "only-delayed": (0, 1, 0, 0), "usual": (1, 0, 0, 0)}


# -- a new life ------------------------------------------------------------------------------------------------


async def test_a_retried_job_is_answered_under_its_old_id(
    producer: Producer, undertaker: Undertaker, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    dead = await undertaker.failed("hello", id="mine", attempt=OLD_ATTEMPT, metadata={"user": 7})
    assert await producer.retry_dead(dead) is Retry.RETRIED
    status = await producer.status("mine")
    assert (status.status, status.attempts, status.finished_at, status.queue) == (
        "queued",
        0,
        None,
        "default",
    )
    (body,) = await queued(redis, keys)
    assert Job.decode(body).metadata == {"user": 7}
    assert await producer.dead() == []
    for key in (keys.log("mine"), keys.record("mine")):
        assert UNCONFIRMED_MS < await redis.pttl(key) <= UNFINISHED_MS
    await start_worker()
    events = [event async for event in producer.subscribe("mine")]
    assert [event.type for event in events] == ["queued", "started", "chunk", "chunk", "done"]
    assert (await producer.result("mine")).text == "hello"


@on_real_servers  # the imitation hangs up after a refusal
async def test_an_owner_of_the_old_life_is_refused_by_the_new_log(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    """G3: a worker that slept through the burial and the retry can add nothing."""
    dead = await undertaker.failed(id="mine", attempt=OLD_ATTEMPT)
    await producer.retry_dead(dead)
    with pytest.raises(ResponseError, match="equal or smaller"):
        await redis.xadd(keys.log("mine"), {"f": b"late"}, id=f"{OLD_ATTEMPT}-99", nomkstream=True)
    assert await redis.hget(keys.record("mine"), "attempt") == str(OLD_ATTEMPT).encode()
    assert await producer.cancel("mine") is Cancellation.CANCELLED
    events = [event async for event in producer.subscribe("mine")]
    assert [event.id for event in events] == ["0-1", f"{OLD_ATTEMPT + 1}-0"]


@on_real_servers
async def test_the_fence_is_above_the_clock_where_the_old_record_is_gone(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    dead = await undertaker.failed(id="mine")
    await redis.delete(keys.record("mine"), keys.log("mine"))
    before = (await redis.time())[0] * 1000
    assert await producer.retry_dead(dead) is Retry.RETRIED
    with pytest.raises(ResponseError, match="equal or smaller"):
        await redis.xadd(keys.log("mine"), {"f": b"late"}, id=f"{before}-99", nomkstream=True)


async def test_the_new_life_is_made_now_and_a_deadline_that_passed_does_not_end_it(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    dead = await undertaker.failed("x", deadline=-1)
    old = Job.decode(dead.letter.job)
    await producer.retry_dead(dead)
    (body,) = await queued(redis, keys)
    new = Job.decode(body)
    assert new.deadline is None
    assert new.created_at >= old.created_at
    assert old.model_copy(update={"deadline": None, "created_at": new.created_at}) == new
    kept = await undertaker.failed("x", deadline=3600, id="kept")
    await producer.retry_dead(kept)
    deadline = Job.decode(kept.letter.job).deadline
    assert Job.decode((await queued(redis, keys))[1]).deadline == deadline
    assert await redis.hget(keys.record("kept"), "deadline") == str(deadline).encode()


async def test_what_a_later_release_says_of_a_job_is_handed_on(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    body = unpack_map((await undertaker.failed(id="mine")).letter.job, max_bytes=MAX_JOB_BYTES)
    await redis.delete(keys.dead("default"))
    await undertaker.bury(job=pack(body | {"colour": "red"}), job_id="mine")
    (dead,) = await producer.dead()
    await producer.retry_dead(dead)
    (new,) = await queued(redis, keys)
    assert unpack_map(new, max_bytes=MAX_JOB_BYTES)["colour"] == "red"


@pytest.mark.parametrize("job", [b"", b"\xc1\xc1", b"\x81\xa2id\xa4mine"])
async def test_bytes_that_are_no_job_go_back_as_they_are(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys, prefix: str, job: bytes
) -> None:
    await undertaker.bury(job=job)
    (dead,) = await producer.dead()
    assert await producer.retry_dead(dead) is Retry.RETRIED
    assert await queued(redis, keys) == [job]
    record = {keys.record("mine"), keys.log("mine")} if job.endswith(b"mine") else set()
    stored = {key.decode() async for key in redis.scan_iter(match=f"{prefix}:*")}
    assert stored == {keys.jobs("default"), keys.dead("default"), *record}


# -- two at once, half done, too late ----------------------------------------------------------------------------


async def test_of_many_operators_one_retries(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    for number in range(10):
        dead = await undertaker.failed(id=f"j{number}")
        outcomes = await asyncio.gather(*(producer.retry_dead(dead) for _ in range(8)))
        assert outcomes.count(Retry.RETRIED) == 1
        assert len(await queued(redis, keys)) == number + 1
        assert await redis.hget(keys.record(f"j{number}"), "confirmed") == b"1"
        assert await redis.pttl(keys.record(f"j{number}")) > UNCONFIRMED_MS


@pytest.mark.parametrize("seed", range(40))
async def test_operators_who_retry_and_drop_one_letter_leave_one_job_or_nothing(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys, seed: int
) -> None:
    """Each at any of their steps, in every kind of order."""
    dead = await undertaker.failed(id="mine")

    async def work(link: Stepped) -> Any:
        drops = links.index(link) == 0 and seed % 2 == 0
        return await (drop_dead if drops else retry_dead)(link, keys, dead)

    links = [Stepped(producer._link) for _ in range(2 + seed % 3)]
    outcomes = await interleaved(links, work, seed)
    assert not [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    assert await redis.xlen(keys.dead("default")) == 0
    retried = outcomes.count(Retry.RETRIED)
    assert retried + outcomes.count(True) == 1
    assert len(await queued(redis, keys)) == retried
    if retried:
        assert await redis.hget(keys.record("mine"), "confirmed") == b"1"
        assert await redis.pttl(keys.record("mine")) > UNCONFIRMED_MS
    else:
        assert (await redis.hget(keys.record("mine"), "status")) in (None, b"failed")


async def test_a_letter_that_was_dropped_meanwhile_is_not_retried_and_nothing_is_left(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    dead = await undertaker.failed(id="mine")
    assert await producer.drop_dead(dead)
    assert not await producer.drop_dead(dead)
    outcomes = await asyncio.gather(*(producer.retry_dead(dead) for _ in range(5)))
    assert set(outcomes) == {Retry.GONE}
    assert await queued(redis, keys) == []
    assert await redis.exists(keys.record("mine"), keys.log("mine")) == 0


async def test_a_retry_that_died_half_way_is_finished_by_the_next(
    producer: Producer, undertaker: Undertaker, start_worker: StartWorker, keys: Keys
) -> None:
    dead = await undertaker.failed("hello", id="mine")
    life = _new_life(dead, 1_700_000_000_000)
    await producer._link.run(_revive(keys, life, dead, "token"))  # … and here it dies
    assert await producer.dead() == [dead]
    assert await producer.retry_dead(dead) is Retry.RETRIED
    await start_worker()
    assert (await producer.result("mine")).text == "hello"


@pytest.mark.parametrize("lost", LOST, ids=str)
async def test_a_lost_reply_neither_doubles_a_retry_nor_takes_it_for_another_operators(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys, lost: set[int]
) -> None:
    dead = await undertaker.failed(id="mine")
    producer._link._scripts = LosesReplies(producer._link._scripts, lost)  # type: ignore[assignment]
    assert await producer.retry_dead(dead) is Retry.RETRIED
    assert len(await queued(redis, keys)) == 1
    assert await redis.hget(keys.record("mine"), "confirmed") == b"1"


async def test_a_letter_that_was_dropped_though_the_reply_was_lost_was_dropped(
    producer: Producer, undertaker: Undertaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = await undertaker.failed(id="mine")
    delete, replies_lost = Redis.xdel, 1

    async def deletes_and_is_not_heard(redis: Redis, *which: Any) -> Any:
        nonlocal replies_lost
        deleted = await delete(redis, *which)
        if replies_lost:
            replies_lost -= 1
            raise RedisConnectionError("the reply was lost")
        return deleted

    monkeypatch.setattr(Redis, "xdel", deletes_and_is_not_heard)
    assert await producer.drop_dead(dead)
    assert not await producer.drop_dead(dead)


@pytest.mark.parametrize("status", ["queued", "running", "waiting"])
async def test_a_job_that_is_on_its_way_is_left_alone(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys, status: str
) -> None:
    dead = await undertaker.failed(id="mine")
    await redis.hset(keys.record("mine"), mapping={"status": status, "confirmed": 1})
    log = await redis.xrange(keys.log("mine"))
    assert await producer.retry_dead(dead) is Retry.KNOWN
    assert await producer.dead() == [dead]
    assert await redis.xrange(keys.log("mine")) == log


async def test_an_answer_that_a_retry_brought_is_not_deleted_by_who_comes_late(
    producer: Producer, undertaker: Undertaker, start_worker: StartWorker
) -> None:
    """Two operators list the letter; one retries it, the job is answered, and then the other retries it."""
    dead = await undertaker.failed("hello", id="mine")
    assert await producer.retry_dead(dead) is Retry.RETRIED
    await start_worker()
    assert (await producer.result("mine")).text == "hello"
    assert await producer.retry_dead(dead) is Retry.KNOWN
    assert (await producer.result("mine")).text == "hello"


async def test_an_answer_to_a_job_enqueued_anew_is_not_deleted(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    """The dead life's record had expired, so the id was free; the letter is older than what stands there now."""
    dead = await undertaker.failed(id="mine")
    now = (await redis.time())[0] * 1000
    await redis.hset(keys.record("mine"), mapping={"status": "done", "finished_at": now + 120_000})
    assert await producer.retry_dead(dead) is Retry.KNOWN
    assert (await producer.status("mine")).status == "done"


async def test_a_job_that_dies_in_its_second_life_can_have_a_third(
    producer: Producer, undertaker: Undertaker, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    first = await undertaker.failed("hello", id="mine")
    await producer.retry_dead(first)
    await redis.hset(keys.record("mine"), mapping={"status": "failed", "finished_at": 0})
    await redis.delete(keys.jobs("default"))
    await undertaker.bury(job=first.letter.job, job_id="mine")
    (second,) = await producer.dead()
    assert await producer.retry_dead(first) is Retry.KNOWN
    assert await producer.retry_dead(second) is Retry.RETRIED
    await start_worker()
    assert (await producer.result("mine")).text == "hello"


async def test_a_reader_of_the_old_life_has_its_end_and_a_new_one_the_new_life(
    producer: Producer, undertaker: Undertaker, start_worker: StartWorker
) -> None:
    dead = await undertaker.failed("hello", id="mine")
    with pytest.raises(JobFailed):
        await producer.result("mine")
    old = producer.subscribe("mine", "5-0")  # it goes on from the cursor at which the old life ended
    await producer.retry_dead(dead)
    await start_worker()
    assert [event.type async for event in old] == ["started", "chunk", "chunk", "done"]
    assert (await producer.result("mine")).text == "hello"


@on_real_servers
async def test_nothing_of_a_retry_is_written_where_the_queue_cannot_be(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    dead = await undertaker.failed(id="mine")
    await redis.delete(keys.jobs("default"))
    await redis.set(keys.jobs("default"), "no stream")
    with pytest.raises(Unavailable, match="WRONGTYPE"):
        await producer.retry_dead(dead)
    await redis.delete(keys.jobs("default"))
    assert await producer.dead() == [dead]
    assert await producer.retry_dead(dead) is Retry.RETRIED


async def test_a_new_life_whose_retry_never_came_is_gone_after_its_minute(
    producer: Producer, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    dead = await undertaker.failed(id="mine")
    await producer._link.run(_revive(keys, _new_life(dead, 1), dead, "token"))
    for key in (keys.log("mine"), keys.record("mine")):
        assert 0 < await redis.pttl(key) <= UNCONFIRMED_MS
        await redis.delete(key)  # its minute is over
    with pytest.raises(JobNotFound):
        await producer.status("mine")
    assert await producer.retry_dead(dead) is Retry.RETRIED
