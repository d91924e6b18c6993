"""The demo from beginning to end; its exit status is 0 only when every text came out as it was sent."""

import asyncio
import contextlib
import os
import secrets
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from demo.comparison import troubles
from demo.jobs import Track, ask_all
from demo.questions import QUESTIONS, openai_question
from demo.screen import Screen, screen_on_stdout
from demo.upstream import Upstream
from demo.workers import CONCURRENCY, NAMES, WorkerDied, Workers, all_there, two_workers
from producer import ChatRelayError, Producer
from producer.connection import embedded
from producer.connection.embedded import EmbeddedServer, NoEmbeddedServer

LIMIT = 60.0  # seconds for everything
CLOSING_LIMIT = 10.0  # seconds for stopping what was started, before it is stopped the hard way
PAUSE = 0.05  # seconds between two pieces of an answer

MakeUpstream = Callable[..., Upstream]


def main(make_upstream: MakeUpstream = Upstream, *, limit: float = LIMIT, pause: float = PAUSE) -> int:
    """Run the demo and return its exit status; tests have it quicker, or with an upstream that lies."""
    demonstration = _demonstrate(screen_on_stdout(), make_upstream, limit, pause)
    return asyncio.run(_to_the_end(demonstration, limit))


async def _demonstrate(screen: Screen, make_upstream: MakeUpstream, limit: float, pause: float) -> int:
    key = f"demo-{secrets.token_hex(8)}"
    tracks = _tracks()
    answers = {question.text: question.answer for question in QUESTIONS if question.answer is not None}
    async with (
        _folder() as folder,
        _own_server() as server,
        make_upstream(answers, {"groq": key}, pause=pause) as upstream,
        two_workers(server.url, upstream.url, folder, key=key, pause=pause) as workers,
        Producer(server.url) as producer,
    ):
        _introduce(screen, server, upstream, len(tracks))
        problems = await _perform(screen, producer, workers, tracks, limit)
        screen.summary(tracks, upstream.sent)
        problems += troubles(tracks, upstream.sent)
        return _conclude(screen, tracks, problems, workers.last_words())


def _tracks() -> list[Track]:
    extra = openai_question(os.environ)
    return [Track(question) for question in (*QUESTIONS, *([extra] if extra else []))]


@contextlib.asynccontextmanager
async def _folder() -> AsyncIterator[Path]:
    with tempfile.TemporaryDirectory(prefix="chatrelay-demo-") as folder:
        yield Path(folder)


@contextlib.asynccontextmanager
async def _own_server() -> AsyncIterator[EmbeddedServer]:
    # The thread cannot be stopped: whoever is interrupted here waits for the server, and ends it.
    starting = asyncio.ensure_future(asyncio.to_thread(embedded.start))
    try:
        await asyncio.wait([starting])
        yield starting.result()
    finally:
        server = await starting
        await asyncio.to_thread(server.stop)


def _introduce(screen: Screen, server: EmbeddedServer, upstream: Upstream, jobs: int) -> None:
    screen.say(f"stream    {server.url} ({server.kind})")
    screen.say(f"upstream  {upstream.url}")
    screen.say(f"workers   {' and '.join(NAMES)}, {CONCURRENCY} jobs each at a time")
    screen.say(f"jobs      {jobs}, enqueued together")
    screen.say("")


async def _perform(
    screen: Screen, producer: Producer, workers: Workers, tracks: Sequence[Track], limit: float
) -> list[str]:
    """Let the workers answer all jobs, then stop them; return what went wrong around the jobs."""

    async def play() -> None:
        await all_there(producer)
        with screen.watching(tracks):
            await ask_all(producer, tracks, screen.observe)

    try:
        async with asyncio.timeout(limit):
            await workers.guard(play())
        await workers.stop()
    except TimeoutError:
        return [f"not over within {limit:g} s"]
    except (WorkerDied, ChatRelayError) as error:
        return [str(error)]
    return []


def _conclude(screen: Screen, tracks: Sequence[Track], problems: Sequence[str], log: Sequence[str]) -> int:
    if not problems:
        compared = sum(track.question.compared for track in tracks)
        screen.say(f"All {compared} texts are, to the last character, what was sent.")
        return 0
    print(*log, sep="\n", file=sys.stderr)
    return _fail(*problems)


async def _to_the_end(work: Coroutine[Any, Any, int], limit: float) -> int:
    """Await ``work``. A signal cancels it, and so does the time limit; it ends when everything is stopped."""
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)
    received: list[int] = []

    def interrupt(number: int) -> None:
        received.append(number)
        task.cancel()
        loop.call_later(CLOSING_LIMIT, task.cancel)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt, number)
    loop.call_later(limit + CLOSING_LIMIT, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return 128 + received[0] if received else _fail("closing took too long")
    except NoEmbeddedServer as error:
        return _fail(str(error))


def _fail(*problems: str) -> int:
    for problem in problems:
        print(f"demo: {problem}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
