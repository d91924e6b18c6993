"""Services that answer a POST with nothing but the text, to the end of the response."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Mapping
from typing import Any, ClassVar

import aiohttp

from worker.providers.base import AsyncGeneratorProvider, Messages, Part, refuse_options
from worker.providers.http import Request, json_body, post, refuse_web_page
from worker.providers.part_stream import part_stream
from worker.providers.sse import text_decoder


class PlainTextProvider(AsyncGeneratorProvider):
    """A service is its ``path``, its headers and its payload.

    The protocol has no end mark: only a response with a length or in HTTP chunks shows that it was cut.
    """

    path: ClassVar[str]

    @classmethod
    @abstractmethod
    def headers(cls, url: str) -> Mapping[str, str]:
        """Return the headers, in the order in which they are sent, for the service at ``url``."""

    @classmethod
    @abstractmethod
    def payload(cls, messages: Messages, temperature: float) -> dict[str, Any]:
        """Return what is sent as JSON, its keys in the order in which they are sent."""

    @classmethod
    @part_stream
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
    ) -> AsyncGenerator[list[Part]]:
        """Ask the service; ``model`` is not sent, because these services name their models in ways of their own."""
        refuse_options(cls.__name__, options | {"api_key": api_key})
        url = (base_url or cls.url).rstrip("/")
        request = Request(
            url=url + cls.path,
            headers=cls.headers(url),
            body=json_body(cls.payload(messages, temperature)),
            proxy=proxy,
            connect_timeout=timeout,
        )
        async with post(request, http) as response:
            await refuse_web_page(response, request)
            decoder = text_decoder()
            while data := await response.content.readany():
                if text := decoder.decode(data):
                    yield [text]
            if text := decoder.decode(b"", final=True):
                yield [text]
