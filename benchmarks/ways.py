"""The other ways, each a process of its own on the worker's own loop and with its own provider class.

- ``direct``: calls the provider and takes every chunk; no queue. ``bytes``: the same call, not even parsed.
- ``drop``: takes jobs off the stream, calls the provider, drops every chunk, and publishes the end alone.
- ``publish``: the same, and ``await redis.publish(...)`` for each chunk.
- ``naive``: the same, and ``await redis.xadd(...); await redis.publish(...)`` for each chunk.

The last three have no fence, no events and no retries: they are the least that such a worker can be.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
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

CALLING, QUEUED = ("direct", "bytes"), ("drop", "publish", "naive")
_DONE = b"\xa4type\xa4done"
_BLOCK_MS = 1000
MANY = 100  # jobs side by side, above which redis-py is faster with few connections
_STAMP = slice(1, 1 + STAMP_DIGITS)


def call(base_url: str, messages: list[dict[str, Any]], http: aiohttp.ClientSession) -> AsyncIterator[object]:
    """Call the provider as a worker does."""
    return OpenAICompatible.create_async_generator("m", messages, base_url=base_url, api_key="k", http=http)


# -- without a queue -------------------------------------------------------------------------------------------


async def take_all(base_url: str, way: str) -> None:
    """Make the calls that are ordered: a prompt, how many, and the seconds over which they begin."""
    async with open_session() as http:
        answer(ready=True)
        delays, handed = Delays(), dict[str, int]()
        running: list[asyncio.Task[None]] = []
        read = read_direct if way == "direct" else read_bytes
        async for order in orders():
            if "prompt" in order:
                messages = [{"role": "user", "content": order["prompt"]}]
                begins_at = time.monotonic()
                for number in range(order["streams"]):
                    due = begins_at + order["ramp"] * number / order["streams"]
                    if (wait := due - time.monotonic()) > 0:
                        await asyncio.sleep(wait)
                    name = str(number)
                    handed[name] = time.monotonic_ns()
                    running.append(asyncio.create_task(read(base_url, messages, http, (delays, name))))
                answer(begun=len(running))
            elif "ends" in order:
                await asyncio.gather(*running)
                answer(failures=delays.failures, last_end_at=delays.last_end_at)
            else:
                answer(**delays.report(**{**order, "handed": handed}))
                delays, handed, running = Delays(), {}, []


async def read_direct(
    base_url: str, messages: list[dict[str, Any]], http: aiohttp.ClientSession, noted: tuple[Delays, str]
) -> None:
    delays, name = noted
    async for part in call(base_url, messages, http):
        if isinstance(part, str) and part[0] == "@":
            delays.chunk(name, int(part[_STAMP]), time.monotonic_ns())
    delays.end(time.monotonic_ns(), is_done=True)


async def read_bytes(
    base_url: str, messages: list[dict[str, Any]], http: aiohttp.ClientSession, noted: tuple[Delays, str]
) -> None:
    body = {"model": "m", "messages": messages, "stream": True}
    async with http.post(f"{base_url}/chat/completions", json=body) as response:
        async for _ in response.content.iter_any():
            pass
    noted[0].end(time.monotonic_ns(), is_done=True)


# -- off the stream --------------------------------------------------------------------------------------------

Send = Callable[[str, bytes], Awaitable[object]]


async def work(url: str, base_url: str, way: str, concurrency: int) -> None:
    """Take jobs off the stream until the process is terminated."""
    async with Redis.from_pool(pool(url, concurrency)) as redis, open_session() as http:
        send = sender(redis, way)
        with contextlib.suppress(ResponseError):  # it is there
            await redis.xgroup_create(Keys().jobs("default"), GROUP, id="0", mkstream=True)
        answer(ready=True)
        running = set[asyncio.Task[None]]()
        while True:
            if len(running) == concurrency:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            room = concurrency - len(running)
            read = await redis.xreadgroup(GROUP, "w", {Keys().jobs("default"): ">"}, room, _BLOCK_MS)
            for entry, fields in _entries(read):
                task = asyncio.create_task(answer_job(redis, entry, fields, (base_url, http, send)))
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

    return {"drop": drop, "publish": publish, "naive": naive}[way]


async def answer_job(
    redis: Redis,
    entry: bytes,
    fields: dict[bytes, bytes],
    means: tuple[str, aiohttp.ClientSession, Send],
) -> None:
    base_url, http, send = means
    job = Job.decode(fields[JOB_FIELD.encode()])
    async for part in call(base_url, job.messages, http):
        if isinstance(part, str):
            await send(job.id, part.encode())
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
