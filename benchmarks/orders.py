"""The child's end of `benchmarks.processes.Child`: orders come in as lines of JSON, answers go out the same way."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any


async def orders() -> AsyncIterator[dict[str, Any]]:
    """Yield each order, until the parent closes the pipe."""
    reader = asyncio.StreamReader(limit=1 << 24)
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def answer(**words: Any) -> None:
    """Answer an order."""
    print(json.dumps(words), flush=True)


def run(main: Coroutine[Any, Any, None]) -> None:
    """Run a child's main function on the loop that the worker uses as well."""
    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main)
