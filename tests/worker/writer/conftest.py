"""A writer, and the server that it writes to."""

from collections.abc import AsyncIterator

import pytest

from worker import writer as writer_module
from worker.writer import Writer

from .peer import FakeLine, Peer, running


@pytest.fixture
async def peer(line: FakeLine) -> Peer:
    return Peer(line)


@pytest.fixture
def line() -> FakeLine:
    return FakeLine()


@pytest.fixture
async def writer(peer: Peer, line: FakeLine, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Writer]:
    monkeypatch.setattr(writer_module, "_FIRST_PAUSE", 0.0)
    monkeypatch.setattr(writer_module, "_LONGEST_PAUSE", 0.0)
    async with running(line, peer, 60) as writer:
        yield writer
