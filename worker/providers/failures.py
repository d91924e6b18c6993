"""What went wrong with a call, in our words: a refusal, a body that is no answer, a connection that broke."""

import asyncio
import json
import time
from contextlib import suppress

import aiohttp
from aiohttp.http import HttpProcessingError

from worker.providers.errors import (
    Broken,
    Cut,
    NotAStream,
    Overloaded,
    ProviderError,
    RateLimited,
    Refused,
    TimedOut,
    Unauthorized,
    Unreachable,
)
from worker.providers.redaction import summary
from worker.providers.request import Request
from worker.providers.retry_after import retry_after

MAX_ERROR_BODY = 64 * 1024  # bytes of a refusal's body that are read
ERROR_BODY_TIMEOUT = 5.0  # seconds that reading it may take

# What aiohttp raises while it sends and reads. HttpProcessingError is no ClientError, yet aiohttp without its
# C extensions lets it through when a body stops being HTTP; TimeoutError is an OSError.
TRANSPORT_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)


_TOO_MANY = ("rate_limit_exceeded", "rate_limit_error", "insufficient_quota")
"""What services call the error whose status is 429."""


async def not_a_stream(response: aiohttp.ClientResponse, request: Request) -> ProviderError:
    """Make the error for an answer of the wrong content type."""
    text = f"{request.host} sent {response.content_type} instead of a stream"
    text = _with_body(text, await _beginning_of(response), request)
    return request.error(NotAStream, text, status=response.status)


async def refuse_web_page(response: aiohttp.ClientResponse, request: Request) -> None:
    """Raise NotAStream when a service that answers in plain text has sent HTML."""
    if response.content_type in {"text/html", "application/xhtml+xml"}:
        raise await not_a_stream(response, request)


async def refusal_of(response: aiohttp.ClientResponse, request: Request) -> ProviderError:
    """Make the error for a status that is no success, of what the service says about it."""
    body = await _beginning_of(response)
    wait = retry_after(response.headers, status=response.status, now=time.time())
    kind = kind_of(response.status, wait=wait, error=_error_in(body))
    text = _with_body(
        f"{request.host} answered {response.status} {response.reason or ''}".rstrip(), body, request
    )
    if kind is Unauthorized and response.status == 429:
        text = f"the quota of this key is used up: {text}"
    asks_to_wait = issubclass(kind, RateLimited | Overloaded)
    return request.error(kind, text, status=response.status, retry_after=wait if asks_to_wait else None)


def kind_of(status: int, *, wait: float | None, error: object) -> type[ProviderError]:
    """Return which of ours a status from 400 on stands for.

    ``wait``: the seconds that the service asks for. ``error``: what it says of the error.
    """
    match status:
        case 429:
            return Unauthorized if _has_no_quota(error) else RateLimited
        case 401 | 402 | 403:
            return Unauthorized
        case 408:  # says: the same request, once more
            return TimedOut
        case 409 | 425 | 498:
            # So do these; the last is Groq's (https://console.groq.com/docs/flex-processing).
            return Broken
        case 503 | 529 if wait is not None:
            return Overloaded
    return Broken if status >= 500 else Refused


def status_in(error: object) -> int | None:
    """Return the status that an error which is told inside an answer would have had; None if it says none.

    Gateways such as OpenRouter answer before the service behind them has, and tell its status as the error's ``code``
    (https://openrouter.ai/docs/errors).
    """
    if not isinstance(error, dict):
        return None
    code = error.get("code")
    if isinstance(code, str) and code.isascii() and code.isdigit() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and 400 <= code < 600:
        return code
    return 429 if code in _TOO_MANY or error.get("type") in _TOO_MANY else None


def _error_in(body: str) -> object:
    try:
        return json.loads(body).get("error")
    except (ValueError, RecursionError, AttributeError):  # no JSON, or not of that shape
        return None


def _has_no_quota(error: object) -> bool:
    """Whether a 429 says that the account is empty: no waiting helps then, only whoever pays.

    OpenAI tells the two kinds of 429 apart in nothing but these fields, which its guide to error codes documents;
    the sentence beside them is for people, and is not looked at.
    """
    return isinstance(error, dict) and "insufficient_quota" in (error.get("code"), error.get("type"))


def _with_body(text: str, body: str, request: Request) -> str:
    line = request.summary(body)
    return f"{request.summary(text)}: {line}" if line else request.summary(text)


async def _beginning_of(response: aiohttp.ClientResponse) -> str:
    body = bytearray()
    # A refusal stays a refusal when its body is cut, broken or slow: then what has come must do.
    with suppress(*TRANSPORT_ERRORS):
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            await read_at_most(response, MAX_ERROR_BODY, body)
    return body.decode("utf-8", errors="replace")


async def read_at_most(response: aiohttp.ClientResponse, limit: int, into: bytearray) -> None:
    """Read up to ``limit`` bytes of the body; they are in ``into`` also when that fails half way."""
    while len(into) < limit and (data := await response.content.read(limit - len(into))):
        into += data


def translated(error: Exception, request: Request) -> ProviderError:
    """Say in our words what aiohttp says in its classes; its texts may be empty, or hold a URL."""
    host = request.host
    match error:
        case aiohttp.ConnectionTimeoutError():
            text = f"no connection to {host} within {request.connect_timeout:g} s"
            return request.error(TimedOut, text)
        case aiohttp.ClientProxyConnectionError() | aiohttp.ClientHttpProxyError():
            return request.error(Unreachable, f"no connection to {host}: {_proxy_trouble(error)}")
        case aiohttp.ClientConnectorDNSError():
            return request.error(Unreachable, f"no connection to {host}: the host name is not known")
        case aiohttp.ClientConnectorError() | aiohttp.ServerFingerprintMismatch():
            return request.error(Unreachable, f"no connection to {host}: {_os_reason(error)}")
        case aiohttp.ClientResponseError() | HttpProcessingError():
            return request.error(Broken, f"{host} sent something that is not HTTP")
        case TimeoutError():
            return request.error(TimedOut, f"{host} stayed silent for too long")
        case aiohttp.ClientPayloadError() | aiohttp.ClientConnectionError() | OSError():
            return request.error(Cut, f"{host} closed the connection before the answer was complete")
        case _:
            return request.error(Broken, f"the call of {host} failed: {type(error).__name__}")


def _proxy_trouble(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return f"the proxy answered {error.status} {summary(error.message)}".rstrip()
    return f"the proxy is not reachable ({_os_reason(error)})"


def _os_reason(error: Exception) -> str:
    cause = getattr(error, "os_error", None) or error
    return getattr(cause, "strerror", None) or type(cause).__name__
