"""Whose turn it is: strictly in order, or by weight without starving."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from producer import Producer, Started
from producer.connection import Line
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.servers import Server
from worker.entry_reader import EntryReader
from worker.holdings import Holdings
from worker.settings import Settings
from worker.turns import Turns

WEIGHTS = st.dictionaries(st.text("abcdefgh", min_size=1, max_size=2), st.integers(1, 50), min_size=1)


def firsts(weights: dict[str, int], count: int) -> list[str]:
    turns = Turns(list(weights), weights)
    return [turns.next()[0] for _ in range(count)]


@given(WEIGHTS)
def test_strict_is_as_they_were_given_whatever_their_weights(weights: dict[str, int]) -> None:
    turns = Turns(list(weights), weights, strict=True)
    assert [list(turns.next()) for _ in range(3)] == [list(weights)] * 3


@given(WEIGHTS, st.integers(1, 3))
def test_each_queue_comes_first_as_often_as_its_weight_says(weights: dict[str, int], rounds: int) -> None:
    counts = Counter(firsts(weights, rounds * sum(weights.values())))
    assert counts == {queue: rounds * weight for queue, weight in weights.items()}


@given(WEIGHTS)
def test_no_queue_waits_for_longer_than_all_the_others_turns_twice(weights: dict[str, int]) -> None:
    total = sum(weights.values())
    order = firsts(weights, 3 * total)
    for queue, weight in weights.items():
        turns = [-1, *(turn for turn, first in enumerate(order) if first == queue), len(order)]
        gaps = [later - earlier for earlier, later in pairwise(turns)]
        assert max(gaps) <= 2 * -(-total // weight)


@given(WEIGHTS, st.integers(1, 30))
def test_every_queue_is_looked_at_in_every_turn(weights: dict[str, int], count: int) -> None:
    """So that what the first one leaves free goes to the others."""
    turns = Turns(list(weights), weights)
    for _ in range(count):
        assert sorted(turns.next()) == sorted(weights)


def test_turns_are_evenly_spread() -> None:
    assert firsts({"a": 4, "b": 1}, 10) == list("aabaaaabaa")


def test_a_queue_without_a_weight_has_one() -> None:
    turns = Turns(["a", "b"], {"a": 3})
    assert Counter(turns.next()[0] for _ in range(8)) == {"a": 6, "b": 2}


# -- at a server ----------------------------------------------------------------------------------------------


async def reader_of(line: Line, keys: Keys, server: Server, **settings: object) -> EntryReader:
    values = {"redis_url": server.url, "queues": ("a", "b"), "poll": 0.02, **settings}
    reader = EntryReader(line, keys, Holdings("w1:x"), Settings.model_validate(values))
    await reader.open()
    return reader


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"strict": True}, "aaaaaaaabbbb"),
        ({"weights": {"a": 2}}, "abaabaabaaba"),
        ({}, "abababababab"),
    ],
    ids=["strict", "weighted", "alike"],
)
async def test_entries_are_taken_in_turn(
    server: Server, producer: Producer, line: Line, keys: Keys, settings: dict[str, object], expected: str
) -> None:
    reader = await reader_of(line, keys, server, **settings)
    for queue in "bbbbbbbbaaaaaaaa":
        await producer.enqueue("x", provider="echo", queue=queue)
    taken = [entry.queue for _ in range(12) for entry in await reader.take(1)]
    assert "".join(taken) == expected


async def test_what_one_queue_leaves_free_goes_to_the_other(
    server: Server, producer: Producer, line: Line, keys: Keys
) -> None:
    reader = await reader_of(line, keys, server, weights={"a": 100})
    for queue in "abbbbb":
        await producer.enqueue("x", provider="echo", queue=queue)
    assert [entry.queue for entry in await reader.take(4)] == ["a", "b", "b", "b"]
    assert [entry.queue for entry in await reader.take(4)] == ["b", "b"]


async def test_a_strict_worker_runs_the_first_queue_empty_before_the_second(
    producer: Producer, start_worker: StartWorker
) -> None:
    jobs = [await producer.enqueue("x", provider="echo", queue=queue) for queue in ["low"] * 4 + ["high"] * 4]
    await start_worker(queues=("high", "low"), strict=True, concurrency=1)
    starts = []
    for job in jobs:
        events = [event async for event in producer.subscribe(job.id)]
        (started,) = [event for event in events if isinstance(event, Started)]
        starts.append((int(started.id.partition("-")[0]), job.queue))
    assert [queue for _, queue in sorted(starts)] == ["high"] * 4 + ["low"] * 4
