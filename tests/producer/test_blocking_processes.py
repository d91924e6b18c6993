"""The blocking twin in a process of its own: forks, Ctrl-C, and the interpreter's end."""

import signal
import sys
from pathlib import Path

import pytest

from tests.support.processes import Ended, run
from tests.support.servers import Server

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
try:
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
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
