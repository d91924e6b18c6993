"""ChatAnywhere: a web chat that answered without a key. Kept for services with the same protocol."""

from collections.abc import Mapping
from typing import Any

from worker.providers.base import Messages, content_text
from worker.providers.errors import BadRequest
from worker.providers.plain_text import PlainTextProvider


class ChatAnywhere(PlainTextProvider):
    """Its public service no longer works: give it a ``base_url``."""

    url = "https://chatanywhere.cn"
    path = "/v1/chat/gpt/"
    working = False
    supports_message_history = True
    supports_gpt_35_turbo = True
    models = ("gpt-3.5-turbo",)

    @classmethod
    def headers(cls, url: str) -> Mapping[str, str]:
        """What the service's own page sends from Firefox 119 on Linux."""
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

    @classmethod
    def payload(cls, messages: Messages, temperature: float) -> dict[str, Any]:
        """``id`` and ``models`` are fixed; the last message gives the conversation's title."""
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
