"""Acytoo: a web chat that answered without a key. Kept for services with the same protocol."""

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from worker.providers.base import AsyncGeneratorProvider, Messages, Part, refuse_options
from worker.providers.http import Request, json_body, post, refuse_web_page
from worker.providers.sse import text_decoder


class Acytoo(AsyncGeneratorProvider):
    """Answers in plain text that ends where the response ends.

    The protocol has no end mark: only a response with a length or in HTTP chunks shows that it was cut.
    """

    url = "https://chat.acytoo.com"
    working = False
    supports_message_history = True
    supports_gpt_35_turbo = True
    models = ("gpt-3.5-turbo",)

    @classmethod
    async def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: float = 120,
        temperature: float = 0.5,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        http: aiohttp.ClientSession | None = None,
        **options: Any,
    ) -> AsyncGenerator[Part]:
        """Ask the service; ``model`` is not sent, because it serves only one."""
        refuse_options(cls.__name__, options | {"api_key": api_key})
        request = Request(
            url=(base_url or cls.url).rstrip("/") + "/api/completions",
            headers={"accept": "*/*", "content-type": "application/json"},
            body=json_body(_payload(messages, temperature)),
            proxy=proxy,
            connect_timeout=timeout,
        )
        async with post(request, http) as response:
            await refuse_web_page(response, request)
            decoder = text_decoder()
            async for data in response.content.iter_any():
                if text := decoder.decode(data):
                    yield text
            if text := decoder.decode(b"", final=True):
                yield text


def _payload(messages: Messages, temperature: float) -> dict[str, Any]:
    return {
        "key": "",
        "model": "gpt-3.5-turbo",
        "messages": messages,
        "temperature": temperature,
        "password": "",
    }
