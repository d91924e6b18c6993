"""The blocking twin: the same verbs and the same promises, for threads, forks, notebooks and Ctrl-C."""

import asyncio
import inspect
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from redis.asyncio import Redis

import producer
from producer import (
    AnswerRestarted,
    Cancellation,
    Cancelled,
    Chunk,
    Done,
    Event,
    Failed,
    InvalidCursor,
    InvalidJob,
    InvalidSetting,
    JobCancelled,
    JobFailed,
    JobNotFound,
    QueueFull,
    ResultTimeout,
    Started,
    Unavailable,
)
from producer.blocking import Producer, TextStream
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.gated import Gate, gated_registry
from tests.support.processes import PATIENCE
from tests.support.scribe import Scribe
from tests.support.servers import Server
from tests.support.twin import JOB, LISTENER, QUEUED, STARTED, WHOLE, inside, tasks
from worker.verify.servers import quiet_port

# -- the verbs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [name for name in vars(producer.Producer) if not name.startswith("_") and name != "aclose"]
)
def test_every_verb_is_there_with_the_same_parameters(name: str) -> None:
    theirs = inspect.signature(getattr(producer.Producer, name)).parameters
    assert inspect.signature(getattr(Producer, name)).parameters == theirs


def test_it_is_made_with_the_same_arguments() -> None:
    assert inspect.signature(Producer).parameters == inspect.signature(producer.Producer).parameters


async def test_a_job_is_enqueued_streamed_asked_for_and_listed(
    blocking: Producer, start_worker: StartWorker
) -> None:
    await start_worker()

    def use() -> None:
        job = blocking.enqueue("hello there", provider="echo", id="mine")
        assert job.id == "mine"
        result = blocking.result("mine", timeout=PATIENCE)
        assert (result.text, result.finish_reason) == ("hello there", "stop")
        assert blocking.status("mine").status == "done"
        assert [queue.name for queue in blocking.queues()] == ["default"]
        stream = blocking.stream("hello again", provider="echo")
        assert "".join(stream) == "hello again"
        assert stream.job is not None
        assert isinstance(stream.end, Done)
        assert "".join(blocking.text(stream.job.id)) == "hello again"
        types = [event.type for event in blocking.subscribe("mine")]
        assert types[:2] == ["queued", "started"]
        assert types[-1] == "done"

    await asyncio.to_thread(use)


def test_a_waiting_job_is_cancelled(blocking: Producer) -> None:
    job = blocking.enqueue("x", queue="nobody")
    assert blocking.cancel(job.id, reason="changed my mind") is Cancellation.CANCELLED
    assert isinstance(list(blocking.subscribe(job.id))[-1], Cancelled)
    with pytest.raises(JobCancelled, match="changed my mind"):
        blocking.result(job.id)


async def test_cancel_waits_for_the_end_of_a_running_job(
    blocking: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))

    def use() -> None:
        job = blocking.enqueue("x", model="gated-model")
        subscription = blocking.subscribe(job.id)
        assert [next(subscription).type for _ in range(2)] == ["queued", "started"]
        assert blocking.cancel(job.id, wait=PATIENCE) is Cancellation.CANCELLED
        assert blocking.status(job.id).status == "cancelled"
        assert blocking.cancel(job.id, wait=PATIENCE) is Cancellation.FINISHED

    await asyncio.to_thread(use)


async def test_cancel_does_not_wait_for_ever(
    blocking: Producer, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    job = blocking.enqueue("x", queue="nobody", id=JOB)
    await redis.hset(keys.record(job.id), mapping={"status": "running", "attempt": 100})
    assert blocking.cancel(job.id) is Cancellation.REQUESTED
    with pytest.raises(ResultTimeout):
        blocking.cancel(job.id, wait=0.01)


async def test_events_come_live_with_their_cursor_to_the_end(blocking: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    subscription = blocking.subscribe(JOB)
    assert (subscription.job_id, subscription.cursor, subscription.end) == (JOB, None, None)
    seen = [await asyncio.to_thread(next, subscription)]
    for event in WHOLE[1:]:
        await scribe.write(event)
        seen.append(await asyncio.to_thread(next, subscription))
        assert subscription.cursor == event.id
    assert seen == WHOLE
    assert subscription.end == WHOLE[-1]
    assert list(subscription) == []


async def test_events_that_are_ready_are_handed_out_without_asking_again(
    blocking: Producer, scribe: Scribe
) -> None:
    await scribe.log(*WHOLE[:1])
    await scribe.log(*WHOLE[1:])
    subscription = blocking.subscribe(JOB)
    assert await asyncio.to_thread(next, subscription) == WHOLE[0]
    assert subscription.cursor == WHOLE[0].id  # of what was handed out, not of what was fetched
    blocking.close()
    assert [next(subscription) for _ in WHOLE[1:]] == WHOLE[1:]


async def test_a_reader_goes_on_after_its_cursor(blocking: Producer, scribe: Scribe) -> None:
    for event in WHOLE:
        await scribe.log(event)

    def use() -> None:
        assert list(blocking.subscribe(JOB, after="100-1")) == WHOLE[3:]
        assert list(blocking.text(JOB, after="100-1")) == ["two"]
        assert list(blocking.text(JOB)) == ["one ", "two"]

    await asyncio.to_thread(use)


# -- errors ----------------------------------------------------------------------------------------------------


def test_errors_are_the_same_and_come_when_they_are_known(blocking: Producer, server: Server) -> None:
    with pytest.raises(InvalidSetting):
        Producer("http://localhost")
    with pytest.raises(InvalidJob):
        blocking.enqueue([])
    with pytest.raises(InvalidJob):
        blocking.stream("x", queue="not a name!")
    with pytest.raises(InvalidCursor):
        blocking.subscribe(JOB, after="nonsense")
    with pytest.raises(InvalidCursor):
        blocking.text(JOB, after="nonsense")
    for verb in (
        blocking.status,
        blocking.cancel,
        blocking.result,
        lambda job: next(blocking.subscribe(job)),
    ):
        with pytest.raises(JobNotFound):
            verb("nobody-s")
    job = blocking.enqueue("x", queue="nobody")
    with pytest.raises(ResultTimeout):
        blocking.result(job.id, timeout=0.01)


def test_a_full_queue_is_said(server: Server, prefix: str) -> None:
    with Producer(server.url, prefix=prefix, max_queue_length=1) as client:
        client.enqueue("x", queue="nobody")
        with pytest.raises(QueueFull):
            client.enqueue("y", queue="nobody")
        with pytest.raises(QueueFull):
            next(client.stream("y", queue="nobody"))


def test_a_redis_that_is_away_is_said_in_time() -> None:
    with (
        Producer(f"redis://127.0.0.1:{quiet_port()}", timeout=0.1, patience=0.1) as client,
        pytest.raises(Unavailable),
    ):
        client.enqueue("x")


async def test_a_failure_is_raised_after_the_text_before_it(blocking: Producer, scribe: Scribe) -> None:
    await scribe.log(*WHOLE[:1])
    await scribe.log(*WHOLE[1:3], Failed("100-2", "cut", "it was cut", 1))
    stream = blocking.text(JOB)
    assert await asyncio.to_thread(next, stream) == "one "
    for _ in range(2):
        with pytest.raises(JobFailed, match="it was cut"):
            await asyncio.to_thread(next, stream)


# -- text that no longer stands --------------------------------------------------------------------------------


ANEW = [Started("200-0", 2, "echo", "w2"), Chunk("200-1", "new"), Done("200-2", "stop", 3)]


async def begun_anew(scribe: Scribe, stream: TextStream) -> None:
    await scribe.write(QUEUED)
    await scribe.write(*WHOLE[1:3])
    assert await asyncio.to_thread(next, stream) == "one "
    await scribe.write(*ANEW)


async def test_on_restart_is_called_in_the_thread_that_reads(blocking: Producer, scribe: Scribe) -> None:
    restarts: list[tuple[int, int]] = []
    stream = blocking.text(JOB, on_restart=lambda keeps: restarts.append((keeps, threading.get_ident())))
    await begun_anew(scribe, stream)

    def use() -> None:
        assert list(stream) == ["new"]
        assert restarts == [(0, threading.get_ident())]

    await asyncio.to_thread(use)


async def test_on_restart_is_called_before_there_is_new_text(blocking: Producer, scribe: Scribe) -> None:
    told = threading.Event()
    stream = blocking.text(JOB, on_restart=lambda _: told.set())
    await scribe.write(QUEUED)
    await scribe.write(*WHOLE[1:3])
    assert await asyncio.to_thread(next, stream) == "one "
    going_on = asyncio.create_task(asyncio.to_thread(list, stream))
    await scribe.write(ANEW[0])
    assert await asyncio.to_thread(told.wait, PATIENCE)
    await scribe.write(*ANEW[1:])
    assert await going_on == ["new"]


async def test_without_on_restart_it_is_raised_and_reading_may_go_on(
    blocking: Producer, scribe: Scribe
) -> None:
    stream = blocking.text(JOB)
    await begun_anew(scribe, stream)
    with pytest.raises(AnswerRestarted) as caught:
        await asyncio.to_thread(next, stream)
    assert (caught.value.job_id, caught.value.keeps) == (JOB, 0)
    assert await asyncio.to_thread(list, stream) == ["new"]


async def test_an_error_in_on_restart_is_the_reader_s_who_may_go_on(
    blocking: Producer, scribe: Scribe
) -> None:
    def refuse(keeps: int) -> None:
        raise ValueError(keeps)

    stream = blocking.text(JOB, on_restart=refuse)
    await begun_anew(scribe, stream)
    with pytest.raises(ValueError, match="0"):
        await asyncio.to_thread(next, stream)
    assert await asyncio.to_thread(list, stream) == ["new"]


async def test_what_a_step_fetched_that_was_interrupted_is_there_for_the_next(
    blocking: Producer, scribe: Scribe
) -> None:
    stream, subscription = blocking.text(JOB), blocking.subscribe(JOB)
    await begun_anew(scribe, stream)
    for _ in range(3):  # the caller was interrupted after the thread was done and before it was told
        await asyncio.to_thread(inside, blocking, subscription._fetch)
        await asyncio.to_thread(inside, blocking, stream._fetch)
    with pytest.raises(AnswerRestarted):
        await asyncio.to_thread(next, stream)
    assert await asyncio.to_thread(list, stream) == ["new"]
    assert await asyncio.to_thread(list, subscription) == [*WHOLE[:3], *ANEW]


# -- threads and loops -----------------------------------------------------------------------------------------


async def test_twenty_threads_share_one_producer_and_its_connection(
    blocking: Producer, start_worker: StartWorker, redis: Redis
) -> None:
    await start_worker()

    def use(number: int) -> list[str]:
        words = f"the words of thread {number}"
        streamed = "".join(blocking.stream(words, provider="echo"))
        result = blocking.result(blocking.enqueue(words, provider="echo").id)
        return [streamed, result.text, words]

    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(20) as pool:
        answers = await asyncio.gather(*(loop.run_in_executor(pool, use, number) for number in range(20)))
    assert [{*answer} for answer in answers] == [{f"the words of thread {number}"} for number in range(20)]
    assert sum(thread.name == "chatrelay-blocking" for thread in threading.enumerate()) == 1
    assert await asyncio.to_thread(inside, blocking, tasks) <= LISTENER


async def test_threads_that_share_one_subscription_get_each_event_once(
    blocking: Producer, scribe: Scribe
) -> None:
    chunks = [Chunk(f"100-{number}", str(number)) for number in range(1, 301)]
    whole: list[Event] = [QUEUED, STARTED, *chunks, Done("100-301", "stop", 0)]
    await scribe.write(QUEUED)
    subscription = blocking.subscribe(JOB)
    reading = [asyncio.create_task(asyncio.to_thread(list, subscription)) for _ in range(4)]
    for event in whole[1:]:
        await scribe.write(event)
    shares = await asyncio.gather(*reading)
    assert sum(map(len, shares)) == len(whole)
    assert {event.id for share in shares for event in share} == {event.id for event in whole}


async def test_it_waits_where_a_loop_is_running_as_in_a_notebook(blocking: Producer) -> None:
    assert asyncio.get_running_loop().is_running()
    job = blocking.enqueue("x", queue="nobody")
    assert blocking.status(job.id).status == "queued"
    blocking.cancel(job.id)
    assert [event.type for event in blocking.subscribe(job.id)] == ["queued", "cancelled"]


async def test_inside_its_own_thread_it_refuses_instead_of_waiting_for_itself(blocking: Producer) -> None:
    async def misuse() -> None:
        with pytest.raises(RuntimeError, match="wait for itself"):
            blocking.queues()

    await asyncio.to_thread(inside, blocking, misuse)
