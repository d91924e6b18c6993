"""G5: a reader that leaves does not stop the job; a cancel does, from any process."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from producer import (
    Cancellation,
    Cancelled,
    Done,
    Event,
    Failed,
    JobCancelled,
    JobNotFound,
    Producer,
    ResultTimeout,
    Started,
    Waiting,
)
from producer.wire.keys import GROUP, Keys
from tests.conftest import StartWorker, on_real_servers
from tests.support.gated import Gate, gated_registry
from tests.support.lossy import LOST, LosesReplies
from tests.support.scribe import Scribe
from tests.support.transcripts import events_of
from worker.providers.provider import Provider
from worker.providers.registry import Registry


async def until_it_speaks(producer: Producer, job_id: str) -> None:
    """Return once the job has its first chunk."""
    async for event in producer.subscribe(job_id):
        if event.type == "chunk":
            return


async def test_a_waiting_job_ends_at_once_without_any_worker(producer: Producer) -> None:
    job = await producer.enqueue("x", provider="echo")
    assert await producer.cancel(job.id, reason="changed my mind") is Cancellation.CANCELLED
    last = (await events_of(producer, job.id))[-1]
    assert isinstance(last, Cancelled)
    assert (last.reason, last.upstream_closed) == ("changed my mind", True)
    assert (await producer.status(job.id)).status == "cancelled"


async def test_a_cancelled_waiting_job_never_starts(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="echo")
    await producer.cancel(job.id)
    worker = await start_worker()
    marker = await producer.enqueue("after", provider="echo")
    await producer.result(marker.id)
    await worker.idle()
    assert [type(event).__name__ for event in await events_of(producer, job.id)] == ["Queued", "Cancelled"]
    assert await redis.xlen(keys.jobs("default")) == 0


async def test_a_running_job_closes_its_upstream_and_ends(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    assert await producer.cancel(job.id, reason="enough") is Cancellation.REQUESTED
    last = (await events_of(producer, job.id))[-1]
    assert last == Cancelled(last.id, "enough", upstream_closed=True)
    assert (gate.calls, gate.closed, gate.open_calls) == (1, 1, 0)


async def test_a_cancel_reaches_whoever_waits_for_the_result(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    waiting = asyncio.create_task(producer.result(job.id))
    await gate.first_chunk_out.wait()
    await producer.cancel(job.id)
    with pytest.raises(JobCancelled) as caught:
        await waiting
    assert caught.value.text == "one "


async def test_too_late_is_said(producer: Producer, start_worker: StartWorker) -> None:
    await start_worker()
    job = await producer.enqueue("x", provider="echo")
    await producer.result(job.id)
    assert await producer.cancel(job.id) is Cancellation.FINISHED
    assert isinstance((await events_of(producer, job.id))[-1], Done)


async def test_unknown_is_said(producer: Producer) -> None:
    for wait in (None, 5):
        with pytest.raises(JobNotFound):
            await producer.cancel("nobody", wait=wait)


async def test_who_waits_is_told_that_a_running_job_was_cancelled(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    assert await producer.cancel(job.id, wait=30) is Cancellation.CANCELLED
    assert (await producer.status(job.id)).status == "cancelled"
    assert gate.open_calls == 0
    assert await producer.cancel(job.id, wait=30) is Cancellation.FINISHED


async def test_who_waits_for_a_job_that_nobody_runs_does_not_wait(producer: Producer) -> None:
    job = await producer.enqueue("x", provider="echo")
    assert await producer.cancel(job.id, wait=0) is Cancellation.CANCELLED


async def until_listened_to(redis: Redis, channel: str) -> None:
    while (await redis.pubsub_numsub(channel))[0][1] == 0:
        pass


async def running_by_hand(producer: Producer, redis: Redis, keys: Keys) -> tuple[str, Scribe]:
    """A job that a worker runs which never looks for a cancel; its log is the test's to write."""
    job = await producer.enqueue("x", provider="echo")
    await redis.hset(keys.record(job.id), mapping={"status": "running", "attempt": 5, "number": 1})
    return job.id, Scribe(redis, keys, job.id)


async def test_a_job_that_does_not_end_in_time_is_a_timeout_and_the_cancel_stands(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    job_id, _ = await running_by_hand(producer, redis, keys)
    with pytest.raises(ResultTimeout, match=r"within 0\.05 s; its cancel stands"):
        await producer.cancel(job_id, reason="enough", wait=0.05)
    assert await redis.get(keys.cancel(job_id)) == b"enough"


@pytest.mark.parametrize("first", [Started("5-0", 1, "echo", "w1"), None], ids=["started", "never started"])
@pytest.mark.parametrize(
    ("end", "outcome"),
    [
        (Done("5-1", "stop", 0), Cancellation.FINISHED),
        (Failed("5-1", "cut", "?", 1), Cancellation.FINISHED),
        (Cancelled("5-1", "enough", True), Cancellation.CANCELLED),
    ],
)
async def test_who_waits_is_told_which_end_it_came_to(
    producer: Producer, redis: Redis, keys: Keys, first: Event | None, end: Event, outcome: Cancellation
) -> None:
    job_id, scribe = await running_by_hand(producer, redis, keys)
    if first is None:
        end = replace(end, id="5-0")  # an attempt that never starts has its end there
    else:
        await scribe.write(first)
    waiting = asyncio.create_task(producer.cancel(job_id, wait=30))
    await until_listened_to(redis, keys.events(job_id))
    await scribe.write(end)
    assert await waiting is outcome


async def test_who_waits_goes_on_waiting_while_the_job_goes_to_another_attempt(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    job_id, scribe = await running_by_hand(producer, redis, keys)
    await scribe.log(Started("4-0", 1, "echo", "w1"))  # an earlier attempt, with a number right below
    await scribe.log(Started("5-0", 1, "echo", "w1"), Waiting("5-1", 0, "retry"))
    waiting = asyncio.create_task(producer.cancel(job_id, wait=30))
    await until_listened_to(redis, keys.events(job_id))
    await scribe.write(Cancelled("9-0", "enough", True))
    assert await waiting is Cancellation.CANCELLED


@pytest.mark.parametrize("lost", LOST, ids=str)
async def test_a_lost_reply_does_not_take_a_cancel_for_one_that_came_too_late(
    producer: Producer, lost: set[int]
) -> None:
    job = await producer.enqueue("x", provider="echo")
    producer._link._scripts = LosesReplies(producer._link._scripts, lost)  # type: ignore[assignment]
    assert await producer.cancel(job.id) is Cancellation.CANCELLED
    assert await producer.cancel(job.id) is Cancellation.FINISHED


async def test_cancelling_twice_is_too_late_the_second_time(producer: Producer) -> None:
    job = await producer.enqueue("x", provider="echo")
    assert await producer.cancel(job.id) is Cancellation.CANCELLED
    assert await producer.cancel(job.id) is Cancellation.FINISHED


async def test_a_reader_that_leaves_does_not_stop_the_job(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await until_it_speaks(producer, job.id)
    gate.open.set()
    assert (await producer.result(job.id)).text == "one two"


async def test_many_running_jobs_are_all_cancelled(producer: Producer, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    jobs = [await producer.enqueue("x", provider="gated") for _ in range(20)]
    for job in jobs:
        await until_it_speaks(producer, job.id)
    await asyncio.gather(*(producer.cancel(job.id) for job in jobs))
    ends = [(await events_of(producer, job.id))[-1] for job in jobs]
    assert all(isinstance(end, Cancelled) for end in ends)
    assert (gate.calls, gate.closed) == (20, 20)


async def test_a_cancel_at_any_moment_of_the_start_is_not_lost(
    producer: Producer, start_worker: StartWorker
) -> None:
    """Whether it comes before the claim, right after it, or to a running call: the job ends as cancelled."""
    gate = Gate()
    await start_worker(gated_registry(gate))
    jobs = [await producer.enqueue("x", provider="gated") for _ in range(20)]
    outcomes = await asyncio.gather(*(producer.cancel(job.id) for job in jobs))
    assert set(outcomes) <= {Cancellation.CANCELLED, Cancellation.REQUESTED}
    for job in jobs:
        assert isinstance((await events_of(producer, job.id))[-1], Cancelled)
    assert gate.open_calls == 0


@on_real_servers
async def test_a_lost_hint_is_made_up_for_when_the_channel_comes_back(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await redis.set(keys.cancel(job.id), "1", px=60_000)  # the mark stands, nobody was told
    await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert isinstance((await events_of(producer, job.id))[-1], Cancelled)


async def test_a_hint_for_an_earlier_life_does_not_stop_a_later_one(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    stale = b"\x84\xa4type\xa6cancel\xa2id\xd9\x20" + job.id.encode() + b"\xa7attempt\x01\xa6reason\xa1x"
    assert await redis.publish(keys.control("default"), stale) == 1
    for garbage in (b"", b"\xc1", b"\x81\xa4type\x01", b"\x90"):
        await redis.publish(keys.control("default"), garbage)
    gate.open.set()
    assert (await producer.result(job.id)).text == "one two"


async def test_after_a_cancel_nothing_is_left_in_the_queue(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    worker = await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await producer.cancel(job.id)
    await events_of(producer, job.id)
    await worker.idle()
    assert await redis.xlen(keys.jobs("default")) == 0
    assert (await redis.xpending(keys.jobs("default"), GROUP))["pending"] == 0
    assert await redis.exists(keys.cancel(job.id)) == 0
    for key in (keys.log(job.id), keys.record(job.id)):
        assert await redis.pttl(key) > 0


async def test_a_lost_hint_is_made_up_for_though_the_channel_stays(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate), check=0.05)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await redis.set(keys.cancel(job.id), "nobody was told", px=60_000)
    last = (await events_of(producer, job.id))[-1]
    assert last == Cancelled(last.id, "nobody was told", upstream_closed=True)


async def test_a_cancel_that_was_promised_wins_over_an_answer_that_is_whole(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate), check=60)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await redis.set(keys.cancel(job.id), "promised", px=60_000)
    gate.open.set()
    events = await events_of(producer, job.id)
    assert [type(event).__name__ for event in events] == ["Queued", "Started", "Chunk", "Chunk", "Cancelled"]
    assert [event.id.partition("-")[2] for event in events[1:]] == ["0", "1", "2", "3"]  # and no hole


async def test_a_provider_that_swallows_a_cancel_is_cancelled_again(
    producer: Producer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.stop._CLOSE_TIMEOUT", 30.0)  # it is given up no sooner
    swallowed = asyncio.Event()

    class Stubborn:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> AsyncIterator[str]:
            yield "one"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed.set()
            await asyncio.Event().wait()

    await start_worker(Registry([Provider("stubborn", "x", Stubborn, "", True, ())]))
    job = await producer.enqueue("x", provider="stubborn")
    await until_it_speaks(producer, job.id)
    await producer.cancel(job.id)
    last = (await events_of(producer, job.id))[-1]
    assert last == Cancelled(last.id, "requested", upstream_closed=True)
    assert swallowed.is_set()


async def test_a_provider_that_will_not_close_does_not_hold_its_job(
    producer: Producer, start_worker: StartWorker
) -> None:
    let_go = asyncio.Event()

    class NeverCloses:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> AsyncIterator[str]:
            yield "one"
            while not let_go.is_set():
                try:
                    await let_go.wait()
                except asyncio.CancelledError:
                    continue

    worker = await start_worker(Registry([Provider("open", "x", NeverCloses, "", True, ())]))
    job = await producer.enqueue("x", provider="open")
    await until_it_speaks(producer, job.id)
    await producer.cancel(job.id)
    last = (await events_of(producer, job.id))[-1]
    assert last == Cancelled(last.id, "requested", upstream_closed=False)
    await worker.idle()
    let_go.set()


async def test_a_cancelled_job_keeps_its_place_until_a_worker_meets_its_entry(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="echo")
    await producer.cancel(job.id)
    for key in (keys.log(job.id), keys.record(job.id)):
        assert await redis.pttl(key) > 24 * 3_600_000
    worker = await start_worker(retention=60)
    await producer.result((await producer.enqueue("after", provider="echo")).id)
    await worker.idle()
    for key in (keys.log(job.id), keys.record(job.id)):
        assert 0 < await redis.pttl(key) <= 60_000


async def test_a_cancel_without_a_word_of_reason_is_a_cancel(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await producer.cancel(job.id, reason="")
    last = (await events_of(producer, job.id))[-1]
    assert last == Cancelled(last.id, "requested", upstream_closed=True)


async def test_any_reason_is_told_but_not_at_any_length(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    await producer.cancel(job.id, reason="\ud800" + "x" * 100_000)
    last = (await events_of(producer, job.id))[-1]
    assert last == Cancelled(last.id, "?" + "x" * 499, upstream_closed=True)
