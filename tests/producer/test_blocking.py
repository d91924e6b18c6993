"""The blocking twin: the same verbs and the same promises, for threads, forks, notebooks and Ctrl-C."""

import asyncio
import gc
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

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
    Queued,
    QueueFull,
    ResultTimeout,
    Started,
    Unavailable,
)
from producer.blocking import Producer, TextStream
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.processes import PATIENCE, Ended, free_port, run
from tests.support.scribe import Scribe
from tests.support.servers import Server

JOB = "job-1"
QUEUED = Queued("0-1", "default")
STARTED = Started("100-0", 1, "echo", "w1")
WHOLE = [QUEUED, STARTED, Chunk("100-1", "one "), Chunk("100-2", "two"), Done("100-3", "stop", 7)]


@pytest.fixture
def blocking(server: Server, prefix: str) -> Iterator[Producer]:
    """One whose subscriptions do not look at the log by themselves within a test's time."""
    with Producer(server.url, prefix=prefix, idle_check=60) as client:
        yield client


@pytest.fixture
def scribe(redis: Redis, keys: Keys) -> Scribe:
    return Scribe(redis, keys, JOB)


def inside(blocking: Producer, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return blocking._session.thread.wait(work)


async def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() - {asyncio.current_task()}}


LISTENER = {"chatrelay-listener", "chatrelay-listener-speak", "chatrelay-listener-listen"}


async def until(fact: Callable[[], object]) -> None:
    """Return once ``fact()`` holds: for what another thread does, which no event tells."""
    async with asyncio.timeout(PATIENCE):
        while not fact():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.001)


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
        Producer(f"redis://127.0.0.1:{free_port()}", timeout=0.1, patience=0.1) as client,
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


# -- leaving ---------------------------------------------------------------------------------------------------


async def left_behind(blocking: Producer, redis: Redis, keys: Keys) -> tuple[set[str], set[str]]:
    """The tasks and the seats that are there besides those of one further reader, whose seat comes last."""
    gc.collect()
    await Scribe(redis, keys, "other").write(QUEUED)
    other = blocking.subscribe("other")
    await asyncio.to_thread(next, other)
    seats = blocking._session.client._listener.channels - {keys.events("other")}
    return await asyncio.to_thread(inside, blocking, tasks) - LISTENER, seats


async def test_a_reader_left_half_read_leaves_nothing_behind(
    blocking: Producer, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    await scribe.write(QUEUED)
    await scribe.write(*WHOLE[1:3])

    def use() -> None:
        for _ in blocking.subscribe(JOB):
            break
        for _ in blocking.text(JOB):
            break
        with blocking.subscribe(JOB) as subscription:
            next(subscription)
        kept.append(subscription)
        stream = blocking.text(JOB)
        next(stream)
        stream.close()
        assert list(stream) == []
        kept.append(stream)

    kept: list[object] = []
    await asyncio.to_thread(use)
    assert await left_behind(blocking, redis, keys) == (set(), set())


async def test_closing_a_subscription_ends_the_wait_of_another_thread(
    blocking: Producer, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    await scribe.write(QUEUED)
    subscription = blocking.subscribe(JOB)
    reading = asyncio.create_task(asyncio.to_thread(list, subscription))
    await until(lambda: subscription.cursor and subscription._fetching)
    await asyncio.to_thread(subscription.close)
    assert await reading == [QUEUED]
    assert await left_behind(blocking, redis, keys) == (set(), set())


async def test_closing_the_producer_is_told_to_who_waits(blocking: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    subscription = blocking.subscribe(JOB)
    reading = asyncio.create_task(asyncio.to_thread(list, subscription))
    asking = asyncio.create_task(asyncio.to_thread(blocking.result, JOB))
    await until(lambda: subscription.cursor and subscription._fetching)
    await asyncio.to_thread(blocking.close)
    for waiting in (reading, asking):
        with pytest.raises(Unavailable, match="closed"):
            await waiting


def test_a_closed_producer_refuses_each_verb_with_the_typed_error(server: Server, prefix: str) -> None:
    client = Producer(server.url, prefix=prefix)
    job = client.enqueue("x", queue="nobody")
    half_read = client.subscribe(job.id)
    next(half_read)
    thread = client._session.thread._thread
    assert thread is not None
    client.close()
    client.close()
    assert not thread.is_alive()
    for verb in (
        lambda: client.enqueue("x"),
        lambda: client.cancel(job.id),
        lambda: next(client.subscribe(job.id)),
        lambda: next(client.stream("x")),
        lambda: next(client.text(job.id)),
        lambda: client.result(job.id),
        lambda: client.status(job.id),
        lambda: client.queues(),
        lambda: next(half_read),
    ):
        with pytest.raises(Unavailable, match="closed"):
            verb()
    half_read.close()
    assert list(half_read) == []


def test_one_that_was_never_used_closes_without_a_word(server: Server) -> None:
    with Producer(server.url) as client:
        assert client._session.thread._thread is None
    with pytest.raises(Unavailable, match="closed"):
        client.queues()


def test_one_that_nobody_holds_any_more_ends_its_thread_and_connections(server: Server, prefix: str) -> None:
    client = Producer(server.url, prefix=prefix)
    subscription = client.subscribe(client.enqueue("x", queue="nobody").id)
    thread = client._session.thread._thread
    assert thread is not None
    del client
    gc.collect()
    assert next(subscription).type == "queued"  # whoever reads holds it
    del subscription
    gc.collect()
    thread.join(PATIENCE)
    assert not thread.is_alive()


# -- processes -------------------------------------------------------------------------------------------------

BEGIN = """
import gc, os, signal, sys, threading, time
from producer import Unavailable
from producer.blocking import Producer
def until(fact):
    while not fact():
        time.sleep(0.001)
producer = Producer({url!r}, prefix={prefix!r}, idle_check=60)
job = producer.enqueue("x", queue="nobody")
subscription = producer.subscribe(job.id)
next(subscription)
"""


def script(code: str, server: Server | None, prefix: str, *arguments: str, **variables: str) -> Ended:
    """Run BEGIN and ``code`` where every warning is an error and the interpreter's debug checks are on."""
    url = None if server is None else server.url
    # From Python 3.12 on, forking where there are threads is warned of by itself.
    options = ["-X", "dev", "-W", "error", "-W", "ignore:This process:DeprecationWarning"]
    source = BEGIN.format(url=url, prefix=prefix) + code
    return run([sys.executable, *options, "-c", source, *arguments], **variables)


FORK = """
heard = []
reading = threading.Thread(target=lambda: heard.extend(subscription))
reading.start()
until(lambda: subscription._fetching)
before_the_fork = producer.subscribe(job.id)
def connection():
    session = producer._session
    return session.thread.wait(lambda: session.client._link.ask(lambda redis: redis.client_id()))
same = connection()
child = os.fork()
if child == 0:
    try:
        next(before_the_fork)
    except Unavailable as error:
        print(error)
    before_the_fork.close()
    own = producer.enqueue("y", queue="nobody", id="the-child-s")
    events = producer.subscribe(own.id)
    print(next(events).type, producer.status(own.id).status, connection() != same)
    del subscription, before_the_fork
    gc.collect()
    print(producer.cancel(own.id).value, [event.type for event in events])
    if sys.argv[1:] == ["close"]:
        producer.close()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(producer.status("the-child-s").status, connection() == same)
print(producer.cancel(job.id).value)
reading.join()
print([event.type for event in heard])
"""


@pytest.mark.parametrize("closing", [["close"], []], ids=["closes", "forgets to close"])
def test_a_forked_child_begins_anew_and_its_parent_goes_on(
    server: Server, prefix: str, closing: list[str]
) -> None:
    ended = script(FORK, server, prefix, *closing)
    assert ended.lines == [
        "this reader was made before a fork: make a new one in this process",
        "queued queued True",
        "cancelled ['cancelled']",
        "7",
        "cancelled True",
        "cancelled",
        "['cancelled']",
    ]
    assert (ended.status, ended.err) == (0, "")


CLOSED_BY_THE_PARENT = """
import redis
ready, go = os.pipe()
child = os.fork()
if child == 0:
    os.close(go)
    os.read(ready, 1)
    os._exit(0)
producer.close()
channel = producer._session.client._keys.events(job.id)
onlooker = redis.Redis.from_url(os.environ["URL"])
until(lambda: onlooker.pubsub_numsub(channel)[0][1] == 0)
onlooker.close()
os.close(go)
os.waitpid(child, 0)
print("the server has seen the connection's end while the child lived")
"""


def test_a_child_that_does_nothing_keeps_none_of_the_parent_s_connections_open(
    server: Server, prefix: str
) -> None:
    ended = script(CLOSED_BY_THE_PARENT, server, prefix, URL=server.url)
    assert (ended.status, ended.err) == (0, "")
    assert "while the child lived" in ended.out


CLOSED_BEFORE = """
producer.close()
child = os.fork()
if child:
    os.waitpid(child, 0)
try:
    producer.queues()
except Unavailable as error:
    print(error, flush=True)
if child == 0:
    os._exit(0)
"""


def test_one_that_was_closed_before_the_fork_is_closed_in_the_child(valkey: Server, prefix: str) -> None:
    ended = script(CLOSED_BEFORE, valkey, prefix)
    assert (ended.status, ended.err) == (0, "")
    assert ended.lines == ["this Producer is closed: open it with `with Producer(...)`"] * 2


INTERRUPT = """
def interrupt():
    until(lambda: subscription._fetching)
    os.kill(os.getpid(), signal.SIGINT)
for _ in range(3):
    threading.Thread(target=interrupt).start()
    try:
        next(subscription)
    except KeyboardInterrupt:
        print("interrupted")
    until(lambda: not subscription._fetching)
threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
try:
    producer.result(job.id)
except KeyboardInterrupt:
    print("interrupted")
producer.cancel(job.id)
print([event.type for event in subscription])
"""


def test_ctrl_c_cancels_what_is_awaited_and_comes_through_and_reading_may_go_on(
    server: Server, prefix: str
) -> None:
    ended = script(INTERRUPT, server, prefix)
    assert ended.lines == [*["interrupted"] * 4, "['cancelled']"]
    assert (ended.status, ended.err) == (0, "")


def test_ctrl_c_that_nobody_catches_ends_the_process_as_usual(server: Server, prefix: str) -> None:
    ended = script(INTERRUPT.replace("except KeyboardInterrupt", "except ZeroDivisionError"), server, prefix)
    assert ended.status == -signal.SIGINT
    assert ended.err.endswith("\nKeyboardInterrupt\n")
    assert "Exception ignored" not in ended.err


FORGOTTEN = """
waiting = threading.Thread(target=list, args=(producer.subscribe(job.id),), daemon=True)
waiting.start()
asking = threading.Thread(target=producer.result, args=(job.id,), daemon=True)
threading.excepthook = lambda _: None  # both are told that the Producer was closed
asking.start()
until(lambda: len(producer._session.client._listener.channels) == 1)
print("bye")
"""


def test_the_interpreter_ends_at_once_and_quietly_where_close_was_forgotten(
    server: Server, prefix: str
) -> None:
    assert script("print('bye')", server, prefix) == Ended(0, "bye\n", "")
    assert script(FORGOTTEN, server, prefix) == Ended(0, "bye\n", "")


ENDED_IN_TIME = """
import atexit
producer.close()
atexit.register(lambda: print(sum(thread.name == "chatrelay-blocking" for thread in threading.enumerate())))
forgotten = Producer(os.environ["URL"])
forgotten.queues()
"""


def test_the_interpreter_s_exit_ends_the_thread_in_order(valkey: Server, prefix: str) -> None:
    # What was registered first runs last: by then the connections are closed and the thread is gone.
    assert script(ENDED_IN_TIME, valkey, prefix, URL=valkey.url) == Ended(0, "0\n", "")


def test_so_it_does_with_an_embedded_server(prefix: str, tmp_path: Path) -> None:
    ended = script("print('bye')", None, prefix, XDG_RUNTIME_DIR=str(tmp_path))
    assert ended == Ended(0, "bye\n", "")


EMBEDDED_FORK = """
folders = set(os.listdir(os.environ["TMPDIR"]))
child = os.fork()
if child == 0:
    producer.enqueue("y", queue="nobody", id="the-child-s")
    producer.close()
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(producer.status("the-child-s").status, set(os.listdir(os.environ["TMPDIR"])) == folders)
print(Producer(prefix=producer._session.client._keys.prefix).status(job.id).status)
"""


def test_a_child_leaves_the_parent_s_embedded_server_running(prefix: str, tmp_path: Path) -> None:
    ended = script(EMBEDDED_FORK, None, prefix, XDG_RUNTIME_DIR=str(tmp_path), TMPDIR=str(tmp_path))
    assert ended.lines == ["7", "queued True", "queued"]
