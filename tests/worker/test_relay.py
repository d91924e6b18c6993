"""Parts in, events out: joined, split, bounded in time, and the provider closed whatever happens."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from producer.wire.events import MAX_TEXT_CHARS, Chunk, Event, Reasoning, ToolCall, Usage
from producer.wire.frames import decode_frame
from producer.wire.keys import Keys
from tests.providers.protocols import QUESTION, delta, sse
from tests.providers.upstream import LAST_CHUNK, Exchange, Upstream, chunk, head
from tests.support.facts import until
from worker.attempt import Attempt, LeaseLost
from worker.clock import Clocks
from worker.event_log import MAX_WAITING_BYTES, EventLog
from worker.outcome import Answered
from worker.pending import Pending
from worker.providers import base
from worker.providers.errors import Broken, Cut, Endless, ProviderError, TimedOut
from worker.providers.http import open_session
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.provider import Timeouts
from worker.relay import relay

SMILE = "\U0001f600"
HIGH, LOW = "\ud83d", "\ude00"  # its two halves, as a service's JSON may send them apart
LONG = 3600.0  # seconds that no test waits


class MemoryWriter:
    """Takes frames as Redis would; it holds them back while ``is_open`` is not set."""

    def __init__(self, reply: bytes = b"written") -> None:
        self.frames: list[tuple[str, bytes]] = []
        self.is_open = asyncio.Event()
        self.is_open.set()
        self._reply = reply
        self._writing: set[asyncio.Task[None]] = set()

    def add(self, pending: Pending) -> None:
        self._writing.add(task := asyncio.ensure_future(self._write(pending)))
        task.add_done_callback(self._writing.discard)

    async def _write(self, pending: Pending) -> None:
        if (call := pending.prepare()) is None:
            return
        await self.is_open.wait()
        last_id, frame = call.args
        assert isinstance(last_id, bytes)
        assert isinstance(frame, bytes)
        self.frames.append((last_id.decode(), frame))
        pending.tell(self._reply)

    @property
    def events(self) -> list[Event]:
        """What a reader of the log would see."""
        frames = [(last_id, decode_frame(frame)) for last_id, frame in self.frames]
        assert all(str(frame.last) == last_id for last_id, frame in frames)
        return [event for _, frame in frames for event in frame.events]


class Provider:
    """Yields its parts, then does what ``at_end`` says; knows how often it was asked, and whether it was closed."""

    def __init__(self, *parts: base.Part, at_end: Callable[[], Any] | None = None) -> None:
        self.asked = 0
        self.closed = False
        self.reached_end = asyncio.Event()
        self._parts = parts
        self._at_end = at_end

    async def answer(self) -> AsyncGenerator[base.Part]:
        try:
            for part in self._parts:
                self.asked += 1
                yield part
            self.reached_end.set()
            if self._at_end is not None:
                await self._at_end()
        finally:
            self.closed = True


async def for_ever() -> None:
    await asyncio.Event().wait()


def limits(first_chunk: float = LONG, between_chunks: float = LONG, total: float = LONG) -> Timeouts:
    return Timeouts(LONG, first_chunk, between_chunks, total)


class Relayed:
    """One attempt: its writer, its log, and how it ended."""

    def __init__(self, writer: MemoryWriter | None = None) -> None:
        self.writer = writer or MemoryWriter()
        self.log = EventLog(self.writer, Keys("t"))  # type: ignore[arg-type]
        self.attempt = Attempt("job", 1000, 1)

    async def of(self, parts: AsyncIterator[base.Part], timeouts: Timeouts | None = None) -> Answered:
        return await relay(parts, self.attempt, self.log, Clocks().of(timeouts or limits()))

    async def events(self) -> list[Event]:
        await self.log.flush(self.attempt)
        return self.writer.events


async def relayed(*parts: base.Part) -> tuple[list[Event], Answered]:
    run = Relayed()
    outcome = await run.of(Provider(*parts).answer())
    return await run.events(), outcome


def texts(events: list[Event], kind: type[Chunk] | type[Reasoning] = Chunk) -> list[str]:
    return [event.text for event in events if isinstance(event, kind)]


# -- text ------------------------------------------------------------------------------------------------------


async def test_every_part_becomes_an_event_and_ids_leave_no_hole() -> None:
    events, outcome = await relayed(
        base.Reasoning("hm"),
        "Hello ",
        "there",
        base.ToolCall("c1", "look", '{"at": 1}'),
        base.Usage(3, 5, {"cached": 2}),
        base.Finish("tool_calls"),
    )
    assert events == [
        Reasoning("1000-0", "hm"),
        Chunk("1000-1", "Hello "),
        Chunk("1000-2", "there"),
        ToolCall("1000-3", {"id": "c1", "name": "look", "arguments": '{"at": 1}'}),
        Usage("1000-4", 3, 5, {"cached": 2}),
    ]
    usage = {"input_tokens": 3, "output_tokens": 5, "cached": 2}
    assert outcome == Answered("tool_calls", len("Hello there"), usage)


async def test_an_answer_without_usage_or_finish_is_whole_and_stopped() -> None:
    assert await relayed("hi") == ([Chunk("1000-0", "hi")], Answered("stop", 2, None))
    assert await relayed() == ([], Answered("stop", 0, None))


async def test_the_last_usage_counts() -> None:
    _, outcome = await relayed("hi", base.Usage(1, 1), base.Usage(1, 9))
    assert outcome.usage == {"input_tokens": 1, "output_tokens": 9}


async def test_empty_chunks_make_no_event() -> None:
    assert await relayed("", "a", "", base.Reasoning(""), "b", "") == (
        [Chunk("1000-0", "a"), Chunk("1000-1", "b")],
        Answered("stop", 2),
    )


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([HIGH, LOW], [SMILE]),
        (["a" + HIGH, LOW + "b"], ["a", SMILE + "b"]),
        ([HIGH, "", LOW], [SMILE]),
        ([HIGH + LOW], [SMILE]),
        ([HIGH, LOW + HIGH, LOW], [SMILE, SMILE]),
        ([HIGH, base.Reasoning("hm"), LOW], [SMILE]),
        ([HIGH, base.Usage(1, 1), base.Finish("stop"), LOW], [SMILE]),
        ([SMILE, "ü", "\u05d0\u05d1", "\U0010ffff"], [SMILE, "ü", "\u05d0\u05d1", "\U0010ffff"]),
    ],
)
async def test_g7_a_pair_split_between_chunks_is_joined(parts: list[base.Part], expected: list[str]) -> None:
    events, outcome = await relayed(*parts)
    assert texts(events) == expected
    assert outcome.chars == len("".join(expected))


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([HIGH], "\ufffd"),
        ([LOW], "\ufffd"),
        (["a", HIGH, "b"], "a\ufffdb"),
        ([HIGH, HIGH, LOW], "\ufffd" + SMILE),
        ([LOW, HIGH], "\ufffd\ufffd"),
        (["end" + HIGH, ""], "end\ufffd"),
    ],
)
async def test_g7_a_half_that_stays_alone_is_shown_as_a_replacement_character(
    parts: list[base.Part], expected: str
) -> None:
    events, outcome = await relayed(*parts)
    assert "".join(texts(events)) == expected
    assert outcome.chars == len(expected)


async def test_g7_holds_for_reasoning_apart_from_the_text() -> None:
    events, _ = await relayed(
        base.Reasoning(HIGH), "x" + HIGH, base.Reasoning(LOW), LOW, base.Reasoning(HIGH)
    )
    assert texts(events, Reasoning) == [SMILE, "\ufffd"]
    assert texts(events) == ["x", SMILE]


async def test_g7_holds_for_tool_calls_and_the_finish_reason() -> None:
    events, outcome = await relayed(
        base.ToolCall("c" + LOW, "na" + HIGH + LOW, '{"a": "' + HIGH + LOW + HIGH + '"}'),
        base.Finish("st" + HIGH),
    )
    call = {"id": "c\ufffd", "name": "na" + SMILE, "arguments": '{"a": "' + SMILE + '\ufffd"}'}
    assert events == [ToolCall("1000-0", call)]
    assert outcome.finish_reason == "st\ufffd"


@pytest.mark.parametrize("part", [str, base.Reasoning])
@pytest.mark.parametrize("length", [MAX_TEXT_CHARS, MAX_TEXT_CHARS + 1, 2 * MAX_TEXT_CHARS + 7])
async def test_an_over_long_chunk_is_split_and_its_text_unchanged(
    part: Callable[[str], base.Part], length: int
) -> None:
    text = (SMILE + "abcü") * (length // 5 + 1)
    text = text[:length]
    events, outcome = await relayed(part(text))
    pieces = texts(events) or texts(events, Reasoning)
    assert "".join(pieces) == text
    assert len(pieces) == -(-length // MAX_TEXT_CHARS)
    assert max(map(len, pieces)) <= MAX_TEXT_CHARS
    assert outcome.chars == (length if part is str else 0)


UNREADABLE: dict[str, base.Part] = {
    "a tool call larger than a frame": base.ToolCall("c", "f", "\u4e2d" * (3 * 1024 * 1024)),
    "a count below zero": base.Usage(-1, 5),
    "a count that is none": base.Usage(None, 5),  # type: ignore[arg-type]
    "usage larger than a frame": base.Usage(1, 1, {"x": "y" * (9 * 1024 * 1024)}),
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_g7_what_no_reader_could_decode_fails_the_attempt_and_is_not_written(name: str) -> None:
    """A foreign class may yield anything; one such event would make the whole log unreadable."""
    run = Relayed()
    provider = Provider("before", UNREADABLE[name])
    with pytest.raises(Exception) as caught:  # noqa: PT011 - a ProviderError, or what makes it a crash
        await run.of(provider.answer())
    assert not isinstance(caught.value, LeaseLost)
    assert texts(await run.events()) == ["before"]  # decoding it is what a reader does
    assert provider.closed


@pytest.mark.parametrize("part", [b"bytes", 3, ["list"]])
async def test_g6_a_part_of_an_unknown_type_is_not_passed_over_in_silence(part: Any) -> None:
    run = Relayed()
    provider = Provider("before", part, "after")
    with pytest.raises((TypeError, ProviderError)):
        await run.of(provider.answer())
    assert provider.closed


# -- time ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "timeouts", "message"),
    [
        ([], limits(first_chunk=0.01), "no first chunk came within 0.01 s"),
        (["a"], limits(between_chunks=0.01), "no further chunk came within 0.01 s"),
        (["a", base.Usage(1, 1)], limits(between_chunks=0.01), "no further chunk came within 0.01 s"),
        ([], limits(total=0.01), "the answer was not whole within 0.01 s"),
        (["a"], limits(total=0.01), "the answer was not whole within 0.01 s"),
        (["a"], limits(first_chunk=0.01, total=0.02), "the answer was not whole within 0.02 s"),
    ],
)
async def test_a_limit_that_is_passed_ends_the_attempt_and_is_named(
    parts: list[base.Part], timeouts: Timeouts, message: str
) -> None:
    run, provider = Relayed(), Provider(*parts, at_end=for_ever)
    with pytest.raises(TimedOut) as caught:
        await run.of(provider.answer(), timeouts)
    assert caught.value.message == message
    assert provider.closed
    assert texts(await run.events()) == ["a"] * (len(parts) > 0)  # what had come stays


@pytest.mark.parametrize("part", ["x" * 60, base.Reasoning("x" * 60)], ids=["text", "reasoning"])
async def test_an_answer_without_end_is_refused(part: base.Part, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.intake.MAX_ANSWER_CHARS", 100)
    with pytest.raises(Endless, match="has no end"):
        await Relayed().of(Provider(part, part, at_end=for_ever).answer(), limits())


async def test_the_pieces_of_a_tool_call_are_signs_of_life() -> None:
    """They are held until the call is whole, and a long one takes longer than the next chunk may."""
    piece = delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "f", "arguments": "x"}}])

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(content_type="text/event-stream", transfer_encoding="chunked"))
        for _ in range(5):
            await exchange.send(chunk(sse(piece)))
            await asyncio.sleep(0.8)
        await exchange.send(chunk(sse(delta(finish_reason="tool_calls"), "[DONE]")), LAST_CHUNK)

    run = Relayed()
    async with Upstream(script) as upstream, open_session() as http:
        answer = OpenAICompatible.create_async_generator("m", QUESTION, base_url=upstream.url, http=http)
        await run.of(answer, limits(first_chunk=3.5, between_chunks=3.5))
    (call,) = [event for event in await run.events() if isinstance(event, ToolCall)]
    assert call.call["arguments"] == 5 * "x"


async def test_the_shortest_limit_between_chunks_lets_the_loop_rest_until_the_first_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job may name any, and the worker has other jobs."""
    loop = asyncio.get_running_loop()
    call_at, timers = loop.call_at, list[float]()

    def count(when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        timers.append(when)
        return call_at(when, *args, **kwargs)

    begin = loop.time()

    async def answer() -> AsyncGenerator[base.Part]:
        while loop.time() < begin + 0.1:  # noqa: ASYNC110 - as many steps of the loop as can be
            await asyncio.sleep(0)
        yield "a"

    monkeypatch.setattr(loop, "call_at", count)
    await Relayed().of(answer(), limits(between_chunks=1e-9))
    assert len(timers) <= 2 + (loop.time() - begin) / 0.05


async def test_g6_a_provider_that_swallows_the_limit_and_ends_has_not_given_a_whole_answer() -> None:
    async def swallow() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    with pytest.raises(TimedOut, match="no further chunk came"):
        await Relayed().of(Provider("a", at_end=swallow).answer(), limits(between_chunks=0.01))
    task = asyncio.current_task()
    assert task is not None
    assert not task.cancelling()


async def test_an_answer_that_trickles_on_is_ended_by_the_limit_on_the_whole() -> None:
    async def trickle() -> AsyncGenerator[base.Part]:
        while True:
            yield ""
            await asyncio.sleep(0)

    with pytest.raises(TimedOut, match="not whole within"):
        await Relayed().of(trickle(), limits(first_chunk=0.001, total=0.02))


async def test_a_timeout_that_a_provider_raises_itself_is_not_taken_for_a_limit() -> None:
    async def own() -> None:
        raise TimeoutError("a pool of its own")

    provider = Provider("a", at_end=own)
    with pytest.raises(TimeoutError, match="a pool of its own"):
        await Relayed().of(provider.answer())
    assert provider.closed


# -- closing ---------------------------------------------------------------------------------------------------


def raising(error: BaseException) -> Callable[[], Any]:
    async def raise_it() -> None:
        raise error

    return raise_it


@pytest.mark.parametrize(
    "error", [Cut("cut"), Broken("broken", status=500), RuntimeError("crash"), asyncio.CancelledError()]
)
async def test_a_provider_that_fails_is_closed_and_its_error_passed_on(error: BaseException) -> None:
    provider = Provider("a", at_end=raising(error))
    with pytest.raises(type(error)):
        await Relayed().of(provider.answer())
    assert provider.closed


async def test_a_provider_is_closed_when_its_answer_is_whole() -> None:
    provider = Provider("a")
    await Relayed().of(provider.answer())
    assert provider.closed


async def test_a_cancel_closes_the_provider() -> None:
    provider = Provider("a", at_end=for_ever)
    task = asyncio.create_task(Relayed().of(provider.answer()))
    await provider.reached_end.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert provider.closed


@pytest.mark.parametrize("reply", [b"lost", b"gone"])
async def test_g3_a_refused_append_closes_the_provider(reply: bytes) -> None:
    async def many() -> AsyncGenerator[base.Part]:
        nonlocal closed
        try:
            while True:
                yield "x"
                await asyncio.sleep(0)
        finally:
            closed = True

    closed = False
    run = Relayed(MemoryWriter(reply))
    with pytest.raises(LeaseLost):
        await run.of(many())
    assert closed


async def test_g3_an_attempt_that_is_lost_already_asks_for_one_part_and_closes() -> None:
    run, provider = Relayed(), Provider("a", "b")
    run.attempt.lose()
    with pytest.raises(LeaseLost):
        await run.of(provider.answer())
    assert (provider.asked, provider.closed, run.writer.frames) == (1, True, [])


async def test_an_iterator_that_is_nothing_but_one_is_read_all_the_same() -> None:
    """``async for`` asks no more of it."""

    class Bare:
        def __init__(self) -> None:
            self._texts: Iterator[str] = iter(["a", "b"])

        async def __anext__(self) -> str:
            for text in self._texts:
                return text
            raise StopAsyncIteration

    class Answer:
        def __aiter__(self) -> Bare:
            return Bare()

    run = Relayed()
    assert await run.of(Answer()) == Answered("stop", 2)  # type: ignore[arg-type]
    assert texts(await run.events()) == ["a", "b"]


async def test_an_iterator_that_cannot_be_closed_is_read_all_the_same() -> None:
    class Plain:
        def __init__(self) -> None:
            self._texts: Iterator[str] = iter(["a", "b"])

        def __aiter__(self) -> "Plain":
            return self

        async def __anext__(self) -> str:
            for text in self._texts:
                return text
            raise StopAsyncIteration

    run = Relayed()
    assert await run.of(Plain()) == Answered("stop", 2)
    assert texts(await run.events()) == ["a", "b"]


# -- a slow Redis ----------------------------------------------------------------------------------------------


async def test_g8_while_too_much_waits_to_be_written_the_provider_is_not_read() -> None:
    size = MAX_WAITING_BYTES // 2
    writer = MemoryWriter()
    writer.is_open.clear()
    log, attempt = EventLog(writer, Keys("t")), Attempt("job", 1000, 1)  # type: ignore[arg-type]
    provider = Provider(*["x" * size] * 9)
    # The limit between chunks is far too short for anything: it must not run while Redis is waited for.
    task = asyncio.create_task(
        relay(provider.answer(), attempt, log, Clocks().of(limits(between_chunks=1e-9)))
    )
    await until(lambda: attempt._settled)  # Redis is waited for
    assert attempt.bytes_on_their_way + attempt.waiting_bytes > MAX_WAITING_BYTES
    assert provider.asked == 2  # one is on its way, one waits
    assert not task.done()
    writer.is_open.set()
    assert await task == Answered("stop", 9 * size)
    await log.flush(attempt)
    assert sum(map(len, texts(writer.events))) == 9 * size
    assert provider.closed


async def test_g8_the_time_for_which_redis_was_waited_for_counts_against_no_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    writer = MemoryWriter()
    writer.is_open.clear()
    log, attempt = EventLog(writer, Keys("t")), Attempt("job", 1000, 1)  # type: ignore[arg-type]

    async def answer() -> AsyncGenerator[base.Part]:
        for _ in range(2):  # one is on its way, one waits
            yield "x" * (MAX_WAITING_BYTES // 2)
        for _ in range(10):  # a timer that is due would have rung by then
            await asyncio.sleep(0)
        yield "end"

    task = asyncio.create_task(relay(answer(), attempt, log, Clocks().of(limits())))
    await until(lambda: attempt._settled)  # Redis is waited for
    later = asyncio.get_running_loop().time() + 2 * LONG
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    writer.is_open.set()
    assert (await task).chars == MAX_WAITING_BYTES + len("end")


async def test_g8_a_job_that_is_lost_while_redis_is_waited_for_closes_its_provider() -> None:
    writer = MemoryWriter()
    writer.is_open.clear()
    log, attempt = EventLog(writer, Keys("t")), Attempt("job", 1000, 1)  # type: ignore[arg-type]
    provider = Provider(*["x" * MAX_WAITING_BYTES] * 9)
    task = asyncio.create_task(relay(provider.answer(), attempt, log, Clocks().of(limits())))
    await until(lambda: attempt._settled)  # Redis is waited for
    attempt.lose()
    with pytest.raises(LeaseLost):
        await task
    assert provider.closed
    writer.is_open.set()
