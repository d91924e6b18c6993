"""A process that only reads: so many readers of so many jobs, in one of two ways. Told and answering by lines of JSON.

``chatrelay``: subscriptions of one Producer. ``bare``: what one writes without it, a redis-py pub/sub connection for
each reader, whose messages are unpacked by msgpack, and nothing else: no log, no order, no check.
"""

import argparse
import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import msgpack
import redis.asyncio

from benchmarks.figures import memory, percentile
from producer import Event, Producer
from producer.wire.keys import FRAME_FIELD, Keys

_Seen = tuple[str, str, str]
"""An event as what both ways see of it: id, type, text."""


class Tally:
    """Counts what all readers were handed, and how late."""

    def __init__(self) -> None:
        self.count = 0
        self.due = -1
        self.reached = asyncio.get_running_loop().create_future()
        self.is_timing = False
        self.lateness: list[float] = []

    def add(self, text: str) -> None:
        self.count += 1
        if self.is_timing and text:
            self.lateness.append((time.monotonic_ns() - int(text)) / 1e9)
        if self.count == self.due:
            self.reached.set_result(None)

    async def until(self, count: int) -> None:
        """Return when so many were handed out; raises what a reader failed with."""
        self.reached = asyncio.get_running_loop().create_future()
        self.due = count
        if self.count < count:
            await self.reached

    def note_end(self, reader: "asyncio.Task[Any]") -> None:
        if not reader.cancelled() and (error := reader.exception()) and not self.reached.done():
            self.reached.set_exception(error)


class Relayed:
    """Readers through subscriptions."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._producer = Producer(url, prefix=keys.prefix)

    async def read(self, job: str, tally: Tally) -> list[_Seen]:
        events: list[Event] = []
        async for event in self._producer.subscribe(job):
            events.append(event)
            tally.add(getattr(event, "text", ""))
        return [(event.id, event.type, getattr(event, "text", "")) for event in events]

    async def aclose(self) -> None:
        await self._producer.aclose()


class Bare:
    """Readers through redis-py's pub/sub."""

    def __init__(self, url: str, keys: Keys) -> None:
        self._redis = redis.asyncio.Redis.from_url(url, max_connections=20_000, socket_timeout=None)
        self._keys = keys
        self._joining = asyncio.Semaphore(50)  # or the server's backlog overflows

    async def read(self, job: str, tally: Tally) -> list[_Seen]:
        bodies: list[dict[str, Any]] = []
        async with self._redis.pubsub() as pubsub:
            async for body in self._bodies(pubsub, job, tally):
                bodies.append(body)
                tally.add(body.get("text", ""))
                if body["type"] == "done":
                    break
        return [_seen(body) for body in bodies]

    async def _bodies(self, pubsub: Any, job: str, tally: Tally) -> AsyncIterator[dict[str, Any]]:
        async with self._joining:
            await pubsub.subscribe(self._keys.events(job))
        async for message in pubsub.listen():
            if message["type"] == "subscribe":
                tally.add("")  # in place of the `queued` that a subscription reads from the log
            else:
                unpacker = msgpack.Unpacker()
                unpacker.feed(message["data"])
                for body in unpacker:
                    yield body

    async def aclose(self) -> None:
        await self._redis.aclose()


SIDES = {"chatrelay": Relayed, "bare": Bare}


async def serve(given: argparse.Namespace) -> None:
    keys, tally = Keys(given.prefix), Tally()
    jobs = [f"job-{number}" for number in range(given.jobs) for _ in range(given.readers)]
    side = SIDES[given.side](given.url, keys)
    before = memory()
    readers = [asyncio.create_task(side.read(job, tally)) for job in jobs]
    for reader in readers:
        reader.add_done_callback(tally.note_end)
    await tally.until(len(jobs))
    gc.collect()
    say(memory_kib=(memory() - before) * 1024 / len(jobs))
    while words := await asyncio.to_thread(sys.stdin.readline):
        match json.loads(words):
            case {"events": count, "timing": is_timing}:
                tally.is_timing = is_timing
                target = tally.count + count
                say(listening=True)
                await tally.until(target)
                late, tally.lateness = tally.lateness, []
                say(p50=percentile(late, 0.5), p99=percentile(late, 0.99)) if late else say()
            case {"check": True}:
                transcripts = list(zip(jobs, await asyncio.gather(*readers), strict=True))
                say(problems=await problems(given.url, keys, transcripts))
    await side.aclose()


async def problems(url: str, keys: Keys, transcripts: list[tuple[str, list[_Seen]]]) -> list[str]:
    """Compare what each reader was handed with the log; `queued` was there before all of them."""
    found, logs = [], dict[str, list[_Seen]]()
    async with redis.asyncio.Redis.from_url(url) as client:
        for job, seen in transcripts:
            if job not in logs:
                entries = await client.xrange(keys.log(job))
                frames = [fields[FRAME_FIELD.encode()] for _, fields in entries]
                unpacker = msgpack.Unpacker(max_buffer_size=0)
                unpacker.feed(b"".join(frames))
                logs[job] = [_seen(body) for body in unpacker if body["type"] != "queued"]
            if [event for event in seen if event[1] != "queued"] != logs[job]:
                found.append(f"{job}: a reader was handed {len(seen)} events, the log holds {len(logs[job])}")
    return found


def _seen(body: dict[str, Any]) -> _Seen:
    return body["id"], body["type"], body.get("text", "")


def say(**words: Any) -> None:
    print(json.dumps(words), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("side", choices=list(SIDES))
    parser.add_argument("url")
    parser.add_argument("prefix")
    parser.add_argument("jobs", type=int)
    parser.add_argument("readers", type=int)
    asyncio.run(serve(parser.parse_args()))
