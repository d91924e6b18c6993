"""A worker's life: what it takes, how many, and how it stops (G10)."""

import asyncio
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import RedisError
from structlog.testing import capture_logs

from producer import Chunk, Done, JobFailed, Producer, Queued, Started, Waiting
from producer.wire.keys import GROUP, NOBODY, Keys
from tests.conftest import StartWorker, on_real_servers
from tests.support.facts import PATIENCE, until
from tests.support.gated import Gate, gated_registry
from worker import worker as worker_module
from worker.providers.base import Finish
from worker.providers.errors import Broken
from worker.providers.provider import Provider
from worker.providers.registry import Registry


async def types_of(producer: Producer, job_id: str) -> list[str]:
    return [event.type async for event in producer.subscribe(job_id)]


async def pending(redis: Redis, keys: Keys, queue: str = "default") -> int:
    """How many entries some worker holds."""
    consumers = (await redis.xpending(keys.jobs(queue), GROUP))["consumers"]
    return sum(int(consumer["pending"]) for consumer in consumers if consumer["name"] != NOBODY.encode())


async def test_it_takes_only_as_many_as_it_has_slots(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    jobs = [await producer.enqueue("x", provider="gated") for _ in range(10)]
    await start_worker(gated_registry(gate), concurrency=3)
    for job in jobs[:3]:
        async for event in producer.subscribe(job.id):
            if event.type == "chunk":
                break
    assert (gate.calls, await pending(redis, keys)) == (3, 3)
    gate.open.set()
    for job in jobs:
        assert (await producer.result(job.id)).text == "one two"


async def test_jobs_older_than_the_group_are_taken(producer: Producer, start_worker: StartWorker) -> None:
    job = await producer.enqueue("old", provider="echo")
    await start_worker()
    assert (await producer.result(job.id)).text == "old"


async def test_several_queues_are_served(producer: Producer, start_worker: StartWorker) -> None:
    await start_worker(queues=("a", "b", "c"))
    jobs = [await producer.enqueue(queue, provider="echo", queue=queue) for queue in "abcabc"]
    assert [(await producer.result(job.id)).text for job in jobs] == list("abcabc")


async def test_two_workers_share_the_queue(producer: Producer, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate), concurrency=2, name="left")
    await start_worker(gated_registry(gate), concurrency=2, name="right")
    jobs = [await producer.enqueue("x", provider="gated") for _ in range(4)]
    workers = []
    for job in jobs:
        async for event in producer.subscribe(job.id):
            if isinstance(event, Started):
                workers.append(event.worker)
                break
    assert sorted(workers) == ["left", "left", "right", "right"]
    gate.open.set()


async def test_after_the_end_nothing_is_left_but_what_expires(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, prefix: str
) -> None:
    worker = await start_worker(retention=60)
    job = await producer.enqueue("x", provider="echo")
    await producer.result(job.id)
    await worker.idle()
    assert await redis.xlen(keys.jobs("default")) == 0
    assert await pending(redis, keys) == 0
    left = {key.decode() async for key in redis.scan_iter(match=f"{prefix}:*")}
    assert left == {keys.jobs("default"), keys.log(job.id), keys.record(job.id)}
    assert 0 < await redis.pttl(keys.log(job.id)) <= 60_000
    assert 0 < await redis.pttl(keys.record(job.id)) <= 60_000


async def test_status_tells_who_does_what(producer: Producer, start_worker: StartWorker) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate), name="w7")
    job = await producer.enqueue("x", model="gated-model")
    assert (await producer.status(job.id)).status in {"queued", "running"}
    await gate.first_chunk_out.wait()
    running = await producer.status(job.id)
    told = (running.status, running.provider, running.model, running.worker, running.attempts)
    assert told == ("running", "gated", "gated-model", "w7", 1)
    (queue,) = await producer.queues()
    assert (queue.name, queue.length, queue.in_flight, queue.workers) == ("default", 0, 1, 1)
    gate.open.set()
    result = await producer.result(job.id)
    assert result.created_at is not None
    assert result.started_at is not None
    assert result.finished_at is not None
    assert result.created_at <= result.started_at <= result.finished_at
    assert (await producer.status(job.id)).ended


async def test_stopping_finishes_what_runs_and_takes_nothing_new(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    worker = await start_worker(gated_registry(gate), concurrency=1)
    running = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    worker.stop()
    waiting = await producer.enqueue("y", provider="gated")
    gate.open.set()
    assert (await producer.result(running.id)).text == "one two"
    await worker.stopped()
    assert (await producer.status(waiting.id)).status == "queued"
    assert gate.calls == 1
    assert await redis.xinfo_consumers(keys.jobs("default"), GROUP) == []


async def test_what_is_left_after_the_grace_time_is_handed_back_at_once(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate, other_gate = Gate(), Gate()
    worker = await start_worker(gated_registry(gate), grace=0.0, name="first")
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    worker.stop()
    await worker.stopped()
    assert (gate.closed, gate.open_calls) == (1, 0)
    assert (await producer.status(job.id)).status == "waiting"
    other_gate.open.set()
    await start_worker(gated_registry(other_gate), name="second")
    events = [event async for event in producer.subscribe(job.id)]
    assert [type(event) for event in events] == [
        Queued, Started, Chunk, Waiting, Started, Chunk, Chunk, Done
    ]  # fmt: skip
    waiting, second = events[3], events[4]
    assert isinstance(waiting, Waiting)
    assert isinstance(second, Started)
    assert (waiting.reason, second.number, second.worker) == ("released", 1, "second")


async def test_a_second_stop_does_not_wait_for_the_grace_time(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    worker = await start_worker(gated_registry(gate), grace=3600.0)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    worker.stop()
    worker.stop()
    await worker.stopped()
    assert gate.closed == 1
    assert (await producer.status(job.id)).status == "waiting"


async def test_a_worker_that_is_stopped_while_it_waits_for_redis_stops(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from worker.settings import Settings
    from worker.worker import Worker

    monkeypatch.setattr(worker_module, "_FIRST_PAUSE", 3600.0)
    worker = Worker(Settings(redis_url="redis://127.0.0.1:1", timeout=0.2), Registry([]))
    with capture_logs() as said:
        running = asyncio.create_task(worker.run())
        await until(lambda: [line for line in said if "waiting for it" in line["event"]])
        worker.stop()
        async with asyncio.timeout(PATIENCE):
            await running


async def test_a_group_that_vanished_is_made_again(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    await start_worker()
    first = await producer.enqueue("one", provider="echo")
    await producer.result(first.id)
    await redis.delete(keys.jobs("default"))
    second = await producer.enqueue("two", provider="echo")
    assert (await producer.result(second.id)).text == "two"


@on_real_servers
async def test_scripts_that_the_server_forgot_are_loaded_again(
    producer: Producer, start_worker: StartWorker, redis: Redis
) -> None:
    await start_worker()
    await producer.result((await producer.enqueue("one", provider="echo")).id)
    await redis.script_flush()
    assert (await producer.result((await producer.enqueue("two", provider="echo")).id)).text == "two"


@on_real_servers
async def test_cut_connections_lose_and_double_nothing(
    producer: Producer, start_worker: StartWorker, redis: Redis
) -> None:
    """G8: all but our own connection, again and again, while answers are written."""
    await start_worker(grace=30.0)
    text = "".join(f"{i} " for i in range(300))
    jobs = [await producer.enqueue(text, provider="echo", options={"delay": 0.001}) for _ in range(10)]
    results = asyncio.gather(*(producer.result(job.id) for job in jobs))
    while not results.done():
        await redis.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        await asyncio.wait([results], timeout=0.05)
    assert {result.text for result in await results} == {text}


async def test_a_provider_that_raises_anything_fails_its_job_only(
    producer: Producer, start_worker: StartWorker
) -> None:
    class Crashing:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield "text"
            raise KeyError("sk-secret")

    class NotEvenAnIterator:
        @classmethod
        def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            return 7

    class Wrong:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield object()

    classes = {"crashing": Crashing, "none": NotEvenAnIterator, "wrong": Wrong}
    registry = Registry(Provider(name, name, cls, "", True, ()) for name, cls in classes.items())
    await start_worker(registry)
    for name in classes:
        job = await producer.enqueue("x", provider=name)
        last = [event async for event in producer.subscribe(job.id)][-1]
        assert (last.type, getattr(last, "code", None)) == ("failed", "provider_crashed")
        assert "sk-secret" not in str(last)


@pytest.mark.parametrize("deadline", [-1, 0])
async def test_a_job_past_its_deadline_never_reaches_a_provider(
    producer: Producer, start_worker: StartWorker, deadline: float
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("x", provider="gated", deadline=deadline)
    assert await types_of(producer, job.id) == ["queued", "failed"]
    assert gate.calls == 0


async def test_several_queues_do_not_exceed_the_slots(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    queues = ("a", "b", "c", "d")
    worker = await start_worker(gated_registry(gate), queues=queues, concurrency=1, grace=0.0)
    jobs = await asyncio.gather(*(producer.enqueue("x", provider="gated", queue=queue) for queue in queues))
    await gate.first_chunk_out.wait()
    assert (gate.calls, worker.running) == (1, 1)
    worker.stop()
    await worker.stopped()
    assert gate.calls == 1
    # What it had taken and could not begin is back in its queue, untouched.
    assert sorted([(await producer.status(job.id)).status for job in jobs]) == ["queued"] * 3 + ["waiting"]
    assert [await pending(redis, keys, queue) for queue in queues] == [0, 0, 0, 0]
    assert [await redis.xlen(keys.jobs(queue)) for queue in queues] == [1, 1, 1, 1]


async def test_stopping_at_once_hands_back_what_is_just_being_claimed(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys
) -> None:
    gate = Gate()
    jobs = [await producer.enqueue("x", provider="gated") for _ in range(30)]
    worker = await start_worker(gated_registry(gate), concurrency=30)
    await gate.called.wait()  # the first of them is through its claim, the others come
    worker.stop()
    worker.stop()
    await worker.stopped()
    assert await pending(redis, keys) == 0
    assert await redis.xlen(keys.jobs("default")) == 30
    assert {(await producer.status(job.id)).status for job in jobs} <= {"queued", "waiting"}
    gate.open.set()
    await start_worker(gated_registry(gate), name="w2")
    assert {(await producer.result(job.id)).text for job in jobs} == {"one two"}


async def test_an_end_that_cannot_be_written_is_a_failure_and_not_silence(
    producer: Producer, start_worker: StartWorker
) -> None:
    """G1: whatever a provider does, its job ends."""

    class Huge:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield Finish("x" * 9_000_000)

    class Lone:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield ""
            raise Broken("\ud800" * 9_000)

    class Leaves:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield "text"
            raise GeneratorExit

    class WrongModels:
        models = (5,)

        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield "text"

    class UsesRedis:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield "text"
            raise RedisError("a Redis of its own is away")

    class Groups:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            async with asyncio.TaskGroup():
                yield object()

    classes = {"redis": UsesRedis, "groups": Groups, "huge": Huge, "lone": Lone, "leaves": Leaves}
    providers = [Provider(name, name, cls, "", True, ()) for name, cls in classes.items()]
    wrong = Provider("wrong", "wrong", WrongModels, "", True, WrongModels.models)  # type: ignore[arg-type]
    await start_worker(Registry([*providers, wrong]))
    codes = {}
    for name in classes:
        job = await producer.enqueue("x", provider=name)
        codes[name] = [event async for event in producer.subscribe(job.id)][-1].code
    job = await producer.enqueue("x", model="any")
    codes["wrong"] = [event async for event in producer.subscribe(job.id)][-1].code
    assert codes == {
        "redis": "provider_crashed",
        "groups": "provider_crashed",
        "huge": "provider_crashed",
        "lone": "upstream_error",
        "leaves": "provider_crashed",
        "wrong": "internal_error",
    }


@pytest.mark.parametrize("concurrency", [None, 1])
async def test_a_provider_that_breaks_off_before_its_answer_has_failed(
    producer: Producer, start_worker: StartWorker, concurrency: int | None
) -> None:
    class Stops:
        @classmethod
        def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            return next(iter(()))

    await start_worker(Registry([Provider("s", "s", Stops, "", True, (), concurrency=concurrency)]))
    job = await producer.enqueue("x", provider="s", max_attempts=1)
    with pytest.raises(JobFailed) as failed:
        await producer.result(job.id, timeout=5)
    assert failed.value.code == "provider_crashed"


async def test_the_grace_time_does_not_use_up_the_time_to_hand_back(
    producer: Producer, start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, redis: Redis, keys: Keys
) -> None:
    monkeypatch.setattr(worker_module, "_HAND_BACK_TIMEOUT", 0.5)
    gate = Gate()
    worker = await start_worker(gated_registry(gate), grace=1.0)
    job = await producer.enqueue("x", provider="gated")
    await gate.first_chunk_out.wait()
    worker.stop()
    await worker.stopped()
    assert (await producer.status(job.id)).status == "waiting"
    assert await pending(redis, keys) == 0


async def test_a_provider_that_makes_a_failure_of_its_stop_is_handed_back_all_the_same(
    producer: Producer, start_worker: StartWorker
) -> None:
    class Complains:
        @classmethod
        async def create_async_generator(cls, model: str, messages: Any, **_: Any) -> Any:
            yield "one"
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                raise Broken("somebody stopped me") from None

    worker = await start_worker(Registry([Provider("x", "x", Complains, "", True, ())]), grace=0.0)
    job = await producer.enqueue("x", provider="x")
    async for event in producer.subscribe(job.id):
        if event.type == "chunk":
            break
    worker.stop()
    await worker.stopped()
    assert (await producer.status(job.id)).status == "waiting"
