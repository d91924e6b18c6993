"""Acytoo's own facts; what all providers have in common is in test_conformance."""

from typing import Any

import aiohttp
import pytest

from worker.providers.acytoo import Acytoo
from worker.providers.errors import BadRequest

from .protocols import ACYTOO, QUESTION, collect, text_of
from .upstream import Upstream, answering, answering_and_closing, head, whole

BODY = (
    b'{"key": "", "model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "Gr\\u00fc\\u00df \\"Gott\\""}], '
    b'"temperature": %b, "password": ""}'
)
MESSAGES = [{"role": "user", "content": 'Grüß "Gott"'}]


def test_is_not_working_by_itself() -> None:
    assert Acytoo.url == "https://chat.acytoo.com"
    assert not Acytoo.working
    assert not Acytoo.needs_auth
    assert Acytoo.supports_message_history
    assert Acytoo.supports_gpt_35_turbo


@pytest.mark.parametrize(
    ("given", "sent"), [({}, b"0.5"), ({"temperature": 1}, b"1"), ({"temperature": 0.0}, b"0.0")]
)
async def test_the_request_is_this_to_the_byte(
    given: dict[str, Any], sent: bytes, http: aiohttp.ClientSession
) -> None:
    body = BODY % sent
    async with Upstream(answering(whole(b"Hi"))) as upstream:
        answer = Acytoo.create_async_generator(
            "gpt-4", MESSAGES, base_url=f"{upstream.url}/", http=http, **given
        )
        assert [part async for part in answer] == ["Hi"]
        expected = (
            b"POST /api/completions HTTP/1.1\r\n"
            b"Host: %b\r\n"
            b"accept: */*\r\n"
            b"content-type: application/json\r\n"
            b"Content-Length: %d\r\n"
            b"\r\n"
            b"%b"
        )
        assert upstream.requests == [expected % (upstream.netloc.encode(), len(body), body)]


async def test_the_end_of_the_connection_is_the_end_of_the_answer(http: aiohttp.ClientSession) -> None:
    async with Upstream(answering_and_closing(head(connection="close") + b"The end")) as upstream:
        assert text_of(await collect(ACYTOO.ask(upstream.url, http=http))) == "The end"


async def test_half_a_character_at_the_end_is_replaced(http: aiohttp.ClientSession) -> None:
    async with Upstream(answering(whole("a🙂".encode()[:-1]))) as upstream:
        assert text_of(await collect(ACYTOO.ask(upstream.url, http=http))) == "a\ufffd"


@pytest.mark.parametrize("option", [{"top_p": 1}, {"api_key": "k"}])
async def test_options_that_the_protocol_does_not_have_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=f"^Acytoo does not understand: {next(iter(option))}$"):
        await anext(Acytoo.create_async_generator("gpt-3.5-turbo", QUESTION, **option))


async def test_messages_that_are_no_json_are_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="cannot be written as JSON"):
        await anext(Acytoo.create_async_generator("m", [{"role": "user", "content": b"bytes"}]))
    with pytest.raises(BadRequest, match="cannot be written as JSON"):
        await anext(Acytoo.create_async_generator("m", QUESTION, temperature=float("nan")))
