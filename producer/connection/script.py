"""Lua scripts as calls: loaded when the server does not know them, pipelined where there are several."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError, RedisError

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

    async def run(self, redis: Redis) -> Any:
        """Run it and return its result.

        Raises:
            redis.exceptions.RedisError: the server refused it, or cannot be reached.
        """
        (result,) = await run_calls(redis, [self])
        if isinstance(result, RedisError):
            raise result
        return result


async def run_calls(redis: Redis, calls: Sequence[Call]) -> list[Any]:
    """Run all in one round trip and return each one's result, or the `RedisError` it ended with.

    A server that does not know a script (it restarted, or its cache was flushed) is told the text and asked again;
    only the calls that it refused for this reason are said twice.

    Raises:
        redis.exceptions.ConnectionError: the connection broke; some of the calls may have been carried out.
        redis.exceptions.TimeoutError: the reply did not come in time; likewise.
    """
    results = await _pipeline(redis, calls)
    unknown = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
    if unknown:
        for text in {calls[index].script.text for index in unknown}:
            await redis.script_load(text)
        again = await _pipeline(redis, [calls[index] for index in unknown])
        for index, result in zip(unknown, again, strict=True):
            results[index] = result
    return results


async def _pipeline(redis: Redis, calls: Sequence[Call]) -> list[Any]:
    async with redis.pipeline(transaction=False) as pipe:
        for call in calls:
            pipe.evalsha(call.script.sha, len(call.keys), *call.keys, *call.args)
        results: list[Any] = await pipe.execute(raise_on_error=False)
    return results
