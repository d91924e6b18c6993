"""The other ways, each a process of its own on the worker's own loop and with its own provider class.

- ``direct``: calls the provider and takes every chunk; no queue. ``bytes``: the same call, not even parsed.
- ``drop``: takes jobs off the stream, calls the provider, drops every chunk, and publishes the end alone.
- ``poured``: the same, but has all parts of a read poured out at once, as chatrelay's worker has.
- ``publish``: the same, and ``await redis.publish(...)`` for each chunk.
- ``naive``: the same, and ``await redis.xadd(...); await redis.publish(...)`` for each chunk.

The last four have no fence, no events and no retries: they are the least that such a worker can be.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

import aiohttp
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis
from redis.exceptions import ResponseError

from benchmarks.delays import Delays
from benchmarks.orders import answer, orders, run
from benchmarks.plan import STAMP_DIGITS
from producer.wire.job import Job
from producer.wire.keys import FRAME_FIELD, GROUP, JOB_FIELD, Keys
from worker.providers.http import open_session
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.part_stream import PartStream

CALLING, QUEUED = ("direct", "bytes"), ("drop", "poured", "publish", "naive")
_DONE = b"\xa4type\xa4done"
_BLOCK_MS = 1000
MANY = 100  # jobs side by side, above which redis-py is faster with few connections
_STAMP = slice(1, 1 + STAMP_DIGITS)


def call(base_url: str, messages: list[dict[str, Any]], http: aiohttp.ClientSession) -> PartStream:
    """Call the provider as a worker does."""
    return OpenAICompatible.create_async_generator("m", messages, base_url=base_url, api_key="k", http=http)


# -- without a queue -------------------------------------------------------------------------------------------


Read = Callable[[str, str, Delays], Coroutine[Any, Any, None]]
"""Reads one answer: its prompt, the stream's name, and where its chunks are noted."""


async def make_calls(read: Read) -> None:
    """Make the calls that are ordered: ``ids`` of the streams, their ``prompt``, the ``ramp`` over which they begin.

    ``ends`` is answered when all have ended; any other order with the figures, and all is forgotten.
    """
    answer(ready=True)
    delays, handed = Delays(), dict[str, int]()
    running: list[asyncio.Task[None]] = []
    async for order in orders():
        if "ids" in order:
            async for name in paced(order["ids"], order["ramp"]):
                handed[name] = time.monotonic_ns()
                running.append(asyncio.create_task(read(order["prompt"], name, delays)))
            answer(begun=len(running))
        elif "ends" in order:
            await asyncio.gather(*running)
            answer(failures=delays.failures, last_end_at=delays.last_end_at)
        else:
            answer(**delays.report(**order, handed=handed))
            delays, handed, running = Delays(), {}, []


async def paced(names: list[str], ramp: float) -> AsyncIterator[str]:
    """Yield the names one by one, evenly over ``ramp`` seconds."""
    begins_at = time.monotonic()
    for number, name in enumerate(names):
        if (wait := begins_at + ramp * number / len(names) - time.monotonic()) > 0:
            await asyncio.sleep(wait)
        yield name


def note(delays: Delays, name: str, text: str) -> None:
    """Note a chunk's text, if it is stamped."""
    if text.startswith("@"):
        delays.chunk(name, int(text[_STAMP]), time.monotonic_ns())


async def take_all(base_url: str, way: str) -> None:
    """Call the provider without a queue."""
    async with open_session() as http:

        async def direct(prompt: str, name: str, delays: Delays) -> None:
            async for part in call(base_url, [{"role": "user", "content": prompt}], http):
                if isinstance(part, str):
                    note(delays, name, part)
            delays.end(time.monotonic_ns(), is_done=True)

        async def bare(prompt: str, _name: str, delays: Delays) -> None:
            body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "stream": True}
            async with http.post(f"{base_url}/chat/completions", json=body) as response:
                async for _ in response.content.iter_any():
                    pass
            delays.end(time.monotonic_ns(), is_done=True)

        await make_calls(direct if way == "direct" else bare)


# -- off the stream --------------------------------------------------------------------------------------------

Send = Callable[[str, bytes], Awaitable[object]]
ReadJob = Callable[[Job, PartStream], Awaitable[None]]


async def work(url: str, base_url: str, way: str, concurrency: int) -> None:
    """Take jobs off the stream until the process is terminated."""
    async with Redis.from_pool(pool(url, concurrency)) as redis, open_session() as http:
        read = poured if way == "poured" else partial(one_by_one, sender(redis, way))
        with contextlib.suppress(ResponseError):  # it is there
            await redis.xgroup_create(Keys().jobs("default"), GROUP, id="0", mkstream=True)
        answer(ready=True)
        running = set[asyncio.Task[None]]()
        while True:
            if len(running) == concurrency:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            room = concurrency - len(running)
            found = await redis.xreadgroup(GROUP, "w", {Keys().jobs("default"): ">"}, room, _BLOCK_MS)
            for entry, fields in _entries(found):
                task = asyncio.create_task(answer_job(redis, entry, fields, (base_url, http, read)))
                running.add(task)
                task.add_done_callback(running.discard)


def pool(url: str, concurrency: int) -> ConnectionPool:
    """Return the pool with which these ways do best: a connection for each job as long as they are few."""
    if concurrency <= MANY:
        return ConnectionPool.from_url(url, max_connections=MANY + 1)
    return BlockingConnectionPool.from_url(url, max_connections=16, timeout=None)


def _entries(read: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the entries of one read, in whichever protocol they came."""
    if isinstance(read, dict):
        return [entry for batches in read.values() for batch in batches for entry in batch]
    return [entry for _, entries in read or () for entry in entries]


def sender(redis: Redis, way: str) -> Send:
    """Return what is done with each chunk."""
    keys = Keys()

    async def drop(_job_id: str, _data: bytes) -> None:
        return None

    async def publish(job_id: str, data: bytes) -> None:
        await redis.publish(keys.events(job_id), data)

    async def naive(job_id: str, data: bytes) -> None:
        await redis.xadd(keys.log(job_id), {FRAME_FIELD: data})
        await redis.publish(keys.events(job_id), data)

    return {"drop": drop, "poured": drop, "publish": publish, "naive": naive}[way]


async def one_by_one(send: Send, job: Job, parts: PartStream) -> None:
    """Take the answer part by part, as whoever uses a provider's class does."""
    async for part in parts:
        if isinstance(part, str):
            await send(job.id, part.encode())


async def poured(_job: Job, parts: PartStream) -> None:
    """Have the answer poured out, and drop it."""
    await parts.pour(lambda _: True)


async def answer_job(
    redis: Redis,
    entry: bytes,
    fields: dict[bytes, bytes],
    means: tuple[str, aiohttp.ClientSession, ReadJob],
) -> None:
    base_url, http, read = means
    job = Job.decode(fields[JOB_FIELD.encode()])
    await read(job, call(base_url, job.messages, http))
    keys = Keys()
    await redis.publish(keys.events(job.id), _DONE)
    await redis.xack(keys.jobs("default"), GROUP, entry)
    await redis.xdel(keys.jobs("default"), entry)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("way", choices=[*CALLING, *QUEUED])
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--redis")
    parser.add_argument("--concurrency", type=int, default=64)
    given = parser.parse_args()
    if given.way in CALLING:
        run(take_all(given.upstream, given.way))
    else:
        run(work(given.redis, given.upstream, given.way, given.concurrency))


if __name__ == "__main__":
    main()
