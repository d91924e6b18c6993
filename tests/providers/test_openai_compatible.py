"""What the OpenAI protocol has of its own (G6: no end mark, no success); the rest is in test_conformance."""

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import aiohttp
import pytest

from worker.providers.base import Finish, Part, Reasoning, ToolCall, Usage
from worker.providers.errors import (
    BadRequest,
    Broken,
    Cut,
    NotAStream,
    ProviderError,
    RateLimited,
    Refused,
    TimedOut,
    Unauthorized,
)
from worker.providers.openai_compatible import OpenAICompatible

from .protocols import OPENAI, QUESTION, collect, delta, sse, text_of
from .upstream import Exchange, Upstream, answering, answering_and_closing, chunk, whole

DONE = "[DONE]"
KEY = "no-usual-look-4711"

pytestmark = pytest.mark.usefixtures("taken_in_both_ways")


async def answer_to(body: bytes, http: aiohttp.ClientSession, **more: Any) -> list[Part]:
    async with Upstream(answering(whole(body, content_type="text/event-stream; charset=utf-8"))) as upstream:
        return await collect(OPENAI.ask(upstream.url, http=http, **more))


async def request_of(http: aiohttp.ClientSession, **more: Any) -> tuple[str, dict[str, Any]]:
    """The head and the JSON body that a call sends."""
    async with Upstream(answering(whole(sse(DONE), content_type="text/event-stream"))) as upstream:
        await collect(OPENAI.ask(f"{upstream.url}/v1/", http=http, **more))
    head, body = upstream.requests[0].decode().split("\r\n\r\n")
    return head, json.loads(body)


# --- the request -------------------------------------------------------------------------------------


async def test_the_request_has_these_headers_and_no_other(http: aiohttp.ClientSession) -> None:
    head, _ = await request_of(http, api_key=KEY)
    lines = head.split("\r\n")
    assert lines[0] == "POST /v1/chat/completions HTTP/1.1"
    assert [line.split(": ")[0] for line in lines[1:]] == [
        "Host",
        "Authorization",
        "Content-Type",
        "Accept",
        "User-Agent",
        "Content-Length",
    ]
    assert f"Authorization: Bearer {KEY}" in lines
    assert "Accept: text/event-stream" in lines


async def test_without_a_key_no_authorization_is_sent(http: aiohttp.ClientSession) -> None:
    head, _ = await request_of(http)
    assert "authorization" not in head.lower()


async def test_the_body_asks_for_a_stream_with_usage(http: aiohttp.ClientSession) -> None:
    _, body = await request_of(http)
    assert body == {
        "model": "any-model",
        "messages": QUESTION,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


@pytest.mark.parametrize("temperature", [0, 0.7])
async def test_a_temperature_is_sent_when_it_is_given(
    temperature: float, http: aiohttp.ClientSession
) -> None:
    _, body = await request_of(http, temperature=temperature)
    assert body["temperature"] == temperature


async def test_options_become_fields_of_the_body(http: aiohttp.ClientSession) -> None:
    _, body = await request_of(http, top_p=0.1, tools=[{"type": "function"}], stop=None)
    assert body["top_p"] == 0.1
    assert body["tools"] == [{"type": "function"}]
    assert "stop" not in body


async def test_stream_options_can_be_changed(http: aiohttp.ClientSession) -> None:
    _, body = await request_of(http, stream_options={"include_usage": False})
    assert body["stream_options"] == {"include_usage": False}


@pytest.mark.parametrize("given", [None, {}], ids=["by a job", "by a table of TOML, which has no null"])
async def test_stream_options_can_be_left_out_where_a_service_refuses_them(
    given: object, http: aiohttp.ClientSession
) -> None:
    _, body = await request_of(http, stream_options=given)
    assert "stream_options" not in body


async def test_an_option_cannot_turn_the_stream_off() -> None:
    with pytest.raises(BadRequest, match=r"an option cannot set stream$"):
        await anext(OpenAICompatible.create_async_generator("m", QUESTION, stream=False))


@pytest.mark.parametrize("key", ["key\n", "ke\ry", "schlüssel", "a\x00b"])
async def test_a_key_that_fits_no_header_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(BadRequest, match="header Authorization") as caught:
        await anext(OPENAI.ask("http://h.invalid", api_key=key))
    assert key not in caught.value.message


async def test_a_password_in_the_url_authorizes_and_stays_secret(http: aiohttp.ClientSession) -> None:
    async with Upstream(answering(whole(b"wrong: hunter2", "401 Unauthorized"))) as upstream:
        url = upstream.url.replace("://", "://me:hunter2@")
        with pytest.raises(Refused) as caught:
            await collect(OPENAI.ask(url, http=http))
        assert caught.value.message == f"{upstream.netloc} answered 401 Unauthorized: wrong: ***"
        assert b"\r\nAuthorization: Basic bWU6aHVudGVyMg==\r\n" in upstream.requests[0]


# --- the parts of an answer --------------------------------------------------------------------------


async def test_an_answer_comes_as_parts_in_order(http: aiohttp.ClientSession) -> None:
    body = sse(
        delta(role="assistant"),
        delta(reasoning_content="Hm"),
        delta(None, reasoning="m."),
        delta("Hel"),
        delta(""),
        delta("lo", refusal=None, tool_calls=None),
        delta(finish_reason="stop"),
        {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}},
        DONE,
    )
    assert await answer_to(body, http) == [
        Reasoning("Hm"),
        Reasoning("m."),
        "Hel",
        "lo",
        Finish("stop"),
        Usage(3, 2, {"total_tokens": 5}),
    ]


@pytest.mark.parametrize(("number", "text"), [(5, "5"), (0, "0"), (0.005, "0.005"), (-1, "-1")])
async def test_a_token_that_is_sent_as_a_number_is_not_lost(
    number: float, text: str, http: aiohttp.ClientSession
) -> None:
    body = sse(delta("["), delta(number), delta("]"), delta(reasoning_content=number), DONE)
    assert await answer_to(body, http) == ["[", text, "]", Reasoning(text)]


@pytest.mark.parametrize("thinking", [[{"type": "text", "text": "Hm."}], "Hm."])
async def test_thinking_among_the_parts_of_a_content_is_reasoning(
    thinking: object, http: aiohttp.ClientSession
) -> None:
    parts = [{"type": "thinking", "thinking": thinking}, {"type": "text", "text": "So"}]
    assert await answer_to(sse(delta(parts), delta("!"), DONE), http) == [Reasoning("Hm."), "So", "!"]


@pytest.mark.parametrize(("reason", "told"), [("stop", "refusal"), ("content_filter", "content_filter")])
async def test_a_refusal_is_text_and_the_reason_why_it_ended(
    reason: str, told: str, http: aiohttp.ClientSession
) -> None:
    body = sse(delta(refusal="I'm"), delta(refusal=" sorry"), delta(finish_reason=reason), DONE)
    assert await answer_to(body, http) == ["I'm", " sorry", Finish(told)]


async def test_content_may_be_a_list_of_parts(http: aiohttp.ClientSession) -> None:
    body = sse(
        delta([{"type": "text", "text": "a"}, {"type": "image"}, {"type": "text", "text": "b"}, 7]), DONE
    )
    assert await answer_to(body, http) == ["ab"]


async def test_other_choices_than_the_first_are_ignored(http: aiohttp.ClientSession) -> None:
    body = sse({"choices": [{"index": 1, "delta": {"content": "no"}}, {"delta": {"content": "yes"}}]}, DONE)
    assert await answer_to(body, http) == ["yes"]


@pytest.mark.parametrize(
    "odd",
    [
        {},
        {"choices": None, "usage": None, "error": None},
        {"choices": "x"},
        {"choices": [None, 3, {}]},
        {"choices": [{"index": [], "delta": {"content": "no"}}]},
        {"choices": [{"index": 0, "delta": None, "finish_reason": None}]},
        {"choices": [{"index": 0, "delta": {}, "finish_reason": {}}, {"finish_reason": []}]},
        {"choices": [{"index": 0, "delta": {"content": True, "refusal": 1, "function_call": "x"}}]},
        {"choices": [{"index": 0, "delta": {"content": [{"type": "thinking", "thinking": [3]}]}}]},
        {
            "choices": [
                {"index": 0, "delta": {"content": {}, "reasoning": {}, "tool_calls": "x"}, "finish_reason": 1}
            ]
        },
        {"usage": []},
        {"usage": {"prompt_tokens": "3"}},
        "",
        " ",
    ],
)
async def test_odd_shapes_are_passed_over(odd: object, http: aiohttp.ClientSession) -> None:
    assert await answer_to(sse(odd, delta("on"), odd, DONE), http) == ["on"]


TEXT = {"index": 0, "delta": {"content": "a"}}


@pytest.mark.parametrize(
    ("chunk", "parts"),
    [
        ({"choices": [TEXT], "usage": None, "id": "x"}, ["a"]),
        ({"choices": [TEXT, TEXT, TEXT | {"index": 1}]}, ["a", "a"]),
        ({"choices": [TEXT | {"finish_reason": "stop"}]}, ["a", Finish("stop")]),
        (delta("a", reasoning="Hm"), [Reasoning("Hm"), "a"]),
        (delta("a", reasoning_content="Hm", role="assistant"), [Reasoning("Hm"), "a"]),
        (delta("a", tool_calls=[{"id": "c", "function": {"name": "f"}}]), ["a", ToolCall("c", "f", "")]),
        ({"choices": [TEXT], "usage": {"prompt_tokens": 3}}, ["a", Usage(3, 0)]),
        ({"choices": [TEXT | {"delta": {"content": ["a"]}}]}, []),
    ],
)
async def test_a_chunk_with_a_text_may_carry_more(
    chunk: dict[str, Any], parts: list[Part], http: aiohttp.ClientSession
) -> None:
    assert await answer_to(sse(chunk, DONE), http) == parts


@pytest.mark.parametrize(
    "number", ["-0", "1e5", "0.1e-7", "123456789012345678", "1234567890123456789", "9" * 30, "1e999", "NaN"]
)
async def test_numbers_mean_what_they_mean_to_the_standard_library(
    number: str, http: aiohttp.ClientSession
) -> None:
    body = sse(f'{{"usage": {{"prompt_tokens": 1, "completion_tokens": {number}, "other": {number}}}}}', DONE)
    value = json.loads(number, parse_int=lambda digits: int(digits) if len(digits) <= 18 else float(digits))
    (usage,) = await answer_to(body, http)
    expected = Usage(1, max(value, 0) if isinstance(value, int) else 0, {"other": value})
    assert repr(usage) == repr(expected)


@pytest.mark.parametrize("depth", [500, 900, 1000, 1020, 2000])
async def test_however_deep_an_event_is_nothing_breaks_but_the_answer(
    depth: int, http: aiohttp.ClientSession
) -> None:
    deep = "[" * depth + "]" * depth
    body = sse(f'{{"usage": {{"prompt_tokens": 1, "deep": {deep}}}, "choices": {deep}}}', delta("on"), DONE)
    (result,) = await asyncio.gather(answer_to(body, http), return_exceptions=True)
    if isinstance(result, BaseException):
        assert isinstance(result, Broken)
        assert "sent an event that is not JSON" in result.message
    else:
        assert text_of(result) == "on"


async def test_halves_of_a_surrogate_pair_are_passed_on_as_they_come(http: aiohttp.ClientSession) -> None:
    body = sse(
        r'{"choices": [{"delta": {"content": "\ud83d"}}]}',
        r'{"choices": [{"delta": {"content": "\ude42"}}]}',
        DONE,
    )
    assert await answer_to(body, http) == ["\ud83d", "\ude42"]


def calls(*pieces: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    return delta(finish_reason=finish_reason, tool_calls=list(pieces))


def piece(index: int | None, arguments: str | None, **more: str) -> dict[str, Any]:
    names = {"name": more["name"]} if "name" in more else {}
    return {
        "index": index,
        "id": more.get("id"),
        "type": "function",
        "function": {"arguments": arguments, **names},
    }


async def test_tool_calls_are_put_together_and_come_before_the_finish(http: aiohttp.ClientSession) -> None:
    body = sse(
        calls(piece(1, "", id="c1", name="time")),
        calls(piece(0, None, id="c0", name="weather")),
        calls(piece(0, '{"city": '), piece(1, "{}")),
        calls(piece(0, '"Köln"}', id="c0", name="weather")),
        delta("x"),
        delta(finish_reason="tool_calls"),
        delta(finish_reason="tool_calls"),
        DONE,
    )
    assert await answer_to(body, http) == [
        "x",
        ToolCall("c0", "weather", '{"city": "Köln"}'),
        ToolCall("c1", "time", "{}"),
        Finish("tool_calls"),
    ]


@pytest.mark.parametrize("index", [0, None])
async def test_whole_calls_that_all_stand_at_one_place_are_calls_of_their_own(
    index: int | None, http: aiohttp.ClientSession
) -> None:
    body = sse(
        calls(piece(index, '{"a": 1}', id="c0", name="f")),
        calls(piece(index, '{"b": ', id="c1", name="f")),
        calls(piece(index, "2}")),
        delta(finish_reason="tool_calls"),
        DONE,
    )
    assert await answer_to(body, http) == [
        ToolCall("c0", "f", '{"a": 1}'),
        ToolCall("c1", "f", '{"b": 2}'),
        Finish("tool_calls"),
    ]


@pytest.mark.parametrize("index", [0, None])
async def test_whole_calls_without_ids_at_one_place_are_calls_of_their_own(
    index: int | None, http: aiohttp.ClientSession
) -> None:
    body = sse(
        calls(piece(index, '{"x": ', name="f")),
        calls(piece(index, "{}", name="f")),
        calls(piece(index, "}", name="f")),
        calls(piece(index, "\n", name="f")),
        calls(piece(index, '{"y": 1}', name="g")),
        calls(piece(index, "\n", name="g")),
        calls(piece(index, '{"y": 2}', name="g")),
        delta(finish_reason="tool_calls"),
        DONE,
    )
    assert await answer_to(body, http) == [
        ToolCall("", "f", '{"x": {}}\n'),
        ToolCall("", "g", '{"y": 1}\n'),
        ToolCall("", "g", '{"y": 2}'),
        Finish("tool_calls"),
    ]


async def test_a_function_call_of_the_time_before_tools_is_a_tool_call(http: aiohttp.ClientSession) -> None:
    body = sse(
        delta(function_call={"name": "f", "arguments": '{"x"'}),
        delta(function_call={"arguments": ": 1}"}),
        delta(finish_reason="function_call"),
        DONE,
    )
    assert await answer_to(body, http) == [ToolCall("", "f", '{"x": 1}'), Finish("function_call")]


async def test_tool_calls_in_the_finishing_chunk_count(http: aiohttp.ClientSession) -> None:
    body = sse(calls(piece(None, "{}", id="c", name="f"), finish_reason="tool_calls"), DONE)
    assert await answer_to(body, http) == [ToolCall("c", "f", "{}"), Finish("tool_calls")]


async def test_tool_calls_without_a_finish_reason_come_at_the_end_mark(http: aiohttp.ClientSession) -> None:
    assert await answer_to(sse(calls(piece(0, "{}", id="c", name="f")), DONE), http) == [
        ToolCall("c", "f", "{}")
    ]


async def test_arguments_split_inside_a_surrogate_pair_are_joined(http: aiohttp.ClientSession) -> None:
    halves = [json.dumps(calls(piece(0, text, id="c", name="f"))) for text in ('"\ud83d', '\ude42 \ud83d"')]
    assert await answer_to(sse(*halves, DONE), http) == [ToolCall("c", "f", '"🙂 \ufffd"')]


async def test_tool_calls_without_end_are_refused(
    http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.tool_calls.MAX_CALLS_SIZE", 10)
    for more in ([piece(0, "x" * 6)] * 2, [piece(0, "", name="n" * 20)], [piece(0, "")] * 11):
        with pytest.raises(Broken, match="tool calls without end"):
            await answer_to(sse(*map(calls, more), DONE), http)


async def test_the_last_usage_stands_and_comes_once(http: aiohttp.ClientSession) -> None:
    first = {**delta("a"), "usage": {"prompt_tokens": 1, "completion_tokens": 1}}
    last = {**delta("b"), "usage": {"prompt_tokens": 1, "completion_tokens": 2, "cost": {"usd": 0.1}}}
    assert await answer_to(sse(first, last, DONE), http) == ["a", "b", Usage(1, 2, {"cost": {"usd": 0.1}})]


async def test_usage_holds_nothing_that_cannot_be_packed(http: aiohttp.ClientSession) -> None:
    body = sse(
        r'{"usage": {"prompt_tokens": 1, "completion_tokens": -1, "a": 99999999999999999999, "b": "\ud83d"}}',
        DONE,
    )
    assert await answer_to(body, http) == [Usage(1, 0, {"a": 1e20, "b": "\ufffd"})]


# --- the end, and what is none -----------------------------------------------------------------------


async def test_an_answer_without_its_end_mark_was_cut(http: aiohttp.ClientSession) -> None:
    body = sse(delta("Once"), delta(finish_reason="stop"))
    seen: list[Part] = []
    async with Upstream(answering_and_closing(OPENAI.head(connection="close") + body)) as upstream:
        with pytest.raises(Cut) as caught:
            await keep(seen, OPENAI.ask(upstream.url, http=http))
        assert caught.value.message == f"{upstream.netloc} ended its answer without [DONE]"
    assert seen == ["Once", Finish("stop")]


async def keep(seen: list[Part], answer: AsyncGenerator[Part]) -> None:
    async for part in answer:
        seen.append(part)  # noqa: PERF401 - a comprehension would lose what came before the error


@pytest.mark.parametrize("end", [b"data: [DONE]", b"data: [DONE]\n", b"data:[DONE]\r\n", b"data: [DONE] \r"])
async def test_an_end_mark_counts_without_its_blank_line(end: bytes, http: aiohttp.ClientSession) -> None:
    assert await answer_to(sse(delta("a")) + end, http) == ["a"]


@pytest.mark.parametrize("end", [b"data: [DON", b"[DONE]\n\n", b": [DONE]\n\n", b"data: x\ndata: [DONE]"])
async def test_less_than_the_end_mark_is_none(end: bytes, http: aiohttp.ClientSession) -> None:
    with pytest.raises(Cut):
        await answer_to(sse(delta("a")) + end, http)


async def test_nothing_counts_after_the_end_mark(http: aiohttp.ClientSession) -> None:
    assert await answer_to(sse(delta("a"), DONE, delta("b"), "{not json"), http) == ["a"]


async def test_the_end_mark_ends_the_answer_though_the_connection_stays_open(
    http: aiohttp.ClientSession,
) -> None:
    async def stay(exchange: Exchange) -> None:
        await exchange.send(OPENAI.head(transfer_encoding="chunked"), chunk(sse(delta("a"), DONE)))
        await exchange.peer_closed()

    async with Upstream(stay) as upstream:
        assert text_of(await collect(OPENAI.ask(upstream.url, http=http))) == "a"


@pytest.mark.parametrize(
    "event",
    [
        b'data: {"error": {"message": "overloaded", "code": 503}}\n\n',
        b'data: {"error": "overloaded"}\n\n',
        b'event: error\ndata: {"message": "overloaded"}\n\n',
        b"event: error\ndata: overloaded\n\n",
        b'data: {"object": "error", "message": "overloaded", "code": 503}\n\n',
        b'data: {"choices": [{"delta": {"content": "b"}, "error": {"message": "overloaded"}}]}\n\n',
    ],
)
async def test_an_error_inside_the_stream_is_a_failure(event: bytes, http: aiohttp.ClientSession) -> None:
    with pytest.raises(Broken, match=r"reported an error inside its answer: .*overloaded"):
        await answer_to(sse(delta("a")) + event + sse(DONE), http)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 400}, Refused),
        ({"code": 401}, Unauthorized),
        ({"code": "402"}, Unauthorized),
        ({"code": 408}, TimedOut),
        ({"code": 429}, RateLimited),
        ({"code": "rate_limit_exceeded"}, RateLimited),
        ({"type": "rate_limit_error", "code": None}, RateLimited),
        ({"code": 429, "type": "insufficient_quota"}, Unauthorized),
        ({"code": "insufficient_quota"}, Unauthorized),
        ({"code": 502}, Broken),
        ({"code": 503}, Broken),
        ({"code": 200}, Broken),
        ({"code": True, "type": []}, Broken),
        ({"code": "server_error"}, Broken),
        ("429", Broken),
    ],
)
@pytest.mark.parametrize("place", ["a chunk", "an event", "a choice"])
async def test_an_error_inside_the_stream_that_names_a_status_is_what_that_status_stands_for(
    error: object, kind: type[ProviderError], place: str, http: aiohttp.ClientSession
) -> None:
    """Whoever answers before the service behind it has can say it in no other way."""
    event = sse({"error": error})
    if place == "a choice":
        event = sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "error", "error": error}]})
    elif place == "an event":
        event = b"event: error\n" + event
    with pytest.raises(ProviderError, match="reported an error inside its answer") as caught:
        await answer_to(sse(delta("a")) + event + sse(DONE), http)
    assert type(caught.value) is kind


@pytest.mark.parametrize("reason", ["error", "insufficient_system_resource"])
async def test_a_finish_reason_that_says_that_it_failed_is_a_failure_behind_the_text(
    reason: str, http: aiohttp.ClientSession
) -> None:
    """G6, though the end mark comes."""
    seen: list[Part] = []
    body = sse(delta("Hal"), delta("f", finish_reason=reason), DONE)
    async with Upstream(answering(whole(body, content_type="text/event-stream"))) as upstream:
        with pytest.raises(Broken, match="reported an error inside its answer"):
            await keep(seen, OPENAI.ask(upstream.url, http=http))
    assert text_of(seen) == "Half"


@pytest.mark.parametrize("payload", ["{", "nonsense", "[" * 100_000, "[]", '"text"', "1"])
async def test_an_event_that_is_no_json_object_is_a_failure(
    payload: str, http: aiohttp.ClientSession
) -> None:
    with pytest.raises(Broken, match="sent an event that is not"):
        await answer_to(sse(delta("a"), payload, DONE), http)


@pytest.mark.parametrize("payload", ['{"error": "wrong key KEY"}', "nonsense KEY"])
async def test_the_key_stays_out_of_an_error_inside_the_stream(
    payload: str, http: aiohttp.ClientSession
) -> None:
    with pytest.raises(Broken) as caught:
        await answer_to(sse(payload.replace("KEY", KEY)), http, api_key=KEY)
    assert "***" in caught.value.message
    assert KEY not in caught.value.message


async def test_the_key_stays_out_of_a_refusal_and_its_traceback(http: aiohttp.ClientSession) -> None:
    async with Upstream(answering(whole(f"Wrong key {KEY}".encode(), "401 Unauthorized"))) as upstream:
        with pytest.raises(Refused) as caught:
            await collect(OPENAI.ask(upstream.url, http=http, api_key=KEY))
    assert caught.value.message.endswith("answered 401 Unauthorized: Wrong key ***")
    assert caught.value.__cause__ is None


async def test_json_instead_of_events_is_no_stream(http: aiohttp.ClientSession) -> None:
    body = b'{"choices": [\n {"message": {"content": "all at once"}}]}'
    async with Upstream(answering(whole(body, content_type="application/json"))) as upstream:
        with pytest.raises(NotAStream, match=r'sent application/json instead of a stream: \{"choices": '):
            await collect(OPENAI.ask(upstream.url, http=http))
