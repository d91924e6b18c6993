"""Every service that speaks OpenAI's chat completions: OpenAI itself, Groq, DeepSeek, vLLM, Ollama …"""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import aiohttp

from worker.providers.base import AsyncGeneratorProvider, Messages
from worker.providers.completion import Completion
from worker.providers.errors import BadRequest
from worker.providers.failures import not_a_stream
from worker.providers.flow import Flow
from worker.providers.http import post, read_rest
from worker.providers.part_stream import Step, part_stream
from worker.providers.request import Request, json_body

_OURS = ("messages", "model", "stream")  # fields of the body that no option may set


class OpenAICompatible(AsyncGeneratorProvider):
    """Answers as server-sent events that end with ``[DONE]``; without that mark the answer was cut."""

    url = "https://api.openai.com/v1"
    working = True
    supports_message_history = True
    supports_gpt_35_turbo = True
    needs_auth = True
    models = ("gpt-*", "chatgpt-*", "o1*", "o3*", "o4*")

    @classmethod
    @part_stream
    async def create_async_generator(
        cls,
        model: str,
        messages: Messages,
        proxy: str | None = None,
        timeout: float = 120,
        temperature: float | None = None,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        http: aiohttp.ClientSession | None = None,
        **options: Any,
    ) -> AsyncGenerator[Step]:
        """Ask the service; ``options`` become fields of the request's body, with None left out."""
        request = Request(
            url=(base_url or cls.url).rstrip("/") + "/chat/completions",
            headers=_headers(api_key),
            body=json_body(_payload(model, messages, temperature, options)),
            proxy=proxy,
            connect_timeout=timeout,
            secrets=(api_key,) if api_key else (),
        )
        async with post(request, http) as response:
            if response.content_type != "text/event-stream":
                raise await not_a_stream(response, request)
            completion = Completion(request)
            yield Flow(response, completion)
            if parts := completion.end():
                yield parts
            await read_rest(response)


def _headers(api_key: str | None) -> dict[str, str]:
    headers = {"Content-Type": "application/json", "Accept": "text/event-stream", "User-Agent": "chatrelay"}
    return {"Authorization": f"Bearer {api_key}", **headers} if api_key else headers


def _payload(
    model: str, messages: Messages, temperature: float | None, options: Mapping[str, Any]
) -> dict[str, Any]:
    if taken := sorted(set(options) & set(_OURS)):
        raise BadRequest(f"an option cannot set {', '.join(taken)}")
    fields = {"stream_options": {"include_usage": True}, "temperature": temperature, **options}
    fields["stream_options"] = fields["stream_options"] or None  # an empty table, as TOML has no null
    given = {name: value for name, value in fields.items() if value is not None}
    return {"model": model, "messages": messages, "stream": True, **given}
