"""One POST to a service: sent, its status checked, and every way to fail turned into one of ours."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import aiohttp
from aiohttp.http import HttpProcessingError
from yarl import URL

from worker.providers.errors import (
    BadRequest,
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
from worker.providers.redaction import redact, summary
from worker.providers.retry_after import retry_after
from worker.providers.sluice import GatedConnector

MAX_ERROR_BODY = 64 * 1024  # bytes of a refusal's body that are read
ERROR_BODY_TIMEOUT = 5.0  # seconds that reading it may take
KEEP_ALIVE = (
    50.0  # seconds that an idle connection is kept: services and their proxies drop them after a minute
)
READ_BUFFER = 8192  # bytes; a response is read no further while twice as many wait to be taken
REST_TIMEOUT = 0.25  # seconds to wait for the end of the response after the answer's own end mark

# What aiohttp raises while it sends and reads. HttpProcessingError is no ClientError, yet aiohttp without its
# C extensions lets it through when a body stops being HTTP; TimeoutError is an OSError.
_TRANSPORT_ERRORS = (aiohttp.ClientError, HttpProcessingError, OSError)

_ENCODER = json.JSONEncoder(allow_nan=False)

# A service sees the headers that its provider names, and no other.
_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


@dataclass(frozen=True, slots=True)
class Request:
    """What is sent, and what must not show in an error. Its repr tells nothing that could be secret."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    proxy: str | None = field(default=None, repr=False)
    connect_timeout: float = 10.0  # seconds: name lookup, TCP, proxy and TLS together
    secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def host(self) -> str:
        """The service's host, with its port when that is not the usual one."""
        return URL(self.url).host_port_subcomponent or ""

    def error(self, kind: type[ProviderError], text: str, **details: Any) -> ProviderError:
        """Make an error whose text holds none of this request's secrets."""
        return kind(redact(text, self._all_secrets()), **details)

    def summary(self, text: str) -> str:
        """Return one short line that stands for ``text``, without secrets."""
        return summary(text, self._all_secrets())

    def _all_secrets(self) -> tuple[str, ...]:
        urls = (URL(self.url), URL(self.proxy or ""))
        credentials = [(url.user or "", url.password) for url in urls if url.password]
        return (*self.secrets, *(password for _, password in credentials), *map(":".join, credentials))


def open_session(connect_timeout: float = 10.0) -> aiohttp.ClientSession:
    """Open a pool of connections for all jobs of a worker; whoever opens it closes it.

    It bounds connecting only: how long an answer may take is for the caller to say, chunk by chunk.
    It keeps no cookies, so that no job sees another's.
    """
    return aiohttp.ClientSession(
        connector=GatedConnector(limit=0, ttl_dns_cache=60, keepalive_timeout=KEEP_ALIVE),
        read_bufsize=READ_BUFFER,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=_timeouts(connect_timeout),
    )


def json_body(payload: Mapping[str, Any]) -> bytes:
    """Return ``payload`` as the bytes of a JSON body.

    Raises:
        BadRequest: something in it has no JSON form.
    """
    try:
        return _ENCODER.encode(payload).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"the request cannot be written as JSON: {summary(str(error))}") from error


@asynccontextmanager
async def post(request: Request, http: aiohttp.ClientSession | None) -> AsyncIterator[aiohttp.ClientResponse]:
    """Send ``request`` and yield its 2xx response, whose connection is closed or handed back at the end.

    Without ``http`` a session is opened for this one call. Transport errors that are raised inside the
    ``async with`` block are translated too, so reading the response there needs no care.

    Raises:
        ProviderError: its class says what went wrong.
    """
    if http is None:
        async with open_session() as own, post(request, own) as response:
            yield response
        return
    _check(request)
    try:
        async with _sent(http, request) as response:
            with _woken_by_loss(response):
                if not 200 <= response.status < 300:
                    raise await _refusal(response, request)
                yield response
    except _TRANSPORT_ERRORS as error:
        raise _translated(error, request) from error


async def not_a_stream(response: aiohttp.ClientResponse, request: Request) -> ProviderError:
    """Make the error for an answer of the wrong content type."""
    text = f"{request.host} sent {response.content_type} instead of a stream"
    text = _with_body(text, await _beginning_of(response), request)
    return request.error(NotAStream, text, status=response.status)


async def refuse_web_page(response: aiohttp.ClientResponse, request: Request) -> None:
    """Raise NotAStream when a service that answers in plain text has sent HTML."""
    if response.content_type in {"text/html", "application/xhtml+xml"}:
        raise await not_a_stream(response, request)


async def read_rest(response: aiohttp.ClientResponse) -> None:
    """Read what follows the answer's end mark, so that the connection can serve another call.

    The answer is complete already: nothing that goes wrong here matters, and no wait is worth much.
    """
    if response.content.at_eof():
        return
    # Who reads just after the connection was lost, and before the body has heard of it, gets a bare RuntimeError.
    with suppress(*_TRANSPORT_ERRORS, RuntimeError):
        async with asyncio.timeout(REST_TIMEOUT):
            await _read_at_most(response, MAX_ERROR_BODY, bytearray())


@lru_cache(maxsize=64)
def _timeouts(connect_timeout: float) -> aiohttp.ClientTimeout:
    # ``connect`` covers the whole way to a usable connection, the name lookup and the proxy included;
    # ``sock_connect`` alone would leave those unbounded.
    return aiohttp.ClientTimeout(total=None, connect=connect_timeout, sock_connect=connect_timeout)


def _sent(
    session: aiohttp.ClientSession, request: Request
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    return session.post(
        request.url,
        data=request.body,
        headers=request.headers,
        skip_auto_headers=_AUTO_HEADERS,
        proxy=request.proxy,
        timeout=_timeouts(request.connect_timeout),
        allow_redirects=False,  # a POST, and its key, go nowhere but where they were meant to go
    )


@contextmanager
def _woken_by_loss(response: aiohttp.ClientResponse) -> Iterator[None]:
    """End the body when the connection ends.

    aiohttp does so itself but in one case: when a chunk that came later is malformed, its C parser drops the
    connection and forgets the body, and whoever reads that would wait for ever.
    """

    def wake(_: object = None) -> None:
        if not response.content.is_eof() and response.content.exception() is None:
            response.content.set_exception(aiohttp.ClientPayloadError("connection lost"))

    connection = response.connection
    protocol = connection.protocol if connection is not None else None
    lost = protocol.closed if protocol is not None else None  # aiohttp's protocols can be falsy
    if lost is None:  # the connection is gone or handed back already, hopefully with the whole body
        wake()
        yield
        return
    lost.add_done_callback(wake)
    # The connection goes back to the pool and may end badly there: asyncio would log that nobody looked.
    lost.remove_done_callback(_look_at)
    lost.add_done_callback(_look_at)
    try:
        yield
    finally:
        lost.remove_done_callback(wake)


def end_of_connection(response: aiohttp.ClientResponse) -> "asyncio.Future[None] | None":
    """Return what tells how the connection ended, where its end is the body's; None where that has an end of its own.

    aiohttp ends such a body whether the connection was closed or reset, and only the one is an end.
    """
    if "Content-Length" in response.headers or "Transfer-Encoding" in response.headers:
        return None
    connection = response.connection
    protocol = connection.protocol if connection is not None else None
    return protocol.closed if protocol is not None else None


def check_closed(end: "asyncio.Future[None] | None") -> None:
    """Raise what ended a connection that was not closed by the other side."""
    if end is not None and end.done() and (error := end.exception()) is not None:
        raise error


def _look_at(lost: asyncio.Future[None]) -> None:
    if not lost.cancelled():
        lost.exception()


def _check(request: Request) -> None:
    """Refuse here what aiohttp would answer with a bare ValueError, or with the whole URL in its text."""
    url = _usable_url(request.url, "base URL")
    if request.proxy is not None:
        _usable_url(request.proxy, "proxy URL")
    for name, value in request.headers.items():
        if not (value.isascii() and value.isprintable()):
            raise BadRequest(f"the value of the header {name} holds a character that no header may hold")
    if (url.user or url.password) and "Authorization" in request.headers:
        raise BadRequest("the base URL holds a user or password, but this request has its own Authorization")


@lru_cache(maxsize=256)  # what is refused raises, and so is not kept
def _usable_url(text: str, name: str) -> URL:
    try:
        url = URL(text)
        (url.host or "").encode("idna")
    except ValueError:
        # Not chained: the text of the cause may hold the URL, and that a password.
        raise BadRequest(f"the {name} is not a valid URL") from None
    if url.scheme not in {"http", "https"} or not url.host:
        raise BadRequest(f"the {name} must start with http:// or https:// and name a host")
    return url


async def _refusal(response: aiohttp.ClientResponse, request: Request) -> ProviderError:
    body = await _beginning_of(response)
    wait = retry_after(response.headers, status=response.status, now=time.time())
    kind = _kind_of(response.status, wait=wait, body=body)
    text = _with_body(
        f"{request.host} answered {response.status} {response.reason or ''}".rstrip(), body, request
    )
    if kind is Unauthorized and response.status == 429:
        text = f"the quota of this key is used up: {text}"
    asks_to_wait = issubclass(kind, RateLimited | Overloaded)
    return request.error(kind, text, status=response.status, retry_after=wait if asks_to_wait else None)


def _kind_of(status: int, *, wait: float | None, body: str) -> type[ProviderError]:
    match status:
        case 429:
            return Unauthorized if _has_no_quota(body) else RateLimited
        case 401 | 402 | 403:
            return Unauthorized
        case 408:  # the one 4xx that says: the same request, once more
            return TimedOut
        case 503 | 529 if wait is not None:
            return Overloaded
    return Broken if status >= 500 else Refused


def _has_no_quota(body: str) -> bool:
    """Whether a 429 says that the account is empty: no waiting helps then, only whoever pays.

    OpenAI tells the two kinds of 429 apart in nothing but these fields, which its guide to error codes documents;
    the sentence beside them is for people, and is not looked at.
    """
    try:
        error = json.loads(body).get("error")
        return "insufficient_quota" in (error.get("code"), error.get("type"))
    except (ValueError, RecursionError, AttributeError):  # no JSON, or not of that shape
        return False


def _with_body(text: str, body: str, request: Request) -> str:
    line = request.summary(body)
    return f"{request.summary(text)}: {line}" if line else request.summary(text)


async def _beginning_of(response: aiohttp.ClientResponse) -> str:
    body = bytearray()
    # A refusal stays a refusal when its body is cut, broken or slow: then what has come must do.
    with suppress(*_TRANSPORT_ERRORS):
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            await _read_at_most(response, MAX_ERROR_BODY, body)
    return body.decode("utf-8", errors="replace")


async def _read_at_most(response: aiohttp.ClientResponse, limit: int, into: bytearray) -> None:
    while len(into) < limit and (data := await response.content.read(limit - len(into))):
        into += data


def _translated(error: Exception, request: Request) -> ProviderError:
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
