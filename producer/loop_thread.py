"""A thread with an event loop of its own, where coroutines are awaited for callers that have none."""

import asyncio
import atexit
import logging
import os
import selectors
import threading
import weakref
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from producer.connection.tasks import end
from producer.errors import Unavailable

T = TypeVar("T")

logger = logging.getLogger("chatrelay.loop_thread")
logger.addHandler(logging.NullHandler())  # a library is silent unless its user wants to hear it

_LONGEST_FAREWELL = 2.0  # seconds that the interpreter's exit waits for it

_everywhere: "weakref.WeakSet[LoopThread]" = weakref.WeakSet()
_left_behind: list["LoopThread"] = []
"""What a fork brought here from the parent. Collecting it would run what the parent's coroutines do at their end."""


class LoopThread:
    """Starts with the first `wait`. ``farewell`` is awaited there at the end, which comes with `stop` or `close`.

    Any number of threads may wait at once, also ones with a running loop. After a fork, the child's copy is
    ``lost``: its thread is the parent's, and the child makes a new one.
    """

    def __init__(self, farewell: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self.lost = False
        """Whether this is the copy that a fork made."""
        self.closed = False
        self._farewell = farewell
        # Reentrant, because a signal's handler may come in between and ask for something as well.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._selector: selectors.PollSelector | None = None
        self._thread: threading.Thread | None = None
        _everywhere.add(self)

    def wait(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Await ``work()`` in the thread and return what it returns.

        Whatever interrupts the caller meanwhile, such as a KeyboardInterrupt, cancels it.

        Raises:
            Unavailable: closed, before or meanwhile.
        """
        call = _Call(work)
        try:
            self._submit(call)
            return call.result()
        except asyncio.CancelledError:
            raise Unavailable("this Producer was closed") from None
        finally:
            if not call.is_over:
                self._give_up(call)
            del call  # it holds the exception, whose traceback holds this frame: a circle

    def stop(self) -> None:
        """Begin to end, without waiting for it. Whoever still waits is told `Unavailable`."""
        with self._lock:
            if not self.closed and not self.lost and self._loop is not None:
                self._loop.call_soon_threadsafe(self._loop.stop)
            self.closed = True

    def close(self) -> None:
        """End, and return when the farewell is over."""
        with self._lock:
            if not self.closed and not self.lost and self._thread is None:
                self._start()  # nothing was ever asked, but a farewell there is
        self.stop()
        self._join(None)

    def _join(self, timeout: float | None) -> None:
        # The garbage collector, and so anybody's __del__, may run in the thread itself.
        if self._thread not in (None, threading.current_thread()) and not self.lost:
            self._thread.join(timeout)

    # -- the caller's side ---------------------------------------------------------------------------------

    def _submit(self, call: "_Call[Any]") -> None:
        # Under the lock, so that nothing is submitted behind the stop, where nobody would run it.
        with self._lock:
            self._check_usable()
            loop = self._loop or self._start()
            loop.call_soon_threadsafe(call.begin)

    def _give_up(self, call: "_Call[Any]") -> None:
        with self._lock:
            if self._loop is not None and not self.closed and not self.lost:
                self._loop.call_soon_threadsafe(call.cancel)

    def _check_usable(self) -> None:
        if self.closed:
            raise Unavailable("this Producer is closed: open it with `with Producer(...)`")
        if self.lost:
            raise Unavailable("this reader was made before a fork: make a new one in this process")
        if threading.current_thread() is self._thread:
            raise RuntimeError("a blocking call inside the Producer's own thread would wait for itself")

    def _start(self) -> asyncio.AbstractEventLoop:
        # Neither epoll nor whatever loop the process prefers: an epoll set is one for parent and child, so
        # that a child which merely tidies up its copies would take the parent's sockets out of it.
        selector = selectors.PollSelector()
        loop = asyncio.SelectorEventLoop(selector)
        thread = threading.Thread(target=self._serve, args=(loop,), name="chatrelay-blocking", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # too many threads, or the interpreter is ending
            loop.close()
            raise
        self._selector, self._loop, self._thread = selector, loop, thread
        atexit.register(self._end_with_the_interpreter)
        return loop

    def _end_with_the_interpreter(self) -> None:
        self.stop()
        self._join(_LONGEST_FAREWELL)

    # -- the thread's side ---------------------------------------------------------------------------------

    def _serve(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
            loop.run_until_complete(self._end())
        finally:
            loop.close()
            atexit.unregister(self._end_with_the_interpreter)

    async def _end(self) -> None:
        try:
            await self._farewell()
        except Exception:
            logger.debug("the farewell went wrong", exc_info=True)
        await end(*asyncio.all_tasks() - {asyncio.current_task()})
        await asyncio.get_running_loop().shutdown_asyncgens()

    # -- fork ----------------------------------------------------------------------------------------------

    def lose(self) -> None:
        """In a forked child: let go of all that is the parent's, without a word to the other ends."""
        self.lost = True
        self._lock = threading.RLock()
        _left_behind.append(self)
        atexit.unregister(self._end_with_the_interpreter)
        if self._loop is None or self._selector is None or self._loop.is_closed():
            return
        self._loop.set_exception_handler(lambda *_: None)
        # A TLS connection says goodbye when it is collected. Here it says so to nobody.
        nobody = os.open(os.devnull, os.O_RDWR)
        for key in list(self._selector.get_map().values()):
            os.dup2(nobody, key.fd, inheritable=False)
        os.close(nobody)


class _Call(Generic[T]):
    """Work for the thread, and a lock that its end opens.

    A bare lock, because the waiting of futures and conditions is Python code, which a signal's handler that raises
    may leave half done.
    """

    def __init__(self, work: Callable[[], Coroutine[Any, Any, T]]) -> None:
        self._work = work
        self._task: asyncio.Task[T] | None = None
        self._end = threading.Lock()
        self._end.acquire()

    @property
    def is_over(self) -> bool:
        return self._task is not None and self._task.done()

    def result(self) -> T:
        self._end.acquire()
        assert self._task is not None, "begin comes first"
        return self._task.result()

    def begin(self) -> None:
        self._task = asyncio.create_task(_await(self._work))
        self._task.add_done_callback(lambda _: self._end.release())

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()


async def _await(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    return await work()


def _lose_all() -> None:
    for thread in list(_everywhere):
        thread.lose()


os.register_at_fork(after_in_child=_lose_all)
