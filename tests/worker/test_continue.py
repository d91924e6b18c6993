"""`on_retry` once text is out: the answer goes on from the text that stands, or the job ends there."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from producer import AnswerRestarted, Producer
from producer.connection import Call, ScriptRunner
from producer.wire.frames import decode_frame
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.rival import Rival
from tests.support.scripted import Scripted, registry
from tests.support.transcripts import PATIENCE, transcript
from worker import scripts
from worker.providers.base import Reasoning, ToolCall
from worker.providers.continuation import GO_ON
from worker.providers.errors import Broken, Cut, RateLimited

QUICK = {"backoff": 0.01}
IMPATIENT = {"lease": 0.05, "sweep": 0.02}
HI = [{"role": "user", "content": "hi"}]


@pytest.mark.parametrize(
    ("how", "added"),
    [
        ("prefill", [{"role": "assistant", "content": "Once upon 😀"}]),
        ("ask", [{"role": "assistant", "content": "Once upon 😀"}, {"role": "user", "content": GO_ON}]),
    ],
)
async def test_the_provider_is_asked_to_go_on_from_the_text_that_stands(
    producer: Producer, start_worker: StartWorker, how: str, added: list[Any]
) -> None:
    provider = Scripted("a", ["Once ", "upon 😀", Cut("gone")], [" a time"], continuation=how)
    await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue(HI, provider="a", on_retry="continue")
    assert await transcript(producer, job.id) == [
        "queued",
        "started 1 a",
        "+Once ",
        "+upon 😀",
        "waiting retry",
        "started 2 a keeps 11",
        "+ a time",
        "done 18",
    ]
    assert [call.messages for call in provider.calls] == [HI, HI + added]
    assert (await producer.result(job.id)).text == "Once upon 😀 a time"


async def test_an_answer_that_breaks_off_again_and_again_is_one_text_in_the_end(
    producer: Producer, start_worker: StartWorker
) -> None:
    lines = [["ab", Cut("1")], ["cd", RateLimited("2", retry_after=0.01)], ["ef", Broken("3")], ["gh"]]
    provider = Scripted("a", *lines, continuation="prefill")
    await start_worker(registry(provider), **QUICK)
    async with asyncio.timeout(PATIENCE):
        # A restart would raise.
        pieces = [text async for text in producer.stream("hi", provider="a", on_retry="continue")]
    assert "".join(pieces) == "abcdefgh"
    asked_from = [call.messages[1:] for call in provider.calls]
    stood = [[], *([{"role": "assistant", "content": text}] for text in ("ab", "abcd", "abcdef"))]
    assert asked_from == stood


async def test_attempts_that_gave_nothing_do_not_shorten_what_stands(
    producer: Producer, start_worker: StartWorker
) -> None:
    provider = Scripted("a", ["ab", Cut("1")], [Broken("2")], ["cd"])
    await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue("hi", provider="a", on_retry="continue")
    assert (await transcript(producer, job.id))[4:] == [
        "started 2 a keeps 2",
        "waiting retry",
        "started 3 a keeps 2",
        "+cd",
        "done 4",
    ]


async def test_another_provider_goes_on_where_the_first_one_cannot(
    producer: Producer, start_worker: StartWorker
) -> None:
    first = Scripted("a", ["ab", Cut("1")], [Broken("2")])
    second = Scripted("b", ["cd"], continuation="prefill")
    await start_worker(registry(first, second), **QUICK)
    job = await producer.enqueue("hi", provider=["a", "b"], on_retry="continue")
    assert (await transcript(producer, job.id))[4:] == [
        "started 2 a keeps 2",
        "waiting retry",
        "started 2 b keeps 2",
        "+cd",
        "done 4",
    ]
    assert second.calls[0].messages[-1] == {"role": "assistant", "content": "ab"}


@pytest.mark.parametrize(
    "out", [["ab", ToolCall("c1", "look", "{}")], [Reasoning("hm")]], ids=["a tool call", "reasoning alone"]
)
async def test_what_cannot_be_continued_starts_afresh(
    producer: Producer, start_worker: StartWorker, out: list[Any]
) -> None:
    provider = Scripted("a", [*out, Cut("gone")], ["whole"])
    await start_worker(registry(provider), **QUICK)
    job = await producer.enqueue(HI, provider="a", on_retry="continue")
    assert (await transcript(producer, job.id))[-3:] == ["started 2 a", "+whole", "done 5"]
    assert [call.messages for call in provider.calls] == [HI, HI]
    result = await producer.result(job.id)
    assert (result.text, result.reasoning, result.tool_calls) == ("whole", "", ())


async def test_a_provider_that_sees_only_the_last_message_starts_afresh(
    producer: Producer, start_worker: StartWorker
) -> None:
    first = Scripted("a", ["ab", Cut("1")], [Broken("2")])
    second = Scripted("b", ["whole"], has_memory=False)
    await start_worker(registry(first, second), **QUICK)
    job = await producer.enqueue(HI, provider=["a", "b"], on_retry="continue")
    assert (await transcript(producer, job.id))[4:] == [
        "started 2 a keeps 2",
        "waiting retry",
        "started 2 b",
        "+whole",
        "done 5",
    ]
    assert second.calls[0].messages == HI


async def test_a_text_that_was_dropped_by_one_provider_is_not_gone_on_with_by_the_next(
    producer: Producer, start_worker: StartWorker
) -> None:
    first = Scripted("a", ["ab", Cut("1")], [Broken("2")], has_memory=False)
    second = Scripted("b", ["whole"])
    await start_worker(registry(first, second), **QUICK)
    job = await producer.enqueue(HI, provider=["a", "b"], on_retry="continue")
    assert (await transcript(producer, job.id))[4:] == [
        "started 2 a",
        "waiting retry",
        "started 2 b",
        "+whole",
        "done 5",
    ]
    assert second.calls[0].messages == HI
    assert (await producer.result(job.id)).text == "whole"


# -- the worker goes, and not the provider ---------------------------------------------------------------------


async def half_an_answer(rival: Rival) -> None:
    """Another worker begins the answer, and dies."""
    entry = await rival.take()
    await rival.answer(await rival.own(entry), "half ", "an ")
    rival.die(entry)


async def test_the_answer_of_a_killed_worker_is_gone_on_with(
    producer: Producer, start_worker: StartWorker, rival: Rival
) -> None:
    job = await producer.enqueue(HI, provider="a", on_retry="continue")
    await half_an_answer(rival)
    provider = Scripted("a", ["answer"], continuation="prefill")
    await start_worker(registry(provider), **IMPATIENT)
    assert (await transcript(producer, job.id))[4:] == ["started 2 a keeps 8", "+answer", "done 14"]
    assert (await producer.result(job.id)).text == "half an answer"
    assert provider.calls[0].messages[-1]["content"] == "half an "


async def test_the_answer_of_a_killed_worker_ends_the_job_that_shall_not_be_retried(
    producer: Producer, start_worker: StartWorker, rival: Rival
) -> None:
    job = await producer.enqueue(HI, provider="a", on_retry="fail")
    await half_an_answer(rival)
    provider = Scripted("a", ["never said"])
    worker = await start_worker(registry(provider), **IMPATIENT)
    assert (await transcript(producer, job.id))[4].startswith("failed interrupted")
    await worker.idle()
    (dead,) = await producer.dead()
    assert (dead.job_id, dead.letter.code) == (job.id, "interrupted")
    assert provider.calls == []


async def test_a_killed_worker_that_had_said_nothing_is_no_reason_to_fail(
    producer: Producer, start_worker: StartWorker, rival: Rival
) -> None:
    job = await producer.enqueue(HI, provider="a", on_retry="fail")
    entry = await rival.take()
    await rival.answer(await rival.own(entry))
    rival.die(entry)
    await start_worker(registry(Scripted("a", ["whole"])), **IMPATIENT)
    words = ["queued", "started 1 rival", "started 2 a", "+whole", "done 5"]
    assert await transcript(producer, job.id) == words


async def stopped_in_the_middle(producer: Producer, start_worker: StartWorker, on_retry: str) -> str:
    """A worker stops, and hands back a job whose answer has begun; return its id."""
    provider = Scripted("a", ["half ", asyncio.Event()])
    worker = await start_worker(registry(provider), grace=0.0)
    job = await producer.enqueue(HI, provider="a", on_retry=on_retry)
    async with asyncio.timeout(PATIENCE):
        await provider.waits.wait()
        worker.stop()
        await worker.stopped()
    assert provider.calls[0].closed
    return job.id


async def test_the_answer_of_a_stopped_worker_is_gone_on_with_in_the_same_attempt(
    producer: Producer, start_worker: StartWorker
) -> None:
    job_id = await stopped_in_the_middle(producer, start_worker, "continue")
    await start_worker(registry(Scripted("a", ["done"])), name="w2", sweep=0.1)
    assert (await transcript(producer, job_id))[3:] == [
        "waiting released",
        "started 1 a keeps 5",
        "+done",
        "done 9",
    ]


async def test_the_answer_of_a_stopped_worker_ends_the_job_that_shall_not_be_retried(
    producer: Producer, start_worker: StartWorker
) -> None:
    job_id = await stopped_in_the_middle(producer, start_worker, "fail")
    worker = await start_worker(registry(Scripted("a", ["never said"])), name="w2", sweep=0.1)
    assert (await transcript(producer, job_id))[3:] == ["waiting released", "failed interrupted 1"]
    await worker.idle()
    assert [dead.letter.code for dead in await producer.dead()] == ["interrupted"]


async def test_a_reader_of_the_text_is_told_of_a_stopped_workers_restart(
    producer: Producer, start_worker: StartWorker
) -> None:
    job_id = await stopped_in_the_middle(producer, start_worker, "restart")
    reading = producer.text(job_id)
    assert await anext(reading) == "half "
    await start_worker(registry(Scripted("a", ["whole"])), name="w2", sweep=0.1)
    with pytest.raises(AnswerRestarted) as restarted:
        await anext(reading)
    assert restarted.value.keeps == 0


# -- what stands cannot be read --------------------------------------------------------------------------------


@pytest.mark.parametrize(("on_retry", "ends"), [("continue", "done"), ("fail", "failed")])
async def test_a_job_ends_although_its_log_holds_what_nobody_can_read(
    producer: Producer,
    start_worker: StartWorker,
    rival: Rival,
    redis: Redis,
    keys: Keys,
    on_retry: str,
    ends: str,
) -> None:
    """G9: Redis is not trusted."""
    job = await producer.enqueue(HI, provider="a", on_retry=on_retry)
    await half_an_answer(rival)
    await redis.xadd(keys.log(job.id), {"f": b"\xc1 no frame"})
    await redis.xadd(keys.log(job.id), {"g": b"no frame at all"})
    async with redis.pubsub() as channel:
        await channel.subscribe(keys.events(job.id))
        assert (await channel.get_message(timeout=PATIENCE))["type"] == "subscribe"
        worker = await start_worker(registry(Scripted("a", ["answer"])), **IMPATIENT)
        await terminal_event(channel)
    await worker.idle()
    assert (await producer.status(job.id)).status == ends
    assert await redis.xlen(keys.jobs("default")) == 0


async def terminal_event(channel: PubSub) -> None:
    """Wait for it on the channel, because the log cannot be read."""
    async with asyncio.timeout(PATIENCE):
        async for message in channel.listen():
            if message["type"] == "message" and decode_frame(message["data"]).events[-1].terminal:
                return


@pytest.mark.parametrize(
    ("on_retry", "told"), [("continue", "started 2 a keeps 8"), ("fail", "failed interrupted 2")]
)
async def test_a_redis_that_is_away_when_what_stands_is_looked_at_costs_no_job(
    producer: Producer,
    start_worker: StartWorker,
    rival: Rival,
    monkeypatch: pytest.MonkeyPatch,
    on_retry: str,
    told: str,
) -> None:
    """G8: it comes back, and the job goes on."""
    say, cuts = ScriptRunner.say, 3

    def say_or_be_cut_off(runner: ScriptRunner, calls: Sequence[Call], *more: Any) -> None:
        nonlocal cuts
        if cuts and any(call.script is scripts.READ_LOG for call in calls):
            cuts -= 1
            runner._line.close()
        say(runner, calls, *more)

    job = await producer.enqueue(HI, provider="a", on_retry=on_retry)
    await half_an_answer(rival)
    monkeypatch.setattr(ScriptRunner, "say", say_or_be_cut_off)
    await start_worker(registry(Scripted("a", ["answer"])), **IMPATIENT)
    assert (await transcript(producer, job.id))[4] == told
    assert cuts == 0
