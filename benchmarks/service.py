"""A service as users write it: it enqueues, subscribes, and takes every event; it notes when chunks came."""

import argparse
import time

from benchmarks.delays import Delays
from benchmarks.orders import run
from benchmarks.ways import make_calls, note
from producer import Chunk, Done, Producer


async def serve(url: str) -> None:
    async with Producer(url) as producer:

        async def read(prompt: str, name: str, delays: Delays) -> None:
            await producer.enqueue(prompt, id=name, provider="upstream", model="m")
            async for event in producer.subscribe(name):
                if isinstance(event, Chunk):
                    note(delays, name, event.text)
            delays.end(time.monotonic_ns(), is_done=isinstance(event, Done))

        await make_calls(read)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", required=True)
    run(serve(parser.parse_args().redis))
