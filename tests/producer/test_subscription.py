"""G2: every event of the log once, in order, to the terminal one, whatever the reader or the network does."""

import asyncio
import contextlib
import gc
import random
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
from redis.asyncio import Redis
from redis.exceptions import BusyLoadingError

from producer import (
    AnswerRestarted,
    Chunk,
    CorruptLog,
    Done,
    Event,
    InvalidCursor,
    JobNotFound,
    Producer,
    Queued,
    Started,
    Subscription,
    Unavailable,
    Waiting,
)
from producer.connection import Line
from producer.seat import MAX_BYTES_WAITING, MAX_FRAMES_WAITING, Seat
from producer.subscription import PAGE
from producer.wire.events import EventId
from producer.wire.frames import Frame
from producer.wire.keys import Keys
from tests.conftest import on_real_servers
from tests.support.scribe import Scribe
from tests.support.servers import Server

JOB = "job-1"


def answer(attempt: int, chunks: int, number: int = 1) -> list[Event]:
    """All events of an attempt that answers in ``chunks`` pieces."""
    events: list[Event] = [Started(f"{attempt}-0", number, "echo", "w1")]
    pieces = [f"piece {i} " for i in range(1, chunks + 1)]
    events += [Chunk(f"{attempt}-{i}", piece) for i, piece in enumerate(pieces, 1)]
    return [*events, Done(f"{attempt}-{chunks + 1}", "stop", len("".join(pieces)))]


QUEUED = Queued("0-1", "default")
WHOLE = [QUEUED, *answer(100, 3)]


@pytest.fixture
def scribe(redis: Redis, keys: Keys) -> Scribe:
    return Scribe(redis, keys, JOB)


@pytest.fixture
async def producer(server: Server, prefix: str) -> AsyncIterator[Producer]:
    """One that does not look at the log by itself within a test's time, unless it is told to."""
    async with Producer(server.url, prefix=prefix, idle_check=60) as client:
        yield client


async def read_all(subscription: Subscription) -> list[Event]:
    return [event async for event in subscription]


async def read(subscription: Subscription, count: int) -> list[Event]:
    return [await anext(subscription) for _ in range(count)]


async def test_a_reader_after_the_end_gets_everything(producer: Producer, scribe: Scribe) -> None:
    for event in WHOLE:
        await scribe.log(event)
    assert await read_all(producer.subscribe(JOB)) == WHOLE


async def test_a_reader_from_the_beginning_gets_everything_live(producer: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    for event in WHOLE[1:]:
        await scribe.write(event)
        seen += await read(subscription, 1)
    assert seen == WHOLE
    assert await read_all(subscription) == []


async def test_a_reader_who_joins_in_between_gets_what_was_and_what_comes(
    producer: Producer, scribe: Scribe
) -> None:
    await scribe.write(*WHOLE[:1])
    await scribe.write(*WHOLE[1:3])
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 3)
    await scribe.write(*WHOLE[3:])
    assert seen + await read_all(subscription) == WHOLE


@pytest.mark.parametrize("seen", range(len(WHOLE) + 1))
async def test_a_reader_goes_on_after_its_cursor(producer: Producer, scribe: Scribe, seen: int) -> None:
    await scribe.log(WHOLE[0])
    await scribe.log(*WHOLE[1:4])  # a cursor may stand in the middle of a frame
    await scribe.log(*WHOLE[4:])
    cursor = WHOLE[seen - 1].id if seen else None
    assert await read_all(producer.subscribe(JOB, after=cursor)) == WHOLE[seen:]


async def test_a_reader_whose_cursor_is_at_the_end_is_told_the_end(
    producer: Producer, scribe: Scribe
) -> None:
    await scribe.log(WHOLE[0])
    await scribe.log(*WHOLE[1:])
    subscription = producer.subscribe(JOB, after=WHOLE[-1].id)
    assert await read_all(subscription) == []
    assert subscription.end == WHOLE[-1]
    assert [text async for text in producer.text(JOB, after=WHOLE[-1].id)] == []


async def test_the_text_of_a_job_that_is_there_is_what_stands(producer: Producer, scribe: Scribe) -> None:
    for event in [QUEUED, *answer(100, 2)[:-1], Waiting("100-3", 0, "released"), *answer(200, 3, number=2)]:
        await scribe.log(event)
    assert [text async for text in producer.text(JOB)] == ["piece 1 ", "piece 2 ", "piece 3 "]


async def test_who_goes_on_after_a_cursor_is_told_that_the_answer_began_again(
    producer: Producer, scribe: Scribe
) -> None:
    for event in [QUEUED, *answer(100, 1)[:-1], Waiting("100-2", 0, "released"), *answer(200, 2, number=2)]:
        await scribe.log(event)
    with pytest.raises(AnswerRestarted):
        await anext(producer.text(JOB, after="100-1"))
    restarts: list[int] = []
    reading = producer.text(JOB, after="100-1", on_restart=restarts.append)
    assert [text async for text in reading] == ["piece 1 ", "piece 2 "]
    assert restarts == [0]
    assert [text async for text in producer.text(JOB, after="0-1")] == ["piece 1 ", "piece 2 "]


async def test_the_cursor_is_the_last_event_handed_out(producer: Producer, scribe: Scribe) -> None:
    await scribe.log(WHOLE[0])
    await scribe.log(*WHOLE[1:])
    subscription = producer.subscribe(JOB)
    assert subscription.cursor is None
    async for event in subscription:
        assert subscription.cursor == event.id
    again = producer.subscribe(JOB)
    batch = await again.read()
    assert again.cursor == batch[-1].id


async def test_a_log_of_many_pages_is_read_to_its_end(producer: Producer, scribe: Scribe) -> None:
    whole = [QUEUED, *answer(100, 2 * PAGE + 1)]
    for event in whole:
        await scribe.log(event)
    assert await read_all(producer.subscribe(JOB)) == whole


async def test_what_is_written_between_two_looks_at_the_log_is_read(
    producer: Producer, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    """A page and the tail are two commands: the tail may be newer than the page."""
    await scribe.log(QUEUED)
    subscription = producer.subscribe(JOB)
    look, looks = subscription._ask_patiently, 0

    async def look_and_be_overtaken(after: EventId) -> object:
        nonlocal looks
        looks += 1
        page, tail, deadline_in = await look(after)
        if looks == 2:  # the page was empty; now everything else is written, and the tail shows it
            await scribe.log(*WHOLE[1:])
            tail = [
                (i, [w for pair in f.items() for w in pair])
                for i, f in await redis.xrevrange(keys.log(JOB), count=1)
            ]
        return page, tail, deadline_in

    subscription._ask_patiently = look_and_be_overtaken
    assert await read(subscription, 1) == [QUEUED]
    subscription._behind = True
    assert await read_all(subscription) == WHOLE[1:]
    assert looks == 3


def test_a_seat_holds_no_more_bytes_than_its_bound() -> None:
    seat = Seat()
    frame = Frame(1, 0, (Chunk("1-0", "x"),))
    seat.put(frame, 10 * MAX_BYTES_WAITING)  # a single frame may be larger
    assert len(seat._frames) == 1
    seat.put(frame, 1)
    assert len(seat._frames) == 0


async def test_a_log_that_ends_with_a_full_page_ends(producer: Producer, scribe: Scribe) -> None:
    whole = [QUEUED, *answer(100, PAGE - 3)]
    assert len(whole) == PAGE
    for event in whole:
        await scribe.log(event)
    assert await read_all(producer.subscribe(JOB)) == whole


async def test_a_lost_message_does_not_leave_a_reader_waiting(
    server: Server, prefix: str, scribe: Scribe
) -> None:
    async with Producer(server.url, prefix=prefix, idle_check=0.05) as producer:
        await scribe.write(QUEUED)
        subscription = producer.subscribe(JOB)
        seen = await read(subscription, 1)
        for event in WHOLE[1:]:
            await scribe.log(event)  # nobody hears of it
        assert seen + await read_all(subscription) == WHOLE


async def test_a_hole_between_two_frames_is_filled_from_the_log(producer: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    await scribe.log(*WHOLE[1:3])
    await scribe.write(*WHOLE[3:])
    assert seen + await read_all(subscription) == WHOLE


async def test_what_is_published_twice_is_handed_out_once(producer: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    for event in WHOLE[1:]:
        await scribe.write(event)
        await scribe.publish(event)
        await scribe.publish(*WHOLE[1:2])
    assert seen + await read_all(subscription) == WHOLE


async def test_a_frame_that_overlaps_what_was_seen_adds_only_the_rest(
    producer: Producer, scribe: Scribe
) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    await scribe.write(*WHOLE[1:3])
    seen += await read(subscription, 2)
    await scribe.publish(*WHOLE[1:4])
    seen += await read(subscription, 1)
    await scribe.log(WHOLE[3])
    await scribe.write(*WHOLE[4:])
    assert seen + await read_all(subscription) == WHOLE


async def test_the_lost_end_of_an_earlier_attempt_is_read_before_the_next_one(
    producer: Producer, scribe: Scribe
) -> None:
    first = [*answer(100, 2)[:-1], Waiting("100-3", 0, "released")]
    whole = [QUEUED, *first, *answer(200, 2, number=2)]
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    await scribe.write(first[0])
    seen += await read(subscription, 1)
    await scribe.log(*first[1:])
    for event in whole[5:]:
        await scribe.write(event)
    assert seen + await read_all(subscription) == whole


async def test_an_attempt_that_does_not_begin_at_0_is_read_from_the_log(
    producer: Producer, scribe: Scribe
) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    await scribe.log(WHOLE[1])
    await scribe.write(*WHOLE[2:])
    assert seen + await read_all(subscription) == WHOLE


@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x80", b"\x81\xa2id\xa1x", b"x" * 10_000])
async def test_garbage_on_the_channel_changes_nothing(
    producer: Producer, scribe: Scribe, garbage: bytes
) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    assert await scribe.say(garbage) == 1
    await scribe.write(*WHOLE[1:])
    assert seen + await read_all(subscription) == WHOLE


async def test_a_reader_who_sleeps_costs_no_memory_and_misses_nothing(
    producer: Producer, scribe: Scribe
) -> None:
    whole = [QUEUED, *answer(100, 3 * MAX_FRAMES_WAITING)]
    await scribe.write(QUEUED)
    sleeper, awake = producer.subscribe(JOB), producer.subscribe(JOB)
    seen = await read(sleeper, 1)
    await read(awake, 1)
    for event in whole[1:]:
        await scribe.write(event)
    assert len(await read_all(awake)) == len(whole) - 1  # so all of it has arrived in this process
    seat = sleeper._seat
    assert seat is not None
    assert len(seat._frames) <= MAX_FRAMES_WAITING
    assert seen + await read_all(sleeper) == whole


async def test_a_hundred_readers_side_by_side_see_the_same(producer: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    readers = [asyncio.create_task(read_all(producer.subscribe(JOB))) for _ in range(100)]
    whole = [QUEUED, *answer(100, 50)]
    for event in whole[1:]:
        await scribe.write(event)
        await asyncio.sleep(0)
    assert all(seen == whole for seen in await asyncio.gather(*readers))


async def test_all_subscriptions_of_a_process_share_one_connection(
    producer: Producer, scribe: Scribe, redis: Redis, server: Server, keys: Keys
) -> None:
    await scribe.write(QUEUED)
    subscriptions = [producer.subscribe(JOB) for _ in range(20)]
    for subscription in subscriptions:
        await read(subscription, 1)
    assert await redis.execute_command("PUBSUB", "NUMSUB", keys.events(JOB)) == [keys.events(JOB).encode(), 1]
    assert len(producer._listener.channels) == 1


async def test_a_reader_who_leaves_early_leaves_nothing_behind(
    producer: Producer, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    await scribe.write(QUEUED)
    before = asyncio.all_tasks()
    async for _ in producer.subscribe(JOB):
        break
    gc.collect()
    # Its channel was unsubscribed from: once the next job's subscription is acknowledged, so is that.
    await Scribe(redis, keys, "other").write(QUEUED)
    other = producer.subscribe("other")
    await read(other, 1)
    assert producer._listener.channels == {keys.events("other")}
    assert await scribe.publish(WHOLE[1]) == 0
    names = {task.get_name() for task in asyncio.all_tasks() - before}
    assert names <= {"chatrelay-listener", "chatrelay-listener-speak", "chatrelay-listener-listen"}


async def test_leaving_and_joining_again_at_once_misses_nothing(
    producer: Producer, scribe: Scribe, redis: Redis
) -> None:
    await scribe.write(QUEUED)
    for _ in range(50):
        async for _ in producer.subscribe(JOB):
            break
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    for event in WHOLE[1:]:
        await scribe.write(event)
        seen += await read(subscription, 1)
    assert seen == WHOLE


@on_real_servers
async def test_a_cut_connection_is_made_anew_and_nothing_is_missed(
    producer: Producer, scribe: Scribe, redis: Redis
) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    seen = await read(subscription, 1)
    for event in WHOLE[1:]:
        assert await redis.execute_command("CLIENT", "KILL", "TYPE", "pubsub") >= 1
        await scribe.write(event)
        seen += [await anext(subscription)]
    assert seen == WHOLE


async def test_a_server_that_is_loading_its_data_is_asked_again(
    producer: Producer, scribe: Scribe, monkeypatch: pytest.MonkeyPatch
) -> None:
    await scribe.write(QUEUED)
    send, refusals = Line.send, [BusyLoadingError("Redis is loading the dataset in memory")] * 3

    def send_too_early(line: Line, commands: Sequence[bytes]) -> "asyncio.Future[list[object]]":
        if not refusals:
            return send(line, commands)
        early: asyncio.Future[list[object]] = asyncio.get_running_loop().create_future()
        early.set_result([refusals.pop() for _ in commands[:1]] * len(commands))
        return early

    monkeypatch.setattr(Line, "send", send_too_early)
    assert await read(producer.subscribe(JOB), 1) == [QUEUED]
    assert refusals == []


@pytest.mark.parametrize(
    ("missing", "seen"), [([1], 1), ([2], 2), ([3, 4], 3)], ids=["the beginning", "a chunk", "two chunks"]
)
async def test_a_log_that_misses_something_is_not_read_on_as_if_it_were_whole(
    producer: Producer, scribe: Scribe, missing: list[int], seen: int
) -> None:
    """A server has lost more than anybody could say again: what stands is no answer."""
    for number, event in enumerate([QUEUED, *answer(100, 5)]):
        if number not in missing:
            await scribe.log(event)
    subscription = producer.subscribe(JOB)
    events = await read(subscription, seen)
    assert events == [QUEUED, *answer(100, 5)][:seen]
    with pytest.raises(CorruptLog, match="misses what came between"):
        await anext(subscription)
    with pytest.raises(CorruptLog, match="misses what came between"):
        await producer.result(JOB, timeout=5)


async def test_a_step_that_is_cancelled_while_a_hole_is_looked_into_loses_nothing(
    producer: Producer, scribe: Scribe
) -> None:
    lost = answer(100, 3 * PAGE)[:-1]
    whole = [QUEUED, *lost[:3], *lost[4:], Waiting(f"100-{len(lost)}", 0, "retry"), *answer(200, 2, number=2)]
    for event in whole:
        await scribe.log(event)
    subscription = producer.subscribe(JOB)
    look, looks, ids = subscription._ask_patiently, 0, []

    async def look_and_be_cancelled(after: EventId) -> object:
        nonlocal looks
        looks += 1
        if looks in (3, 5, 8):  # the first is for the page with the hole, the second for what precedes it
            step.cancel()
            await asyncio.sleep(0)
        return await look(after)

    subscription._ask_patiently = look_and_be_cancelled
    while len(ids) < len(whole):
        step = asyncio.ensure_future(subscription.read())
        with contextlib.suppress(asyncio.CancelledError):
            ids += [event.id for event in await step]
    assert ids == [event.id for event in whole]


@pytest.mark.parametrize("between", [0, 2 * PAGE])
async def test_what_is_missing_of_an_attempt_that_was_begun_afresh_later_is_of_no_answer(
    producer: Producer, scribe: Scribe, between: int
) -> None:
    lost = answer(100, 4 + between)[:-1]
    for event in (
        QUEUED,
        *lost[:3],
        *lost[4:],
        Waiting(f"100-{len(lost)}", 0, "retry"),
        *answer(200, 2, number=2),
    ):
        await scribe.log(event)
    events = await read_all(producer.subscribe(JOB))
    assert len(events) == 1 + len(lost) + 4
    assert (await producer.result(JOB)).text == "piece 1 piece 2 "


async def test_an_unknown_job_is_an_error(producer: Producer) -> None:
    with pytest.raises(JobNotFound, match="nobody"):
        await read_all(producer.subscribe("nobody"))


async def test_a_job_that_expires_under_a_waiting_reader_is_an_error(
    server: Server, prefix: str, scribe: Scribe, redis: Redis, keys: Keys
) -> None:
    async with Producer(server.url, prefix=prefix, idle_check=0.05) as producer:
        await scribe.write(QUEUED)
        subscription = producer.subscribe(JOB)
        await read(subscription, 1)
        await redis.delete(keys.log(JOB))
        with pytest.raises(JobNotFound):
            await anext(subscription)


@pytest.mark.parametrize("cursor", ["", "1", "a-b", "1-", "-1", "1-2-3", "01-2", " 1-2", "9" * 30 + "-0"])
async def test_a_cursor_that_is_no_event_id_is_refused(producer: Producer, cursor: str) -> None:
    with pytest.raises(InvalidCursor):
        producer.subscribe(JOB, after=cursor)


async def test_a_log_that_breaks_the_contract_is_an_error(
    producer: Producer, redis: Redis, keys: Keys, scribe: Scribe
) -> None:
    await scribe.write(QUEUED)
    await redis.xadd(keys.log(JOB), {"f": b"\xc1"}, id="5-0")
    with pytest.raises(CorruptLog, match=JOB):
        await read_all(producer.subscribe(JOB))


async def test_a_reader_is_told_when_its_producer_is_closed(producer: Producer, scribe: Scribe) -> None:
    await scribe.write(QUEUED)
    subscription = producer.subscribe(JOB)
    await read(subscription, 1)
    waiting = asyncio.ensure_future(anext(subscription))
    await asyncio.sleep(0)
    await producer.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await waiting


async def test_any_loss_and_order_of_messages_yields_the_log(
    server: Server, prefix: str, redis: Redis, keys: Keys
) -> None:
    """Twenty random runs: frames of random size, each published never, once or twice, now or later."""
    async with Producer(server.url, prefix=prefix, idle_check=0.05) as producer:
        for seed in range(20):
            await _random_run(
                producer, Scribe(redis, keys, f"job-{seed}"), f"job-{seed}", random.Random(seed)
            )


async def _random_run(producer: Producer, scribe: Scribe, job_id: str, rng: random.Random) -> None:
    attempts = [answer(100 * (i + 1), rng.randint(0, 8), i + 1) for i in range(rng.randint(1, 3))]
    whole = [QUEUED, *(event for attempt in attempts[:-1] for event in attempt[:-1]), *attempts[-1]]
    await scribe.write(QUEUED)
    readers = [asyncio.create_task(read_all(producer.subscribe(job_id))) for _ in range(3)]
    held_back: list[Callable[[], object]] = []
    for frame in _frames(whole[1:], rng):
        await scribe.log(*frame)
        for _ in range(rng.choice([0, 1, 1, 2])):
            await scribe.publish(*frame)
        if rng.random() < 0.3:
            held_back.append(lambda frame=frame: scribe.publish(*frame))
    rng.shuffle(held_back)
    for publish in held_back:
        await publish()  # type: ignore[misc]
    for seen in await asyncio.gather(*readers):
        assert seen == whole


def _frames(events: list[Event], rng: random.Random) -> list[list[Event]]:
    frames: list[list[Event]] = []
    for event in events:
        same_attempt = frames and frames[-1][0].id.split("-")[0] == event.id.split("-")[0]
        if same_attempt and rng.random() < 0.5:
            frames[-1].append(event)
        else:
            frames.append([event])
    return frames
