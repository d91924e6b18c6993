"""The loop of a worker or a supervisor, and what stops it: signals, and the end of its lifeline."""

import asyncio
import signal
import threading
from typing import Any, Protocol, TypeVar

from worker.lifeline import when_cut

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

Ending = TypeVar("Ending", covariant=True)


class Stoppable(Protocol[Ending]):
    """What works until it is stopped; a second `stop` means: at once."""

    async def run(self) -> Ending:
        """Work until stopped."""

    def stop(self) -> None:
        """Stop."""


def note_early_signals() -> threading.Event:
    """Until the loop listens, a signal is only noted: an exception anywhere would leave behind what was started."""
    noted = threading.Event()
    for number in _STOP_SIGNALS:
        signal.signal(number, lambda *_: noted.set())
    return noted


def run_until_stopped(
    work: Stoppable[Ending], early_stop: threading.Event, *, fast: bool, orphaned_for: float | None = None
) -> Ending:
    """Run ``work`` and return how it ended.

    ``fast``: on uvloop, if that is there. ``orphaned_for``: stop also when standard input ends, the lifeline of a
    supervised worker, and live no longer than so many seconds after that.
    """

    async def main() -> Ending:
        loop = asyncio.get_running_loop()
        for number in _STOP_SIGNALS:
            loop.add_signal_handler(number, work.stop)
        if orphaned_for is not None:
            when_cut(work.stop, orphaned_for)
        if early_stop.is_set():
            work.stop()
        return await work.run()

    with asyncio.Runner(loop_factory=_fast_loop() if fast else None) as runner:
        return runner.run(main())


def _fast_loop() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
