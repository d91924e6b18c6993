"""Lua scripts as calls: loaded when the server does not know them, pipelined where there are several."""

import asyncio
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, NamedTuple

from redis.exceptions import NoScriptError

from producer.connection.line import Arg, Line, pack


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

    def prepared(self, keys: Sequence[str]) -> "Prepared":
        """Return what makes calls of this script on ``keys``."""
        return Prepared(self, keys)


class Prepared:
    """A script that is called on the same keys again and again: what stays the same is packed once."""

    __slots__ = ("_head", "_keys", "_script")

    def __init__(self, script: Script, keys: Sequence[str]) -> None:
        self._script = script
        self._keys = keys
        count, _, self._head = pack("EVALSHA", script.sha, len(keys), *keys).partition(b"\r\n")
        assert count == b"*%d" % (3 + len(keys)), "a command begins with the number of its words"

    def on(self, *args: bytes) -> "Call":
        """Return the call with ``args``."""
        words = [b"$%d\r\n%b\r\n" % (len(arg), arg) for arg in args]
        packed = b"*%d\r\n%b%b" % (3 + len(self._keys) + len(args), self._head, b"".join(words))
        return Call(self._script, self._keys, args, packed)


class Call:
    """A script with its keys and arguments. It is packed once, however often it is said."""

    __slots__ = ("_packed", "args", "keys", "script")

    def __init__(
        self, script: Script, keys: Sequence[str], args: Sequence[Arg], packed: bytes | None = None
    ) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self._packed = packed

    def packed(self) -> bytes:
        """Return the call as the bytes that are sent."""
        if self._packed is None:
            self._packed = pack("EVALSHA", self.script.sha, len(self.keys), *self.keys, *self.args)
        return self._packed


class Said(NamedTuple):
    """Calls on their way, and the scripts that are loaded before them."""

    calls: Sequence[Call]
    loading: Sequence[Script]
    replies: "asyncio.Future[list[Any]]"


class ScriptRunner:
    """Runs calls over one line."""

    def __init__(self, line: Line) -> None:
        self._line = line
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
            redis.exceptions.RedisError: the connection broke, or a script could not be loaded; some of the calls may
                have been carried out.
        """
        return await self.results(self.say(calls))

    def say(self, calls: Sequence[Call]) -> Said:
        """Send all at once; `results` waits for what comes back."""
        scripts = {call.script.sha: call.script for call in calls}
        return self._say(calls, scripts.values(), [call.packed() for call in calls])

    async def results(self, said: Said) -> list[Any]:
        """Return what `run` does of calls that were said."""
        calls, results = said.calls, await self._replies(said)
        unknown = [index for index, result in enumerate(results) if isinstance(result, NoScriptError)]
        if unknown:
            self.forget()
            again = await self._replies(self.say([calls[index] for index in unknown]))
            for index, result in zip(unknown, again, strict=True):
                results[index] = result
        return results

    async def run_packed(self, scripts: Iterable[Script], calls: Sequence[bytes]) -> list[Any]:
        """Run calls of these scripts that were packed before, as `run` does; none of them is said twice."""
        return await self._replies(self._say((), scripts, calls))

    def _say(self, calls: Sequence[Call], scripts: Iterable[Script], packed: Sequence[bytes]) -> Said:
        loading = [script for script in scripts if script.sha not in self._loaded]
        loads = [pack("SCRIPT", "LOAD", script.text) for script in loading]
        return Said(calls, loading, self._line.send([*loads, *packed]))

    async def _replies(self, said: Said) -> list[Any]:
        replies = await said.replies
        for script, reply in zip(said.loading, replies, strict=False):
            if isinstance(reply, Exception):
                raise reply
            self._loaded.add(script.sha)
        return replies[len(said.loading) :]
