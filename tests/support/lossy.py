"""A network that loses replies: what was sent has been carried out, and nobody was told."""

import asyncio
from collections.abc import Awaitable, Collection, Sequence
from typing import Any

from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Call, ScriptRunner


class LosesReplies:
    """A runner of scripts of whose replies the ``lost`` ones, counted from 1, get lost after the scripts were run."""

    def __init__(self, runner: ScriptRunner, lost: Collection[int]) -> None:
        self._runner = runner
        self._lost = lost
        self._count = 0

    def send(self, calls: Sequence[Call]) -> "asyncio.Future[list[Any]]":
        return asyncio.ensure_future(self._results(self._runner.send(calls)))

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        return await self._results(self._runner.run(calls))

    async def _results(self, coming: Awaitable[list[Any]]) -> list[Any]:
        results = await coming
        self._count += 1
        if self._count in self._lost:
            raise RedisConnectionError("the reply was lost")
        return results


LOST = [{1}, {2}, {3}, {1, 2}, {2, 3}, {2, 4}, {1, 3, 5}, {1, 2, 3, 4}]
"""Which replies get lost: of one step or of several, once or again and again."""
