"""ChatAnywhere: a web chat that answered without a key. Kept for services with the same protocol."""

from collections.abc import AsyncGenerator
from typing import Any

import aiohttp

from worker.providers.base import AsyncGeneratorProvider, Messages, Part, content_text, refuse_options
from worker.providers.errors import BadRequest
from worker.providers.http import Request, json_body, post, refuse_web_page
from worker.providers.sse import text_decoder


class ChatAnywhere(AsyncGeneratorProvider):
    """Answers in plain text that ends where the response ends.

    The protocol has no end mark: only a response with a length or in HTTP chunks shows that it was cut.
    """

    url = "https://chatanywhere.cn"
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
        """Ask the service; ``model`` is not sent, because it names its models in a way of its own."""
        refuse_options(cls.__name__, options | {"api_key": api_key})
        url = (base_url or cls.url).rstrip("/")
        request = Request(
            url=f"{url}/v1/chat/gpt/",
            headers=_headers(url),
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


def _headers(url: str) -> dict[str, str]:
    return {
        "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:109.0) Gecko/20100101 Firefox/119.0",
        "Accept": "application/json, text/plain, */*",
        "Accept-Language": "de,en-US;q=0.7,en;q=0.3",
        "Accept-Encoding": "gzip, deflate",  # not the browser's br, which aiohttp alone cannot decode
        "Content-Type": "application/json",
        "Referer": f"{url}/",
        "Origin": url,
        "Sec-Fetch-Dest": "empty",
        "Sec-Fetch-Mode": "cors",
        "Sec-Fetch-Site": "same-origin",
        "Authorization": "",
        "Connection": "keep-alive",
        "TE": "trailers",
    }


def _payload(messages: Messages, temperature: float) -> dict[str, Any]:
    if not messages:
        raise BadRequest("ChatAnywhere: there is no message")
    return {
        "list": messages,
        "id": "s1_qYuOLXjI3rEpc7WHfQ",
        "title": content_text(messages[-1].get("content")),
        "prompt": "",
        "temperature": temperature,
        "models": "61490748",
        "continuous": True,
    }
