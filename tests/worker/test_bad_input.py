"""G9: bad input stops nothing. What cannot be read is buried, what cannot be answered fails and says why."""

import asyncio
import json
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import msgpack
import pytest
from redis.asyncio import Redis
from structlog.testing import capture_logs

from producer import Event, Failed, InvalidJob, JobFailed, JobNotFound, Producer, Queued, Started
from producer.wire.job import MAX_JOB_BYTES
from producer.wire.job_fields import MAX_MESSAGES
from producer.wire.keys import Keys
from tests.conftest import StartWorker, on_real_servers
from tests.providers.upstream import (
    Script,
    Upstream,
    answering,
    answering_and_closing,
    chunk,
    closed_port,
    head,
    whole,
)
from tests.support.gated import Gate, gated_registry
from worker.providers.openai_compatible import OpenAICompatible
from worker.providers.provider import Provider
from worker.providers.registry import Registry

PATIENCE = 10.0  # seconds after which a fact that did not come is a failed test


async def read(producer: Producer, job_id: str) -> list[Event]:
    async with asyncio.timeout(PATIENCE):
        return [event async for event in producer.subscribe(job_id)]


async def first_dead(redis: Redis, keys: Keys) -> dict[bytes, bytes]:
    """Wait for the first buried entry."""
    ((_, ((_, fields),)),) = await redis.xread({keys.dead("default"): "0"}, count=1, block=4000)
    return fields


# -- on the jobs stream ----------------------------------------------------------------------------------------


def packed(**changes: Any) -> bytes:
    """A job as another producer might write it; None leaves a field out."""
    body = {
        "v": 1,
        "id": "readable-id",
        "queue": "default",
        "created_at": 1,
        "messages": [{"role": "user", "content": "hi"}],
        "provider": "echo",
        **changes,
    }
    return msgpack.packb({key: value for key, value in body.items() if value is not None})


@dataclass(frozen=True)
class Bad:
    """An entry's fields, and what the reason must hold."""

    fields: Mapping[bytes, bytes]
    reason: str
    readable: bool = False
    """Whether its readers can be told."""


def bad(data: bytes, reason: str, *, readable: bool = False) -> Bad:
    return Bad({b"job": data}, reason, readable)


BAD_ENTRIES = {
    "not msgpack": bad(b"\xc1 this is no msgpack", "msgpack"),
    "text": bad(b"hello", "map"),
    "empty": bad(b"", "map"),
    "cut off": bad(packed()[:-5], "not whole"),
    "two jobs": bad(packed() + packed(), "map"),
    "a list": bad(msgpack.packb([1, 2]), "map"),
    "nested without end": bad(b"\x91" * 5000, "nested"),
    "a lying header": bad(b"\xdd\xff\xff\xff\xff", "limit"),
    "wrong version": bad(packed(v=7), "version 7", readable=True),
    "no version": bad(packed(v=None), "v: ", readable=True),
    "no messages": bad(packed(messages=None), "messages", readable=True),
    "no id": bad(packed(id=None), "id"),
    "an id that is no name": bad(packed(id="{braces} and blanks"), "id"),
    "an id that is a number": bad(packed(id=17), "id"),
    "no queue": bad(packed(queue=None), "queue", readable=True),
    "unknown role": bad(packed(messages=[{"role": "boss", "content": ""}]), "messages[0]", readable=True),
    "temperature out of range": bad(packed(temperature=9), "temperature", readable=True),
    "not UTF-8": bad(packed(model="x").replace(b"\xa1x", b"\xa1\xff"), "UTF-8"),
    "no job field": Bad({b"task": packed()}, "map"),
}


OVER_SIZE = bad(packed(metadata={"x": "y" * MAX_JOB_BYTES}), "limit is 4,194,304")


@on_real_servers
async def test_g9_what_is_over_size_is_buried_and_the_worker_goes_on(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker
) -> None:
    """fakeredis' TCP server hangs up instead of sending a reply of this size."""
    await check_buried(producer, redis, keys, start_worker, OVER_SIZE)


@pytest.mark.parametrize("name", BAD_ENTRIES)
async def test_g9_what_is_no_job_is_buried_and_the_worker_goes_on(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker, name: str
) -> None:
    await check_buried(producer, redis, keys, start_worker, BAD_ENTRIES[name])


async def check_buried(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker, entry: Bad
) -> None:
    entry_id = await redis.xadd(keys.jobs("default"), dict(entry.fields))
    worker = await start_worker()
    dead = await first_dead(redis, keys)
    assert dead[b"job"] == entry.fields.get(b"job", b"")
    assert entry.reason in dead[b"reason"].decode()
    assert (dead[b"entry"], dead[b"worker"]) == (entry_id, b"w1")

    good = await producer.enqueue("still here", provider="echo")
    assert (await producer.result(good.id, timeout=PATIENCE)).text == "still here"
    await worker.idle()
    assert await redis.xlen(keys.jobs("default")) == 0
    assert (await redis.xpending(keys.jobs("default"), "workers"))["pending"] == 0
    assert await redis.xlen(keys.dead("default")) == 1

    if not entry.readable:
        assert not [key async for key in redis.scan_iter(match=f"{keys.prefix}:{{readable-id}}*")]
        return
    events = await read(producer, "readable-id")
    assert [type(event) for event in events] == [Queued, Failed]
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "invalid_job"
    assert entry.reason in events[-1].message
    assert await redis.pttl(keys.log("readable-id")) > 0
    assert await redis.pttl(keys.record("readable-id")) > 0


async def test_g9_a_reader_who_waits_for_a_job_that_turns_out_broken_is_told(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker
) -> None:
    job = await producer.enqueue("hello", queue="nowhere", id="readable-id")
    waiting = asyncio.create_task(read(producer, job.id))
    await redis.xadd(keys.jobs("default"), {"job": packed(v=7)})
    await start_worker()
    events = await waiting
    assert isinstance(events[-1], Failed)
    assert events[-1].code == "invalid_job"


async def test_g9_many_bad_entries_and_good_ones_side_by_side(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker
) -> None:
    good = []
    for number in range(20):
        await redis.xadd(keys.jobs("default"), {"job": b"\xc1 %d" % number})
        good.append(await producer.enqueue(f"good {number}", provider="echo"))
    worker = await start_worker()
    texts = [(await producer.result(job.id, timeout=PATIENCE)).text for job in good]
    assert texts == [f"good {number}" for number in range(20)]
    await worker.idle()
    assert await redis.xlen(keys.dead("default")) == 20
    assert await redis.xlen(keys.jobs("default")) == 0


# -- nobody to ask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"provider": "nobody"}, "unknown_provider", ["'nobody'", "gated", "resting"]),
        ({"model": "unheard-of"}, "no_provider_for_model", ["'unheard-of'", "gated (gated-model)"]),
        ({"provider": "resting"}, "provider_not_working", ["'resting'", "working: gated"]),
        ({"provider": ["resting", "nobody"]}, "provider_not_working", ["'resting'", "'nobody'"]),
        ({"model": "resting-model"}, "no_provider_for_model", ["'resting'", "working: gated"]),
        ({"provider": "keyless"}, "missing_key", ["'keyless'", "THE_KEY", "working: gated"]),
        ({}, "no_provider", ["gated"]),
    ],
)
async def test_a_job_that_nobody_can_answer_fails_with_the_candidates_and_is_not_retried(
    producer: Producer,
    redis: Redis,
    keys: Keys,
    start_worker: StartWorker,
    fields: dict[str, Any],
    code: str,
    named: list[str],
) -> None:
    gate = Gate()
    gate.open.set()
    (gated,) = gated_registry(gate)
    resting = Provider("resting", "gated", gated.cls, "http://resting", False, ["resting-model"])
    keyless = Provider("keyless", "openai", OpenAICompatible, "http://k", True, [], "THE_KEY")
    worker = await start_worker(Registry([gated, resting, keyless]))
    job = await producer.enqueue("hello", **fields)
    queued, failed = await read(producer, job.id)
    assert isinstance(queued, Queued)
    assert isinstance(failed, Failed)
    assert (failed.code, failed.attempts) == (code, 1)
    assert [text for text in named if text not in failed.message] == []

    # It left the queue and is not asked for again: whatever comes later finds it ended.
    good = await producer.enqueue("hello", provider="gated")
    await producer.result(good.id, timeout=PATIENCE)
    await worker.idle()
    assert gate.calls == 1  # the good one's
    assert await redis.xlen(keys.jobs("default")) == 0
    assert await redis.xlen(keys.dead("default")) == 0
    assert (await producer.status(job.id)).status == "failed"


async def test_a_job_whose_deadline_passed_in_the_queue_fails_and_asks_nobody(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    job = await producer.enqueue("hello", provider="gated", deadline=0)
    await start_worker(gated_registry(gate))
    failed = (await read(producer, job.id))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "deadline_exceeded"
    assert gate.calls == 0


async def test_g12_an_option_that_a_job_may_not_set_fails_it(
    producer: Producer, start_worker: StartWorker
) -> None:
    gate = Gate()
    await start_worker(gated_registry(gate))
    job = await producer.enqueue("hello", provider="gated", options={"base_url": "http://evil.example"})
    failed = (await read(producer, job.id))[-1]
    assert isinstance(failed, Failed)
    assert failed.code == "bad_request"
    assert "base_url" in failed.message
    assert gate.calls == 0


# -- at enqueue ------------------------------------------------------------------------------------------------

HI = [{"role": "user", "content": "hi"}]
DEEP: dict[str, Any] = {}
for _ in range(40):
    DEEP = {"x": DEEP}

INVALID: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no messages": ([], {}, "messages"),
    "messages of a wrong type": (3, {}, "messages"),
    "messages that are bytes": (b"hello", {}, "messages"),
    "one message, not in a list": (HI[0], {}, "messages"),
    "a message that is text": (["hi"], {}, "messages[0]"),
    "a message without role": ([*HI, {"content": "hi"}], {}, "messages[1]"),
    "unknown role": ([{"role": "boss", "content": "hi"}], {}, "messages[0]: role 'boss'"),
    "a role that is no text": ([{"role": ["user"], "content": "hi"}], {}, "messages[0]"),
    "no content": ([{"role": "user"}], {}, "messages[0]"),
    "content of a wrong type": ([{"role": "user", "content": 3}], {}, "messages[0]"),
    "parts without type": ([{"role": "user", "content": [{"text": "hi"}]}], {}, "messages[0]"),
    "half a surrogate pair": ("\ud83d", {}, "messages[0]"),
    "too many messages": (HI * (MAX_MESSAGES + 1), {}, "messages"),
    "too large": ("x" * (MAX_JOB_BYTES + 1), {}, "the job has 4,194,"),
    "temperature below": (HI, {"temperature": -0.1}, "temperature"),
    "temperature above": (HI, {"temperature": 2.1}, "temperature"),
    "temperature is text": (HI, {"temperature": "hot"}, "temperature"),
    "temperature is not a number": (HI, {"temperature": float("nan")}, "temperature"),
    "unknown field": (HI, {"colour": "red"}, "colour: no such field"),
    "a field of the wire, not of callers": (HI, {"created_at": 1}, "created_at: no such field"),
    "an id that is no name": (HI, {"id": "a b"}, "id"),
    "an id with braces": (HI, {"id": "{x}"}, "id"),
    "an empty id": (HI, {"id": ""}, "id"),
    "an id that is too long": (HI, {"id": "x" * 129}, "id"),
    "an id that is a number": (HI, {"id": 7}, "id"),
    "a queue that is no name": (HI, {"queue": "a:{b}"}, "queue"),
    "an empty queue": (HI, {"queue": ""}, "queue"),
    "a provider that is no name": (HI, {"provider": "a b"}, "provider"),
    "an empty list of providers": (HI, {"provider": []}, "provider"),
    "a list with what is no name": (HI, {"provider": ["echo", 3]}, "provider"),
    "an empty model": (HI, {"model": ""}, "model"),
    "a model that is no text": (HI, {"model": 3}, "model"),
    "options that are no map": (HI, {"options": [1]}, "options"),
    "options that have no form": (HI, {"options": {"x": object()}}, "options"),
    "options nested too deep": (HI, {"options": DEEP}, "options"),
    "options with a key that is no text": (HI, {"options": {3: "x"}}, "options"),
    "options that are not finite": (HI, {"options": {"x": float("inf")}}, "options"),
    "metadata that is no map": (HI, {"metadata": "x"}, "metadata"),
    "an unknown timeout": (HI, {"timeouts": {"read": 3.0}}, "timeouts.read: no such field"),
    "a timeout of zero": (HI, {"timeouts": {"total": 0.0}}, "timeouts.total"),
    "timeouts that are a number": (HI, {"timeouts": 3}, "timeouts"),
    "a deadline without time zone": (HI, {"deadline": datetime(2030, 1, 1)}, "deadline"),  # noqa: DTZ001
    "a deadline before 1970": (HI, {"deadline": timedelta(days=-40_000)}, "deadline"),
    "a deadline that is text": (HI, {"deadline": "soon"}, "deadline"),
    "a deadline that is not finite": (HI, {"deadline": float("inf")}, "deadline"),
    "no attempts": (HI, {"max_attempts": 0}, "max_attempts"),
    "on_retry unknown": (HI, {"on_retry": "panic"}, "on_retry"),
    "trace that is no text": (HI, {"trace": {"traceparent": 3}}, "trace"),
}


@pytest.mark.parametrize("name", INVALID)
async def test_what_breaks_a_rule_is_refused_at_enqueue_naming_the_field_and_nothing_is_written(
    producer: Producer, redis: Redis, prefix: str, name: str
) -> None:
    messages, fields, named = INVALID[name]
    with pytest.raises(InvalidJob) as caught:
        await producer.enqueue(messages, **fields)
    message = str(caught.value)
    assert message.startswith(named)
    assert len(message) < 500
    assert "\n" not in message
    assert [key async for key in redis.scan_iter(match=f"{prefix}*")] == []
    if isinstance(fields.get("id"), str):
        with pytest.raises(JobNotFound):
            await producer.status(fields["id"])


# -- the service -----------------------------------------------------------------------------------------------

SECRET = "correct-horse-battery"  # looks like no key: only who knows it can hide it
SK = "sk-proj-abcdef0123456789"  # looks like one: nobody needs to know it
ECHOED = json.dumps(
    {"error": {"message": f"bad key {SECRET}, or was it {SK}? authorization: Bearer {SECRET}"}}
)
SSE = {"content_type": "text/event-stream", "transfer_encoding": "chunked"}
DELTA = b'data: {"choices": [{"index": 0, "delta": {"content": "half "}}]}\n\n'


@dataclass(frozen=True)
class Row:
    """What the service does, and what the reader is told."""

    script: Script
    code: str
    named: tuple[str, ...]
    text: str = ""


UPSTREAM = {
    "401": Row(
        answering(whole(ECHOED.encode(), "401 Unauthorized")),
        "unauthorized",
        ("401 Unauthorized", "bad key ***"),
    ),
    "404": Row(
        answering(whole(b"no such model\nsecond line", "404 Not Found")),
        "refused",
        ("404 Not Found", "no such model"),
    ),
    "429": Row(
        answering(whole(ECHOED.encode(), "429 Too Many Requests", retry_after="3")),
        "rate_limited",
        ("429 Too Many Requests", "bad key ***"),
    ),
    "500": Row(
        answering(whole(f"oops, {SECRET}\nat line 3".encode(), "500 Internal Server Error")),
        "upstream_error",
        ("500 Internal Server Error", "oops, ***"),
    ),
    "no body": Row(answering(whole(b"", "503 Service Unavailable")), "upstream_error", ("503",)),
    "HTML": Row(
        answering(whole(f"<html>log in, {SK}</html>\n<p>".encode(), content_type="text/html")),
        "not_a_stream",
        ("text/html", "<html>log in, ***"),
    ),
    "an error inside the stream": Row(
        answering(head(**SSE), chunk(DELTA), chunk(b"data: " + ECHOED.encode() + b"\n\n")),
        "upstream_error",
        ("bad key ***",),
        "half ",
    ),
    "cut in the middle": Row(
        answering_and_closing(head(**SSE), chunk(DELTA)), "cut", ("before the answer was complete",), "half "
    ),
    "no end mark": Row(
        answering(head(**SSE), chunk(DELTA), b"0\r\n\r\n"), "cut", ("without [DONE]",), "half "
    ),
    "not HTTP": Row(answering_and_closing(b"SSH-2.0-OpenSSH\r\n\r\n"), "upstream_error", ("not HTTP",)),
    "closed without a word": Row(answering_and_closing(), "cut", ("closed the connection",)),
}


def service(url: str) -> Registry:
    return Registry(
        [Provider("llm", "openai", OpenAICompatible, url, True, ["m"], "LLM_KEY", SECRET, options={})]
    )


async def everything_said(producer: Producer, redis: Redis, keys: Keys, job_id: str, logs: list[Any]) -> str:
    """All that was written down about a job: events, record, status, log lines."""
    events = await redis.xrange(keys.log(job_id))
    record = await redis.hgetall(keys.record(job_id))
    return repr([events, record, asdict(await producer.status(job_id)), logs])


async def failure(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker, url: str
) -> JobFailed:
    """Let one job fail at ``url``; no secret may be left behind anywhere."""
    with capture_logs() as logs:
        worker = await start_worker(service(url), max_wait=0.001)
        job = await producer.enqueue("hello", provider="llm", model="m", max_attempts=1)
        with pytest.raises(JobFailed) as caught:
            await producer.result(job.id, timeout=PATIENCE)
        await worker.idle()
    said = await everything_said(producer, redis, keys, job.id, [*logs, str(caught.value)])
    assert SECRET not in said
    assert SK not in said
    assert [event["log_level"] for event in logs if event["log_level"] in {"error", "critical"}] == []
    events = await read(producer, job.id)
    assert [type(event) for event in events if not hasattr(event, "text")] == [Queued, Started, Failed]
    assert await redis.xlen(keys.jobs("default")) == 0
    return caught.value


@pytest.mark.parametrize("name", UPSTREAM)
async def test_a_service_that_fails_is_told_with_code_status_and_first_line_without_secrets(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker, name: str
) -> None:
    row = UPSTREAM[name]
    async with Upstream(row.script) as upstream:
        error = await failure(producer, redis, keys, start_worker, upstream.url)
        assert [f"Bearer {SECRET}".encode() in request for request in upstream.requests] == [True]
        assert (error.code, error.text, error.attempts) == (row.code, row.text, 1)
        assert [text for text in (*row.named, upstream.netloc) if text not in error.message] == []
    assert "\n" not in error.message
    assert "line" not in error.message


async def test_a_refused_connection_fails_the_job(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker
) -> None:
    async with closed_port() as url:
        error = await failure(producer, redis, keys, start_worker, url)
    assert error.code == "unreachable"
    assert url.removeprefix("http://") in error.message
    assert "onnection refused" in error.message or "onnect call failed" in error.message


async def test_an_unknown_host_fails_the_job(
    producer: Producer, redis: Redis, keys: Keys, start_worker: StartWorker
) -> None:
    error = await failure(producer, redis, keys, start_worker, "http://no-such-host.invalid/v1")
    assert error.code == "unreachable"
    assert "no-such-host.invalid" in error.message


async def test_failing_services_do_not_stop_the_worker(producer: Producer, start_worker: StartWorker) -> None:
    """All of them at once, and a service that answers among them."""
    done = answering(
        head(**SSE),
        chunk(DELTA),
        chunk(b'data: {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'),
        b"0\r\n\r\n",
    )
    async with AsyncExitStack() as stack:
        scripts = {**{name: row.script for name, row in UPSTREAM.items()}, "good": done}
        upstreams = {
            name: await stack.enter_async_context(Upstream(script)) for name, script in scripts.items()
        }
        names = {name: f"u{number}" for number, name in enumerate(scripts)}
        providers = [
            Provider(names[name], "openai", OpenAICompatible, upstream.url, True, [], "K", SECRET)
            for name, upstream in upstreams.items()
        ]
        await start_worker(Registry(providers), max_wait=0.001)
        asked = {"model": "m", "max_attempts": 1}
        jobs = {name: await producer.enqueue("hello", provider=names[name], **asked) for name in upstreams}
        ends = {name: (await read(producer, job.id))[-1] for name, job in jobs.items()}
    assert ends.pop("good").type == "done"
    assert {name: end.code for name, end in ends.items() if isinstance(end, Failed)} == {
        name: row.code for name, row in UPSTREAM.items()
    }


# -- in Redis itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["log", "record", "cancel"])
async def test_a_job_whose_keys_hold_something_else_is_buried_and_the_worker_goes_on(
    producer: Producer, start_worker: StartWorker, redis: Redis, keys: Keys, place: str
) -> None:
    job = await producer.enqueue("x", provider="echo")
    key = {"log": keys.log, "record": keys.record, "cancel": keys.cancel}[place](job.id)
    await redis.delete(key)
    await redis.lpush(key, "neither a stream, a hash nor a string")
    await start_worker()
    dead = await first_dead(redis, keys)
    assert dead[b"reason"].startswith(b"redis refused")
    assert dead[b"job"] == job.encode()
    good = await producer.enqueue("after", provider="echo")
    assert (await producer.result(good.id)).text == "after"
