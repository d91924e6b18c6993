"""Settling, without a server: what goes together, and what becomes of those whom nobody waits for."""

import asyncio
import tracemalloc

import pytest
import structlog
from redis.exceptions import NoPermissionError

from producer.wire.keys import Keys
from worker.holdings import Entry, Holdings
from worker.pending import Pending
from worker.settling import Settlings


class Waiting:
    """In place of a `Writer`."""

    def __init__(self) -> None:
        self.pending: list[Pending] = []
        self.loop = asyncio.get_running_loop()

    def add(self, pending: Pending) -> None:
        self.pending.append(pending)


ENTRIES = [Entry("a", "1-0", b""), Entry("b", "2-0", b""), Entry("a", "3-0", b"")]


@pytest.fixture
async def writer() -> Waiting:
    return Waiting()


@pytest.fixture
def holdings() -> Holdings:
    holdings = Holdings("w:x")
    holdings.add(ENTRIES)
    return holdings


@pytest.fixture
def settlings(writer: Waiting, holdings: Holdings) -> Settlings:
    return Settlings(writer, Keys("t"), holdings)  # type: ignore[arg-type]


def said(pending: Pending) -> list[str]:
    call = pending.prepare()
    assert call is not None
    return [*call.keys, *map(str, call.args[2:])]


async def test_each_queue_has_a_call_of_its_own_that_grows_until_it_is_sent(
    settlings: Settlings, writer: Waiting
) -> None:
    for entry in ENTRIES:
        settlings.add(entry)
    first, second = writer.pending
    assert said(first) == ["t:{a}:jobs", "1-0", "3-0"]
    assert said(second) == ["t:{b}:jobs", "2-0"]
    settlings.add(Entry("a", "4-0", b""))
    assert said(first) == ["t:{a}:jobs", "1-0", "3-0"], (
        "what was sent once is the same whenever it is sent again"
    )
    assert said(writer.pending[2]) == ["t:{a}:jobs", "4-0"]


async def test_they_are_held_until_redis_has_done_it(
    settlings: Settlings, writer: Waiting, holdings: Holdings
) -> None:
    emptied = asyncio.create_task(holdings.emptied())
    done = settlings.add(ENTRIES[0])
    said(writer.pending[0])
    assert ENTRIES[0] in holdings
    assert not done.done()
    writer.pending[0].tell(1)
    await done
    assert ENTRIES[0] not in holdings
    assert not emptied.done()
    for entry in ENTRIES[1:]:
        holdings.drop(entry)
    await emptied


async def test_what_was_settled_is_in_no_memory(settlings: Settlings, writer: Waiting) -> None:
    """A job may have 4 MiB, and two hundred may have been settled together, before a quiet night."""
    tracemalloc.start()
    try:
        settlings.add(Entry("a", "1-0", bytes(1_000_000)))
        said(writer.pending[0])
        writer.pending.pop().tell(1)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000


async def test_who_waits_for_it_no_longer_does_not_keep_the_others_from_being_let_go(
    settlings: Settlings, writer: Waiting, holdings: Holdings
) -> None:
    done = settlings.add(ENTRIES[0])
    settlings.add(ENTRIES[2])
    done.cancel()
    said(writer.pending[0])
    writer.pending[0].tell(2)
    assert holdings.of("a") == []


async def test_what_redis_refuses_is_logged_and_held_no_longer(
    settlings: Settlings, writer: Waiting, holdings: Holdings
) -> None:
    """Nobody waits for it, so nobody else could let go of it."""
    done = settlings.add(ENTRIES[1])
    said(writer.pending[0])
    with structlog.testing.capture_logs() as lines:
        writer.pending[0].tell(NoPermissionError("no permission"))
    await done
    assert ENTRIES[1] not in holdings
    assert [(line["event"], line["entries"]) for line in lines] == [("redis refused to settle", ["b 2-0"])]
