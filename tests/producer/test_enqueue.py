"""What `enqueue` writes, what it refuses, and what it does when it is cut off in the middle."""

import asyncio
import time
import traceback
from collections.abc import Awaitable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from producer import (
    Cancellation,
    InvalidJob,
    InvalidSetting,
    JobNotFound,
    Producer,
    QueueFull,
    Unavailable,
)
from producer.connection import Call
from producer.intake import new_job
from producer.submission import _accept, submit, withdraw
from producer.wire.job import MAX_JOB_BYTES, Job
from producer.wire.job_fields import MAX_MESSAGES
from producer.wire.keys import Keys
from producer.wire.lifetimes import UNCONFIRMED_MS, UNFINISHED_MS
from tests.conftest import StartWorker, on_real_servers
from tests.support.facts import until
from tests.support.lossy import LOST, LosesReplies
from tests.support.servers import Server
from tests.support.stepped import Stepped, interleaved
from worker.verify.servers import OwnServer

NOTHING_LEFT, ON_ITS_WAY = 1, 0


async def stored(redis: Redis, prefix: str) -> set[str]:
    """The names of all keys under ``prefix``."""
    return {key.decode() async for key in redis.scan_iter(match=f"{prefix}:*")}


async def queued_jobs(redis: Redis, stream: str) -> list[Job]:
    return [Job.decode(fields[b"job"]) for _, fields in await redis.xrange(stream)]


async def test_a_job_is_on_its_stream_as_it_was_returned(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "?"}]},
        ],
        provider=["a", "b"],
        model="m",
        queue="slow",
        temperature=0.1,
        options={"top_p": 0.5, "stop": ["x"]},
        timeouts={"total": 3},
        max_attempts=5,
        on_retry="continue",
        metadata={"user": 7},
        trace={"traceparent": "00-1-2-01"},
    )
    assert await queued_jobs(redis, keys.jobs("slow")) == [job]


async def test_plain_text_is_one_user_message(producer: Producer) -> None:
    job = await producer.enqueue("hello", provider="echo")
    assert job.messages == [{"role": "user", "content": "hello"}]


async def test_every_key_of_a_waiting_job_has_a_lifetime(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("hello", provider="echo")
    for key in (keys.log(job.id), keys.record(job.id)):
        assert UNFINISHED_MS - 60_000 < await redis.pttl(key) <= UNFINISHED_MS
    assert await stored(redis, keys.prefix) == {keys.log(job.id), keys.record(job.id), keys.jobs("default")}


async def test_a_job_with_a_late_deadline_lives_until_then(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("hello", provider="echo", deadline=timedelta(days=30))
    assert await redis.pttl(keys.record(job.id)) > 30 * 24 * 3_600_000


@pytest.mark.parametrize(
    ("deadline", "seconds"),
    [
        (90, 90),
        (0.5, 0.5),
        (timedelta(minutes=2), 120),
        (lambda: datetime.now(UTC) + timedelta(hours=1), 3600),
    ],
)
def test_a_deadline_is_seconds_a_timedelta_or_an_instant(deadline: Any, seconds: float) -> None:
    job = new_job("x", {"deadline": deadline() if callable(deadline) else deadline}).job
    assert job.deadline is not None
    assert abs(job.deadline / 1000 - (time.time() + seconds)) < 60


async def test_the_same_id_twice_is_one_job(producer: Producer, redis: Redis, keys: Keys) -> None:
    for _ in range(3):
        job = await producer.enqueue("hello", provider="echo", id="mine")
        assert job.id == "mine"
    assert await redis.xlen(keys.jobs("default")) == 1


async def test_the_same_id_from_many_callers_at_once_is_one_answer(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await asyncio.gather(*(producer.enqueue("hello", provider="echo", id="mine") for _ in range(20)))
    await start_worker()
    events = [event async for event in producer.subscribe("mine")]
    assert [event.type for event in events] == ["queued", "started", "chunk", "chunk", "done"]


async def test_an_ended_job_is_not_run_again_under_its_id(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker()
    first = [text async for text in producer.stream("one", provider="echo", id="mine")]
    again = [text async for text in producer.stream("two", provider="echo", id="mine")]
    assert "".join(first) == "".join(again) == "one"


async def test_what_a_producer_left_half_done_is_completed_by_the_next_caller(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await producer._link.run(accepting(keys, "token"))  # … and here it dies
    assert 0 < await redis.pttl(keys.record("mine")) <= UNCONFIRMED_MS
    await producer.enqueue("hello", provider="echo", id="mine")
    assert await redis.pttl(keys.record("mine")) > UNCONFIRMED_MS
    await start_worker()
    assert (await producer.result("mine")).text == "hello"


async def test_an_entry_that_was_added_twice_is_run_once(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("hello", provider="echo")
    await redis.xadd(keys.jobs("default"), {"job": job.encode()})
    await start_worker()
    await producer.result(job.id)
    marker = await producer.enqueue("after", provider="echo")
    await producer.result(marker.id)
    events = [event async for event in producer.subscribe(job.id)]
    assert [event.type for event in events] == ["queued", "started", "chunk", "chunk", "done"]


async def test_a_full_queue_refuses_and_nothing_is_written(server: Server, prefix: str, redis: Redis) -> None:
    async with Producer(server.url, prefix=prefix, max_queue_length=2) as producer:
        await producer.enqueue("1", provider="echo")
        await producer.enqueue("2", provider="echo")
        before = await stored(redis, prefix)
        for own_id in (None, "mine"):
            with pytest.raises(QueueFull) as caught:
                await producer.enqueue("3", provider="echo", id=own_id)
            assert (caught.value.queue, caught.value.length) == ("default", 2)
            assert 0 < caught.value.retry_after <= 30
        assert await stored(redis, prefix) == before
        with pytest.raises(JobNotFound):
            await producer.status("mine")


REFUSED: dict[str, tuple[Any, dict[str, Any]]] = {
    "messages": ([], {}),
    "messages[0]: role": ([{"role": "wizard", "content": "x"}], {}),
    "messages[1]: role is missing": ([{"role": "user", "content": "x"}, {"content": "x"}], {}),
    "messages[0]: content": ([{"role": "user", "content": 7}], {}),
    "messages[0]: a map": (["hello"], {}),
    "messages: text or a list": (b"hello", {}),
    "temperature": ("x", {"temperature": 2.1}),
    "temperature: ": ("x", {"temperature": float("nan")}),
    "options": ("x", {"options": {"a": object()}}),
    "options: ": ("x", {"options": {"a": float("inf")}}),
    "options: the key": ("x", {"options": {"a": {1: 2}}}),
    "timeouts.total": ("x", {"timeouts": {"total": 0}}),
    "timeouts.later": ("x", {"timeouts": {"later": 1}}),
    "max_attempts": ("x", {"max_attempts": 0}),
    "on_retry": ("x", {"on_retry": "pray"}),
    "deadline": ("x", {"deadline": datetime(2030, 1, 1)}),  # noqa: DTZ001 - what is refused
    "deadline: ": ("x", {"deadline": "tomorrow"}),
    "id": ("x", {"id": "with space"}),
    "queue": ("x", {"queue": "{braces}"}),
    "provider": ("x", {"provider": []}),
    "provider: ": ("x", {"provider": ["a b"]}),
    "model": ("x", {"model": ""}),
    "metadata": ("x", {"metadata": [1]}),
    "delay": ("x", {"delay": "soon"}),
    "delay: it is neg": ("x", {"delay": -1}),
    "delay: it leads": ("x", {"delay": timedelta(days=366 * 9000)}),
    "delay: cannot": ("x", {"delay": float("nan")}),
    "delay: it is given together": ("x", {"delay": 1, "at": datetime.now(UTC)}),
    "at": ("x", {"at": 5}),
    "at: a datetime without": ("x", {"at": datetime(2030, 1, 1)}),  # noqa: DTZ001 - what is refused
    "colour: no such field": ("x", {"colour": "red"}),
}


@pytest.mark.parametrize("named", REFUSED)
async def test_a_wrong_field_is_named_and_nothing_is_written(
    producer: Producer, redis: Redis, prefix: str, named: str
) -> None:
    messages, fields = REFUSED[named]
    with pytest.raises(InvalidJob) as caught:
        await producer.enqueue(messages, **fields)
    assert str(caught.value).startswith(named)
    assert "\n" not in str(caught.value)
    assert await stored(redis, prefix) == set()


async def test_half_a_surrogate_pair_is_refused(producer: Producer, redis: Redis, prefix: str) -> None:
    with pytest.raises(InvalidJob, match="surrogate"):
        await producer.enqueue("\ud83d", provider="echo")
    assert await stored(redis, prefix) == set()


async def test_too_large_a_job_is_refused_with_the_limit(
    producer: Producer, redis: Redis, prefix: str
) -> None:
    with pytest.raises(InvalidJob, match=f"{MAX_JOB_BYTES:,}"):
        await producer.enqueue("x" * MAX_JOB_BYTES, provider="echo")
    with pytest.raises(InvalidJob, match=str(MAX_MESSAGES)):
        await producer.enqueue([{"role": "user", "content": "x"}] * (MAX_MESSAGES + 1), provider="echo")
    assert await stored(redis, prefix) == set()


EVERY_PLANE = (
    "".join(chr(plane << 16 | 0x1234) for plane in range(17))
    + "שלום مرحبا 👩‍👩‍👧 日本語 \u202eabc\u202c \x00\r\n"
)


@pytest.mark.parametrize(
    "text", ["x" * 1024 * 1024, EVERY_PLANE * 100, "é" * 524_288], ids=["1 MiB", "every plane", "1 MiB of é"]
)
async def test_large_and_strange_text_goes_through_unchanged(
    producer: Producer, start_worker: StartWorker, text: str
) -> None:
    await start_worker()
    job = await producer.enqueue(text, provider="echo", options={"chunk_size": 1024 * 1024})
    assert (await producer.result(job.id)).text == text


async def test_a_thousand_messages_go_through_unchanged(
    producer: Producer, start_worker: StartWorker
) -> None:
    await start_worker()
    messages = [{"role": "assistant" if i % 2 else "user", "content": f"message {i}"} for i in range(999)]
    job = await producer.enqueue(messages, provider="echo")
    assert (await producer.result(job.id)).text == "message 998"
    assert job.messages == messages


async def test_an_unreachable_redis_is_said_within_the_timeout() -> None:
    loop = asyncio.get_running_loop()
    async with Producer("redis://:secret@127.0.0.1:1", timeout=0.3) as producer:
        for call in (
            producer.enqueue("x"),
            producer.status("x"),
            producer.cancel("x"),
            anext(producer.subscribe("x")),
        ):
            began = loop.time()
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1") as caught:
                await call
            assert loop.time() - began < 3  # ten times the timeout: a machine may be slow, but not that slow
            assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    ["http://x", "redis://h:port", "localhost:6379", "", "redis://h?foo=1", "redis://h?ssl_cert_reqs=none"],
)
def test_a_url_that_is_none_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_REDIS_URL", url or "nonsense")
    with pytest.raises(InvalidSetting):
        Producer(url or None)


def test_a_prefix_with_braces_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="prefix"):
        Producer("redis://localhost", prefix="{x}")


@pytest.mark.parametrize("own_id", [None, "mine"])
@pytest.mark.parametrize("delay", [0, 60])
@pytest.mark.parametrize("lost", LOST, ids=str)
async def test_a_lost_reply_neither_doubles_a_job_nor_takes_it_for_refused(
    server: Server, prefix: str, redis: Redis, keys: Keys, own_id: str | None, delay: int, lost: set[int]
) -> None:
    """G11: `QueueFull` means that nothing was written; an entry of our own is no reason for it."""
    async with Producer(server.url, prefix=prefix, max_queue_length=1) as producer:
        producer._link._scripts = LosesReplies(producer._link._scripts, lost)  # type: ignore[assignment]
        job = await producer.enqueue("x", provider="echo", id=own_id, delay=delay)
        queued = [job.id for job in await queued_jobs(redis, keys.jobs("default"))]
        later = [Job.decode(body).id for body in await redis.zrange(keys.later("default"), 0, -1)]
        assert (later if delay else queued) == [job.id]
        assert len(queued + later) == 1
        assert (await producer.status(job.id)).status == "queued"


@pytest.mark.parametrize("own_id", [None, "mine"])
async def test_a_full_queue_does_not_deny_a_job_whose_reply_was_lost_and_that_stands_further_back(
    server: Server, prefix: str, redis: Redis, keys: Keys, own_id: str | None
) -> None:
    """More have come since than are looked at: it may be there twice, which the claim recognises, but it is there."""
    lost = {1} if own_id is None else {2}
    async with Producer(server.url, prefix=prefix, max_queue_length=1000) as producer:
        runner = LosesReplies(producer._link._scripts, lost)
        producer._link._scripts = runner  # type: ignore[assignment]
        results = runner._results

        async def results_and_others_come(coming: Awaitable[list[Any]]) -> list[Any]:
            try:
                return await results(coming)
            except RedisConnectionError:
                async with redis.pipeline(transaction=False) as pipe:
                    for _ in range(1000):
                        pipe.xadd(keys.jobs("default"), {"job": b"another"})
                    await pipe.execute()
                raise

        runner._results = results_and_others_come  # type: ignore[method-assign]
        job = await producer.enqueue("x", provider="echo", id=own_id)
        assert (await producer.status(job.id)).status == "queued"


def accepting(keys: Keys, token: str) -> Call:
    """The first step of a producer that enqueues the job `mine`."""
    return _accept(keys, new_job("x", {"id": "mine", "provider": "echo"}), token, UNCONFIRMED_MS)


async def test_who_finds_the_queue_full_does_not_take_back_what_another_has_queued(
    producer: Producer, keys: Keys
) -> None:
    await producer._link.run(accepting(keys, "other-one"))
    await producer.enqueue("x", provider="echo", id="mine")
    assert await withdraw(producer._link, keys, "mine", "other-one") == ON_ITS_WAY
    assert (await producer.status("mine")).status == "queued"


async def test_who_finds_the_queue_full_leaves_the_job_to_one_that_is_still_enqueueing_it(
    server: Server, prefix: str, producer: Producer, keys: Keys
) -> None:
    """The other one is between its two steps: it may yet find room."""
    await producer.enqueue("in the way", provider="echo")
    await producer._link.run(accepting(keys, "other-one"))
    async with Producer(server.url, prefix=prefix, max_queue_length=1) as refused:
        with pytest.raises(QueueFull):
            await refused.enqueue("x", provider="echo", id="mine")
    assert (await producer.status("mine")).status == "queued"
    assert await withdraw(producer._link, keys, "mine", "other-one") == NOTHING_LEFT
    with pytest.raises(JobNotFound):
        await producer.status("mine")


async def test_nothing_is_left_of_a_job_that_a_full_server_refuses(prefix: str) -> None:
    async with OwnServer() as own, Producer(own.url, prefix=prefix) as producer:
        await producer.enqueue("before", provider="echo")
        async with Redis.from_url(own.url) as redis:
            before = sorted(await redis.keys())
            await own.be_full()
            for fields in ({}, {"id": "mine"}):
                with pytest.raises(Unavailable, match="maxmemory"):
                    await producer.enqueue("x", provider="echo", **fields)
            await own.have_room()
            assert sorted(await redis.keys()) == before


async def test_of_many_callers_that_a_full_queue_refuses_nothing_is_left(
    server: Server, prefix: str, redis: Redis
) -> None:
    """G11: one own id, many callers at once, all refused: the last one takes the job back."""
    async with Producer(server.url, prefix=prefix, max_queue_length=1) as producer:
        await producer.enqueue("in the way", provider="echo")
        before = await stored(redis, prefix)
        for _ in range(5):
            calls = (producer.enqueue("x", provider="echo", id="mine") for _ in range(12))
            refusals = await asyncio.gather(*calls, return_exceptions=True)
            assert [type(refusal) for refusal in refusals] == [QueueFull] * 12
            assert await stored(redis, prefix) == before


@pytest.mark.parametrize("seed", range(40))
async def test_callers_of_one_id_at_a_queue_with_little_room_end_with_one_job_or_none(
    producer: Producer, redis: Redis, keys: Keys, seed: int
) -> None:
    """G11, in every kind of order: some of the callers find room, some do not, at any of their steps."""
    for number in range(2):
        await redis.xadd(keys.jobs("default"), {"job": f"in the way {number}"})

    async def enqueue(link: Stepped) -> None:
        bound = 2 + links.index(link) % 2  # one caller out of two finds a place
        new = new_job("x", {"id": "mine", "provider": "echo"})
        await submit(link, keys, new, bound=bound)

    links = [Stepped(producer._link) for _ in range(2 + seed % 4)]
    outcomes = await interleaved(links, enqueue, seed)
    assert all(outcome is None or isinstance(outcome, QueueFull) for outcome in outcomes)
    entries = await redis.xlen(keys.jobs("default")) - 2
    assert entries == 1 or not any(outcome is None for outcome in outcomes)
    assert await redis.hget(keys.record("mine"), "confirmed") == (b"1" if entries else None)
    if entries:
        assert await redis.pttl(keys.record("mine")) > UNCONFIRMED_MS
    else:
        assert await redis.exists(keys.record("mine"), keys.log("mine")) == 0


async def test_a_stream_whose_first_step_is_cancelled_is_still_one_job(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    reading = producer.stream("x", provider="echo")
    for _ in range(5):
        step = asyncio.ensure_future(anext(reading))
        await asyncio.sleep(0)
        step.cancel()
        await asyncio.wait([step])
    step = asyncio.ensure_future(anext(reading))
    await until(lambda: redis.exists(keys.jobs("default")))
    step.cancel()
    await asyncio.wait([step])
    assert len({job.id for job in await queued_jobs(redis, keys.jobs("default"))}) == 1


@pytest.mark.parametrize("job_id", ["\ud800", "", "with space", "{braces}", "x" * 1000])
async def test_an_id_that_no_job_can_have_is_not_found_and_disturbs_nobody(
    producer: Producer, job_id: str
) -> None:
    for call in (producer.status, producer.cancel, producer.result):
        with pytest.raises(JobNotFound):
            await call(job_id)
    with pytest.raises(JobNotFound):
        producer.subscribe(job_id)
    job = await producer.enqueue("x", provider="echo")
    assert (await anext(producer.subscribe(job.id))).type == "queued"


@pytest.mark.parametrize(
    "url",
    [
        "redis://me:hunter/2@h:1",
        "redis://me:hunter#2@h:1",
        "redis://me:hunter?2@h:1",
        "redis:hunter2@h",
        "redis://u:hunter？2@h:1",
        "redis://u:[hunter]2@h:1",
        "redis://me:hunter2@h:port",
        "redis://me:hunter2@h:1/abc",
        "redis://:hunter2",
        "redis://me:hunter2%40h:6379",
        "hunter2",
        "me:hunter2",
        "redis:hunter2",
    ],
)
def test_no_part_of_a_password_is_shown(url: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        Producer(url)
    assert "hunter" not in "".join(traceback.format_exception(caught.value))


@on_real_servers  # the imitation hangs up after a refusal, which looks like an outage
async def test_a_refusal_is_told_at_once(producer: Producer, redis: Redis, keys: Keys) -> None:
    job = await producer.enqueue("x", provider="echo")
    await redis.delete(keys.log(job.id))
    await redis.set(keys.log(job.id), "no stream")
    async with asyncio.timeout(20):  # far less than the patience with a Redis that is away
        with pytest.raises(Unavailable, match="WRONGTYPE"):
            await anext(producer.subscribe(job.id))


async def test_nothing_is_left_of_a_closed_producer(server: Server, prefix: str) -> None:
    before = asyncio.all_tasks()
    async with Producer(server.url, prefix=prefix) as producer:
        jobs = [await producer.enqueue("x", provider="echo") for _ in range(5)]
        readers = [asyncio.ensure_future(producer.result(job.id)) for job in jobs]
        await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await anext(producer.subscribe(jobs[0].id))
    for outcome in await asyncio.gather(*readers, return_exceptions=True):
        assert isinstance(outcome, Unavailable)
    assert asyncio.all_tasks() - before == set()


async def test_a_record_that_others_filled_is_told_as_far_as_it_can_be(
    producer: Producer, redis: Redis, keys: Keys
) -> None:
    job = await producer.enqueue("x", provider="echo")
    await redis.hset(keys.record(job.id), mapping={"created_at": 2**53 - 1, "number": "many", "attempt": "-"})
    status = await producer.status(job.id)
    assert (status.created_at, status.attempts) == (None, 0)
    assert await producer.cancel(job.id) is Cancellation.CANCELLED


@pytest.mark.parametrize("option", ["protocol=3", "decode_responses=true", "socket_timeout=0.1"])
def test_a_url_does_not_change_what_the_code_counts_on(option: str) -> None:
    with pytest.raises(InvalidSetting, match=option.partition("=")[0]):
        Producer(f"redis://localhost?{option}")
