"""Tool calls come in pieces, and are told once they are whole. No I/O."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from worker.providers.base import ToolCall
from worker.providers.loose_json import mapping_in, text_in, whole

MAX_CALLS = 1000  # tool calls in one answer
MAX_CALLS_SIZE = 4 * 1024 * 1024  # characters and pieces in all of them


@dataclass(slots=True)
class _Call:
    """A tool call whose pieces are still coming. ``index``: its place among the calls of the answer."""

    index: int
    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    filled: int = 0
    """How many pieces of the arguments are not blank; ``last`` is the last of these."""
    last: str = ""

    def add(self, piece: Mapping[str, Any]) -> int:
        """Take one piece and return its size."""
        function = mapping_in(piece.get("function"))
        id_, name = text_in(piece.get("id")), text_in(function.get("name"))
        size = 1
        # Some services repeat id and name in every piece; only the arguments are cut up.
        if not self.id:
            self.id, size = id_, size + len(id_)
        if not self.name:
            self.name, size = name, size + len(name)
        if arguments := text_in(function.get("arguments")):
            self.arguments.append(arguments)
            if not arguments.isspace():
                self.filled, self.last = self.filled + 1, arguments
        return size + len(arguments)

    def is_another(self, piece: Mapping[str, Any]) -> bool:
        """Whether a piece begins a call of its own: some services send whole calls, all at one place or at none."""
        id_, function = text_in(piece.get("id")), mapping_in(piece.get("function"))
        name, arguments = text_in(function.get("name")), text_in(function.get("arguments"))
        if not name:
            return False
        if id_ and self.id:
            return id_ != self.id
        # Nor do all of them give their calls ids. What goes on after arguments that are whole is another call's.
        return bool(arguments.strip()) and self._is_whole_before(name)

    def complete(self) -> ToolCall:
        return ToolCall(whole(self.id), whole(self.name), whole("".join(self.arguments)))

    def _is_whole_before(self, name: str) -> bool:
        """Whether the arguments are whole where the next piece names this function.

        They are not read again and again: whole calls come in one piece, and else it takes another name to tell.
        """
        if self.filled != 1:
            return name != self.name and self.last.rstrip().endswith("}")
        try:
            json.loads("".join(self.arguments))
        except (ValueError, RecursionError):
            return False
        return True


class ToolCalls:
    """The tool calls of one answer, as far as they have come."""

    __slots__ = ("_calls", "_count", "_open", "_size")

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._open: dict[int, _Call] = {}  # the last one at each place
        self._size = 0  # characters in all
        self._count = 0

    @property
    def are_without_end(self) -> bool:
        """Whether there are more of them than any answer has."""
        return self._size > MAX_CALLS_SIZE or self._count > MAX_CALLS

    def add(self, pieces: Iterable[Mapping[str, Any]]) -> None:
        """Take the pieces that one chunk brought."""
        for position, piece in enumerate(pieces):
            given = piece.get("index")
            index = given if isinstance(given, int) else position
            call = self._open.get(index)
            if call is None or call.is_another(piece):
                call = self._open[index] = _Call(index)
                self._calls.append(call)
                self._count += 1
            self._size += call.add(piece)

    def take(self) -> list[ToolCall]:
        """Return those that came, in the order of their places; they are not told again."""
        calls, self._calls, self._open = self._calls, [], {}
        return [call.complete() for call in sorted(calls, key=_place)]


def _place(call: _Call) -> int:
    return call.index
