"""The main job in numbers: 200 jobs at once, 2 workers, 1,000 readers who join whenever they like."""

import asyncio
import random
import signal
from contextlib import ExitStack

from redis.asyncio import Redis

from producer import Event, Job, Producer
from producer.wire.keys import GROUP, Keys
from tests.conftest import on_real_servers
from tests.support.processes import worker
from tests.support.servers import Server

JOBS, CHUNKS, READERS = 200, 20, 5


class Pace:
    """How far a job's first reader has come, for the others to join at."""

    def __init__(self) -> None:
        self._seen = 0
        self._ended = False
        self._changed = asyncio.Condition()

    async def step(self, *, ended: bool) -> None:
        async with self._changed:
            self._seen += 1
            self._ended = ended
            self._changed.notify_all()

    async def reach(self, events: float) -> None:
        """Wait until the first reader has seen so many events, or the end."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._ended or self._seen >= events)


async def first_reader(producer: Producer, job: Job, pace: Pace) -> list[Event]:
    seen = []
    async for event in producer.subscribe(job.id):
        seen.append(event)
        await pace.step(ended=event.terminal)
    return seen


async def later_reader(producer: Producer, job: Job, pace: Pace, joins_at: float) -> list[Event]:
    await pace.reach(joins_at)
    return [event async for event in producer.subscribe(job.id)]


async def read_by_all(producer: Producer, job: Job, rng: random.Random) -> list[list[Event]]:
    pace = Pace()
    joins = [rng.choice([0, rng.randint(1, CHUNKS + 2), float("inf")]) for _ in range(READERS - 1)]
    later = [later_reader(producer, job, pace, joins_at) for joins_at in joins]
    return await asyncio.gather(first_reader(producer, job, pace), *later)


def text_of(number: int) -> str:
    return "".join(f"{number:03}{chunk:03}é☃" for chunk in range(CHUNKS))


@on_real_servers
async def test_every_one_of_a_thousand_readers_has_all_events_once_and_in_order(
    server: Server, producer: Producer, redis: Redis, keys: Keys, prefix: str
) -> None:
    rng = random.Random(7)
    with ExitStack() as stack:
        names = ("left", "right")
        workers = [
            stack.enter_context(worker(server.url, prefix, "--name", name, "--concurrency", "50"))
            for name in names
        ]
        options = {"chunk_size": 8, "delay": 0.01}
        jobs = await asyncio.gather(
            *(producer.enqueue(text_of(i), provider="echo", options=options) for i in range(JOBS))
        )
        transcripts = await asyncio.gather(*(read_by_all(producer, job, rng) for job in jobs))
        for number, readers in enumerate(transcripts):
            check_answer(readers[0], text_of(number))
            assert all(seen == readers[0] for seen in readers)
        started = [readers[0][1] for readers in transcripts]
        assert {event.worker for event in started} == set(names)
        for running in workers:
            running.signal(signal.SIGTERM)
        assert [running.ends().status for running in workers] == [0, 0]
    assert await redis.xlen(keys.jobs("default")) == 0
    assert (await redis.xpending(keys.jobs("default"), GROUP))["pending"] == 0
    left = {key.decode() async for key in redis.scan_iter(match=f"{prefix}:*", count=1000)} - {
        keys.jobs("default")
    }
    assert len(left) == 2 * JOBS
    assert all([await redis.pttl(key) > 0 for key in left])


def check_answer(events: list[Event], text: str) -> None:
    attempt = events[1].id.partition("-")[0]
    assert [event.id for event in events] == ["0-1", *(f"{attempt}-{seq}" for seq in range(CHUNKS + 2))]
    assert [event.type for event in events] == ["queued", "started", *["chunk"] * CHUNKS, "done"]
    assert "".join(event.text for event in events if event.type == "chunk") == text
