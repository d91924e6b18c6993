"""ChatAnywhere's own facts; what all providers have in common is in test_conformance."""

from typing import Any

import aiohttp
import pytest

from worker.providers.base import Messages
from worker.providers.chatanywhere import ChatAnywhere
from worker.providers.errors import BadRequest

from .protocols import CHATANYWHERE, QUESTION, collect, text_of
from .upstream import Upstream, answering, answering_and_closing, head, whole

REQUEST = (
    "POST /v1/chat/gpt/ HTTP/1.1\r\n"
    "Host: {netloc}\r\n"
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/119.0\r\n"
    "Accept: application/json, text/plain, */*\r\n"
    "Accept-Language: de,en-US;q=0.7,en;q=0.3\r\n"
    "Accept-Encoding: gzip, deflate\r\n"
    "Content-Type: application/json\r\n"
    "Referer: http://{netloc}/\r\n"
    "Origin: http://{netloc}\r\n"
    "Sec-Fetch-Dest: empty\r\n"
    "Sec-Fetch-Mode: cors\r\n"
    "Sec-Fetch-Site: same-origin\r\n"
    "Authorization: \r\n"
    "Connection: keep-alive\r\n"
    "TE: trailers\r\n"
    "Content-Length: {length}\r\n"
    "\r\n"
    "{body}"
)


def test_is_not_working_by_itself() -> None:
    assert ChatAnywhere.url == "https://chatanywhere.cn"
    assert not ChatAnywhere.working
    assert not ChatAnywhere.needs_auth
    assert ChatAnywhere.supports_message_history
    assert ChatAnywhere.supports_gpt_35_turbo


@pytest.mark.parametrize(
    ("messages", "in_json", "title"),
    [
        (
            [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Grüß 🙂"}],
            r'[{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Gr\u00fc\u00df \ud83d\ude42"}]',
            r"Gr\u00fc\u00df \ud83d\ude42",
        ),
        (
            [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
            '[{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]',
            "ab",
        ),
    ],
)
@pytest.mark.parametrize(("given", "sent"), [({}, "0.5"), ({"temperature": 1.5}, "1.5")])
async def test_the_request_is_this_to_the_byte(
    messages: Messages,
    in_json: str,
    title: str,
    given: dict[str, Any],
    sent: str,
    http: aiohttp.ClientSession,
) -> None:
    body = (
        f'{{"list": {in_json}, "id": "s1_qYuOLXjI3rEpc7WHfQ", "title": "{title}", "prompt": "", '
        f'"temperature": {sent}, "models": "61490748", "continuous": true}}'
    )
    async with Upstream(answering(whole(b"Hi"))) as upstream:
        answer = ChatAnywhere.create_async_generator("m", messages, base_url=upstream.url, http=http, **given)
        assert [part async for part in answer] == ["Hi"]
        expected = REQUEST.format(netloc=upstream.netloc, length=len(body), body=body)
        assert upstream.requests == [expected.encode()]


async def test_the_end_of_the_connection_is_the_end_of_the_answer(http: aiohttp.ClientSession) -> None:
    async with Upstream(answering_and_closing(head(connection="close") + b"The end")) as upstream:
        assert text_of(await collect(CHATANYWHERE.ask(upstream.url, http=http))) == "The end"


@pytest.mark.parametrize("option", [{"top_p": 1}, {"api_key": "k"}])
async def test_options_that_the_protocol_does_not_have_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match=f"^ChatAnywhere does not understand: {next(iter(option))}$"):
        await anext(ChatAnywhere.create_async_generator("gpt-3.5-turbo", QUESTION, **option))


async def test_a_conversation_without_messages_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="no message"):
        await anext(ChatAnywhere.create_async_generator("gpt-3.5-turbo", []))


async def test_a_password_in_the_url_is_refused_because_it_would_show_in_the_referer() -> None:
    with pytest.raises(BadRequest, match="user or password"):
        await anext(CHATANYWHERE.ask("http://me:secret@service.invalid"))
