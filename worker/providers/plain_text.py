"""Services that answer a POST with nothing but the text, to the end of the response."""

from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any, ClassVar

import aiohttp

from worker.providers.base import AsyncGeneratorProvider, Messages, Part, refuse_options
from worker.providers.failures import refuse_web_page
from worker.providers.flow import Flow
from worker.providers.http import check_closed, end_of_connection, post
from worker.providers.part_stream import Step, part_stream
from worker.providers.request import Request, json_body
from worker.providers.sse import text_decoder


class PlainTextProvider(AsyncGeneratorProvider):
    """A service is its ``path``, its headers and its payload.

    The protocol has no end mark: that an answer was cut shows in a response with a length or in HTTP chunks, and in
    a connection that was reset; where it is closed instead, nothing shows.
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
    ) -> AsyncGenerator[Step]:
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
            answer, end = _Answer(), end_of_connection(response)
            yield Flow(response, answer)
            check_closed(end)
            for parts in answer.end():
                yield parts


class _Answer:
    """What has come of one answer: bytes in, text out."""

    is_complete = False  # it ends with the response

    def __init__(self) -> None:
        self._decoder = text_decoder()

    def feed(self, data: bytes, *, final: bool = False) -> Iterator[list[Part]]:
        """Yield the text that ``data`` completes."""
        if text := self._decoder.decode(data, final=final):
            yield [text]

    def end(self) -> Iterator[list[Part]]:
        """Yield what only the end makes complete."""
        return self.feed(b"", final=True)
