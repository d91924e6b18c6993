"""The loop of a worker or a supervisor, and what stops it: signals, and the end of its lifeline."""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

from worker.lifeline import MARGIN, end_within, when_cut

HURRY = signal.SIGUSR1
"""How a supervisor tells a worker to hand back at once."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Ending = TypeVar("Ending", covariant=True)


class Stoppable(Protocol[Ending]):
    """What works until it is stopped; a second `stop` means: at once."""

    async def run(self) -> Ending:
        """Work until stopped."""

    def stop(self) -> None:
        """Stop."""


class _Supervised:
    """Stops a worker that has a supervisor, which says when to hurry.

    A service manager tells every process of a service to stop, and the supervisor tells its workers, too: two signals
    that mean one stop.
    """

    def __init__(self, work: Stoppable[Any]) -> None:
        self._work = work
        self._is_stopping = False

    def stop(self) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._work.stop()

    def hurry(self) -> None:
        self.stop()
        self._work.stop()


def note_early_signals() -> threading.Event:
    """Until the loop listens, a signal is only noted: an exception anywhere would leave behind what was started."""
    noted = threading.Event()
    for number in _heeded():
        signal.signal(number, lambda *_: noted.set())
    return noted


def _heeded() -> Iterator[signal.Signals]:
    """Yield the signals that stop us: not the end of the terminal, where ``nohup`` says that it is nothing to us."""
    for number in _STOP_SIGNALS:
        if number is not signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            yield number


class _Stops:
    """Stops the work at each signal, but once for the end of the terminal: the shell and the system both tell of it."""

    def __init__(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        self._was_told = False

    def hear(self, number: signal.Signals) -> None:
        if number is not signal.SIGHUP or not self._was_told:
            self._was_told = True
            self._stop()


def run_until_stopped(
    work: Stoppable[Ending],
    early_stop: threading.Event,
    *,
    fast: bool,
    orphaned_for: float | None = None,
    margin: float = MARGIN,
) -> Ending:
    """Run ``work`` and return how it ended.

    ``fast``: on uvloop, if that is there. ``orphaned_for``: stop also when standard input ends, the lifeline of a
    supervised worker, and live no longer than so many seconds after that. ``margin``: seconds after the work's end in
    which the process ends; without it, a provider that no cancel stops, or that keeps a thread, would keep it for ever.
    """

    async def main() -> Ending:
        loop, stop = asyncio.get_running_loop(), work.stop
        if orphaned_for is not None:
            supervised = _Supervised(work)
            stop = supervised.stop
            loop.add_signal_handler(HURRY, supervised.hurry)
            when_cut(stop, orphaned_for)
        stops = _Stops(stop)
        for number in _heeded():
            loop.add_signal_handler(number, stops.hear, number)
        if early_stop.is_set():
            stops.hear(signal.SIGTERM)
        try:
            return await work.run()
        finally:
            end_within(margin)

    with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
        return runner.run(main())


def _fast_loop() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
