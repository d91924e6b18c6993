"""Lua scripts, and calls of them: packed once, said as often as needed. No I/O."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from producer.connection.packing import Arg, pack, pack_words


@dataclass(
    frozen=True, slots=True, eq=False
)  # each is read once: sets of them go by identity, which is cheap
class Script:
    """The text of a Lua script and the SHA-1 by which the server knows it."""

    text: str
    sha: str
    publishes: bool = False
    """Whether it may publish something."""

    @classmethod
    def load(cls, package: str, name: str) -> "Script":
        """Read ``name``.lua from the package that keeps it."""
        text = (files(package) / f"{name}.lua").read_text(encoding="utf-8")
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        return cls(text, sha, publishes="'PUBLISH'" in text)

    def on(self, keys: Sequence[str], *args: Arg) -> "Call":
        """Return the call of this script on ``keys`` with ``args``."""
        return Call(self, keys, args, pack_words(_words(self, keys, args)))

    def unsaid(self, keys: Sequence[str], *args: Arg) -> "Call":
        """Return a call that will probably never be said: it is not packed, and is to be so from its `words`."""
        return Call(self, keys, args, b"")

    def prepared(self, keys: Sequence[str]) -> "Prepared":
        """Return what makes calls of this script on ``keys`` with two arguments."""
        return Prepared(self, keys)


class Prepared:
    """A script that is called on the same keys again and again: what stays the same is packed once."""

    __slots__ = ("_keys", "_script", "_template")

    def __init__(self, script: Script, keys: Sequence[str]) -> None:
        self._script = script
        self._keys = keys
        _, _, head = pack("EVALSHA", script.sha, len(keys), *keys).partition(b"\r\n")
        words = b"*%d\r\n%b" % (3 + len(keys) + 2, head.replace(b"%", b"%%"))
        self._template = words + 2 * b"$%d\r\n%b\r\n"

    def on(self, first: bytes, second: bytes) -> "Call":
        """Return the call with these arguments."""
        packed = self._template % (len(first), first, len(second), second)
        return Call(self._script, self._keys, (first, second), packed)


class Call:
    """A script with its keys and arguments.

    ``packed``: the bytes that are sent, however often it is said; empty, where it was made `Script.unsaid`.
    """

    __slots__ = ("args", "keys", "packed", "script")

    def __init__(self, script: Script, keys: Sequence[str], args: Sequence[Arg], packed: bytes) -> None:
        self.script = script
        self.keys = keys
        self.args = args
        self.packed = packed

    @property
    def words(self) -> tuple[Arg, ...]:
        """The command."""
        return _words(self.script, self.keys, self.args)


def _words(script: Script, keys: Sequence[str], args: Sequence[Arg]) -> tuple[Arg, ...]:
    return ("EVALSHA", script.sha, str(len(keys)), *keys, *args)
