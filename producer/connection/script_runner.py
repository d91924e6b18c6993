"""Runs calls of scripts: loaded when the server does not know them, pipelined where there are several."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis.exceptions import NoScriptError, RedisError

from producer.connection.line import Line, Listener
from producer.connection.packing import pack
from producer.connection.script import Call, Script


class ScriptRunner:
    """Runs calls over one line."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._loaded: set[Script] = set()
        self.refusal: RedisError | None = None
        """What the server said when it would not load a script the last time that it was asked to."""

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
            redis.exceptions.RedisError: the connection broke, or a script could not be loaded; some of the calls may
                have been carried out.
        """
        results = await self.send(calls)
        unknown = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
        if unknown:
            self.forget()
            again = await self.send([calls[index] for index in unknown])
            for index, result in zip(unknown, again, strict=True):
                if isinstance(result, NoScriptError) and self.refusal is not None:
                    raise self.refusal
                results[index] = result
        return results

    def send(self, calls: Sequence[Call]) -> "asyncio.Future[list[Any]]":
        """Send all at once; the future becomes the results as they come, a `NoScriptError` among them or not.

        Future raises:
            redis.exceptions.ConnectionError: they are lost; some of the calls may have been carried out.
        """
        self._load({call.script for call in calls})
        return self._line.send([call.packed for call in calls])

    def say(self, calls: Sequence[Call], listener: Listener) -> None:
        """Send all at once; ``listener`` hears the results, and is left to deal with a `NoScriptError`."""
        self._load({call.script for call in calls})
        packed = [call.packed for call in calls]
        self._line.say(packed, listener, publishing=calls[0].script.publishes)

    async def run_packed(self, scripts: set[Script], calls: Sequence[bytes]) -> list[Any]:
        """Run calls of these scripts that were packed before, as `run` does; none of them is said twice."""
        self._load(scripts)
        return await self._line.send(calls)

    def _load(self, scripts: set[Script]) -> None:
        if scripts <= self._loaded:
            return
        unknown = scripts - self._loaded
        self._loaded |= unknown  # what is said from now on, the server hears after this
        for script in unknown:
            self._line.say([pack("SCRIPT", "LOAD", script.text)], self)

    def heard(self, replies: Sequence[Any]) -> None:
        """Take the reply to the loading of a script."""
        (reply,) = replies
        self.refusal = reply if isinstance(reply, RedisError) else None

    def lost(self, error: RedisError) -> None:
        """Take notice that a script may not be loaded; then its calls are lost as well."""
        self.forget()
