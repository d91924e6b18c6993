"""One POST to a service: sent, its status looked at, its connection kept an eye on until the answer is read."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from functools import lru_cache

import aiohttp

from worker.providers.failures import MAX_ERROR_BODY, TRANSPORT_ERRORS, read_at_most, refusal_of, translated
from worker.providers.request import Request, check
from worker.providers.sluice import GatedConnector

KEEP_ALIVE = 50.0  # seconds that an idle connection is kept: services and proxies drop them after a minute
READ_BUFFER = 8192  # bytes; a response is read no further while twice as many wait to be taken
REST_TIMEOUT = 0.25  # seconds to wait for the end of the response after the answer's own end mark

# A service sees the headers that its provider names, and no other.
_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")


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
    check(request)
    try:
        async with _sent(http, request) as response:
            with _woken_by_loss(response):
                if not 200 <= response.status < 300:
                    raise await refusal_of(response, request)
                yield response
    except TRANSPORT_ERRORS as error:
        raise translated(error, request) from error


async def read_rest(response: aiohttp.ClientResponse) -> None:
    """Read what follows the answer's end mark, so that the connection can serve another call.

    The answer is complete already: nothing that goes wrong here matters, and no wait is worth much.
    """
    if response.content.at_eof():
        return
    # Who reads just after the connection was lost, and before the body has heard of it, gets a bare RuntimeError.
    with suppress(*TRANSPORT_ERRORS, RuntimeError):
        async with asyncio.timeout(REST_TIMEOUT):
            await read_at_most(response, MAX_ERROR_BODY, bytearray())


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
