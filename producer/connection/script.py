"""Lua scripts as calls: loaded when the server does not know them, pipelined where there are several."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

Arg = str | bytes | int


@dataclass(frozen=True, slots=True)
class Script:
    """The text of a Lua script and the SHA-1 by which the server knows it."""

    text: str
    sha: str

    @classmethod
    def load(cls, package: str, name: str) -> "Script":
        """Read ``name``.lua from the package that keeps it."""
        text = (files(package) / f"{name}.lua").read_text(encoding="utf-8")
        return cls(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())

    def on(self, keys: Sequence[str], *args: Arg) -> "Call":
        """Return the call of this script on ``keys`` with ``args``."""
        return Call(self, keys, args)


@dataclass(frozen=True, slots=True)
class Call:
    """A script with its keys and arguments."""

    script: Script
    keys: Sequence[str]
    args: Sequence[Arg]


class ScriptRunner:
    """Runs calls over one client."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self._loaded: set[str] = set()

    def forget(self) -> None:
        """Load every script anew before its next use: the server is not the one that knew them.

        Otherwise, where another client loads them just then, the calls of one pipeline that come first may be refused
        and said again after those that come last.
        """
        self._loaded.clear()

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        """Run all in one round trip and return each one's result, or the `RedisError` it ended with.

        A script is loaded before it is used first, and again when the server does not know it any more (it
        restarted, or its cache was flushed); only the calls that it refused for this reason are said twice.

        Raises:
            redis.exceptions.ConnectionError: the connection broke; some of the calls may have been carried out.
            redis.exceptions.TimeoutError: the reply did not come in time; likewise.
        """
        await self._load(calls)
        results = await self._pipeline(calls)
        unknown = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
        if unknown:
            refused = [calls[index] for index in unknown]
            self.forget()
            await self._load(refused)
            again = await self._pipeline(refused)
            for index, result in zip(unknown, again, strict=True):
                results[index] = result
        return results

    async def _load(self, calls: Sequence[Call]) -> None:
        for script in {call.script for call in calls if call.script.sha not in self._loaded}:
            await self._redis.script_load(script.text)
            self._loaded.add(script.sha)

    async def _pipeline(self, calls: Sequence[Call]) -> list[Any]:
        async with self._redis.pipeline(transaction=False) as pipe:
            for call in calls:
                pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
            results: list[Any] = await pipe.execute(raise_on_error=False)
        return results
