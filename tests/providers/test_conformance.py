"""The promises that every provider keeps, whatever its protocol: a cut answer is no success (G6), text is whole (G7).

Echo has no service behind it: nothing can refuse it, cut it or be slow. It stands in the rows that are not
about HTTP (``EVERY``) and in no other.
"""

import asyncio
import gc
import gzip
import json
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult

from worker.providers.base import AsyncGeneratorProvider, Part
from worker.providers.echo import Echo
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

from .protocols import OVER_HTTP, QUESTION, Protocol, collect, text_of
from .upstream import (
    PATIENCE,
    Exchange,
    Upstream,
    answering,
    answering_and_closing,
    chunk,
    closed_port,
    head,
    whole,
)

TEXTS = ("Grüß", " dich 🙂", " שלום", "\n")
TEXT = "".join(TEXTS)
SECRET = "hunter2-very-secret"

EVERY = (Echo, *(protocol.provider for protocol in OVER_HTTP))

every_provider = pytest.mark.parametrize("provider", EVERY, ids=lambda p: p.__name__)
over_http = pytest.mark.parametrize("protocol", OVER_HTTP, ids=lambda p: p.provider.__name__)

Http = aiohttp.ClientSession

pytestmark = pytest.mark.usefixtures("taken_in_both_ways")


async def failure(answer: AsyncGenerator[Part]) -> ProviderError:
    """The error that an answer ends with: exactly a ProviderError, chained to whatever caused it."""
    with pytest.raises(ProviderError) as caught:
        await collect(answer)
    assert type(caught.value) is not ProviderError
    assert caught.value.message
    return caught.value


# --- what holds without a network --------------------------------------------------------------------


@every_provider
def test_has_the_attributes_of_the_common_shape(provider: type[AsyncGeneratorProvider]) -> None:
    assert issubclass(provider, AsyncGeneratorProvider)
    assert all(isinstance(model, str) for model in provider.models)
    assert provider.models
    assert provider.url == "" or provider.url.startswith("https://")
    assert {provider.working, provider.supports_message_history, provider.supports_gpt_35_turbo} <= {
        True,
        False,
    }


@every_provider
async def test_does_nothing_until_it_is_iterated_and_can_be_closed_before(
    provider: type[AsyncGeneratorProvider],
) -> None:
    answer = provider.create_async_generator("any-model", QUESTION)
    assert isinstance(answer, AsyncGenerator)
    await answer.aclose()


@pytest.mark.parametrize("provider", EVERY, ids=lambda p: p.__name__)
async def test_refuses_an_option_that_it_cannot_honour(provider: type[AsyncGeneratorProvider]) -> None:
    # The OpenAI protocol is open to any option but those that are not the job's to set.
    answer = provider.create_async_generator("any-model", QUESTION, stream=False)
    with pytest.raises(BadRequest, match="stream"):
        await anext(answer)


# --- text ------------------------------------------------------------------------------------------------


@over_http
async def test_text_is_the_same_wherever_the_bytes_are_split(protocol: Protocol, http: Http) -> None:
    body = protocol.encode(TEXTS)
    splits = iter(range(len(body) + 1))

    async def split_once(exchange: Exchange) -> None:
        at = next(splits)
        pieces = (piece for piece in (body[:at], body[at:]) if piece)
        await exchange.send(*protocol.chunked(pieces))

    async with Upstream(split_once) as upstream:
        for _ in range(len(body) + 1):
            assert text_of(await collect(protocol.ask(upstream.url, http=http))) == TEXT


@over_http
@pytest.mark.parametrize("framing", ["chunks", "length", "close"])
async def test_text_is_the_same_when_every_byte_comes_alone(
    protocol: Protocol, framing: str, http: Http
) -> None:
    body = protocol.encode(TEXTS)
    single = [bytes([byte]) for byte in body]
    script = {
        "chunks": answering(*protocol.chunked(single)),
        "length": answering(protocol.head(content_length=str(len(body))), *single),
        "close": answering_and_closing(protocol.head(connection="close"), *single),
    }[framing]
    async with Upstream(script) as upstream:
        assert text_of(await collect(protocol.ask(upstream.url, http=http))) == TEXT


@over_http
async def test_empty_chunks_are_not_passed_on(protocol: Protocol, http: Http) -> None:
    pieces = [protocol.encode(["", "a", "", "b", ""])]
    async with Upstream(answering(*protocol.chunked(pieces))) as upstream:
        parts = await collect(protocol.ask(upstream.url, http=http))
    assert text_of(parts) == "ab"
    assert "" not in parts


@over_http
async def test_an_answer_without_text_is_no_error(protocol: Protocol, http: Http) -> None:
    async with Upstream(
        answering(whole(protocol.encode([]), content_type=protocol.content_type))
    ) as upstream:
        assert text_of(await collect(protocol.ask(upstream.url, http=http))) == ""


@over_http
async def test_a_chunk_is_handed_on_before_the_next_one_is_sent(protocol: Protocol, http: Http) -> None:
    start, go_on = asyncio.Event(), asyncio.Event()
    body = protocol.encode(["first ", "second"])
    at = body.index(b"second") if protocol.content_type.startswith("text/plain") else body.index(b"\n\n") + 2

    async def slowly(exchange: Exchange) -> None:
        first, second, *rest = protocol.chunked([body[:at], body[at:]])
        start.set()
        await go_on.wait()
        await exchange.send(first, second)
        go_on.clear()
        await go_on.wait()
        await exchange.send(*rest)

    async with Upstream(slowly) as upstream, asyncio.timeout(PATIENCE):
        answer = protocol.ask(upstream.url, http=http)
        first = asyncio.ensure_future(anext(answer))
        await start.wait()
        assert not first.done()
        go_on.set()
        assert await first == "first "
        go_on.set()
        assert text_of(await collect(answer)) == "second"


# --- the service says no ---------------------------------------------------------------------------------


@over_http
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("301 Moved Permanently", Refused),
        ("307 Temporary Redirect", Refused),
        ("400 Bad Request", Refused),
        ("401 Unauthorized", Unauthorized),
        ("402 Payment Required", Unauthorized),
        ("403 Forbidden", Unauthorized),
        ("404 Not Found", Refused),
        ("408 Request Timeout", TimedOut),
        ("409 Conflict", Broken),
        ("422 Unprocessable Entity", Refused),
        ("425 Too Early", Broken),
        ("498 Capacity Exceeded", Broken),
        ("429 Too Many Requests", RateLimited),
        ("500 Internal Server Error", Broken),
        ("503 Service Unavailable", Broken),
        ("529 Overloaded", Broken),
    ],
)
async def test_a_status_decides_the_class_of_the_error(
    protocol: Protocol, status: str, kind: type[ProviderError], http: Http
) -> None:
    body = b'{\n  "error": {\n    "message": "Not today."\n  }\n}'
    response = whole(body, status, content_type="application/json", location="http://elsewhere.invalid/")
    async with Upstream(answering(response)) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
        assert (
            error.message == f'{upstream.netloc} answered {status}: {{"error": {{"message": "Not today."}}}}'
        )
        assert len(upstream.requests) == 1
    assert type(error) is kind
    assert error.status == int(status[:3])
    assert error.retry_after is None


DATE = "Wed, 21 Oct 2015 07:28:00 GMT"


@over_http
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("429 Too Many Requests", RateLimited),
        ("503 Service Unavailable", Overloaded),
        ("529 Overloaded", Overloaded),
    ],
)
@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "17"}, 17.0),
        ({"Retry-After": "0.25"}, 0.25),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "2", "retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": DATE.replace("28:00", "28:42"), "Date": DATE}, 42.0),
    ],
)
async def test_a_service_under_load_tells_when_to_come_back(
    protocol: Protocol,
    status: str,
    kind: type[ProviderError],
    headers: dict[str, str],
    seconds: float,
    http: Http,
) -> None:
    async with Upstream(answering(whole(b"", status, **headers))) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
    assert type(error) is kind
    assert error.retry_after == pytest.approx(seconds)


@over_http
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        ("400 Bad Request", Refused),
        ("401 Unauthorized", Unauthorized),
        ("408 Request Timeout", TimedOut),
        ("500 Internal Server Error", Broken),
        ("502 Bad Gateway", Broken),
    ],
)
async def test_elsewhere_a_time_to_come_back_changes_nothing(
    protocol: Protocol, status: str, kind: type[ProviderError], http: Http
) -> None:
    async with Upstream(answering(whole(b"", status, retry_after="17"))) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
    assert type(error) is kind
    assert error.retry_after is None


@over_http
@pytest.mark.parametrize("headers", [{}, {"Retry-After": "soon"}, {"x-ratelimit-remaining-requests": "0"}])
async def test_without_a_time_to_come_back_a_503_is_broken_and_a_429_still_a_limit(
    protocol: Protocol, headers: dict[str, str], http: Http
) -> None:
    for status, kind in (("503 Service Unavailable", Broken), ("429 Too Many Requests", RateLimited)):
        async with Upstream(answering(whole(b"", status, **headers))) as upstream:
            error = await failure(protocol.ask(upstream.url, http=http))
        assert type(error) is kind
        assert error.retry_after is None


@over_http
async def test_a_limit_that_is_used_up_tells_when_it_is_refilled(protocol: Protocol, http: Http) -> None:
    headers = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1m2.5s"}
    async with Upstream(answering(whole(b"", "429 Too Many Requests", **headers))) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
    assert type(error) is RateLimited
    assert error.retry_after == 62.5


@over_http
@pytest.mark.parametrize(
    "said",
    [{"code": "insufficient_quota"}, {"type": "insufficient_quota", "code": "credit_balance_exhausted"}],
)
async def test_a_429_because_of_an_empty_account_is_no_limit_that_passes(
    protocol: Protocol, said: dict[str, str], http: Http
) -> None:
    body = json.dumps({"error": {"message": "You exceeded your current quota.", **said}}).encode()
    async with Upstream(answering(whole(body, "429 Too Many Requests", retry_after="3"))) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
        assert error.message.startswith(
            f"the quota of this key is used up: {upstream.netloc} answered 429 Too Many Requests: "
        )
    assert type(error) is Unauthorized
    assert (error.status, error.retry_after) == (429, None)


@over_http
@pytest.mark.parametrize(
    "body",
    [
        b'{"error": {"message": "insufficient_quota", "code": "rate_limit_exceeded"}}',
        b'{"error": "insufficient_quota"}',
        b'[{"error": {"code": "insufficient_quota"}}]',
        b'{"code": "insufficient_quota"}',
        b"insufficient_quota",
        b'{"error": {"code": ["insufficient_quota"]}}',
        b"[" * 60_000,
        b"",
    ],
)
async def test_the_field_decides_whether_a_429_passes_and_never_the_text(
    protocol: Protocol, body: bytes, http: Http
) -> None:
    async with Upstream(answering(whole(body, "429 Too Many Requests"))) as upstream:
        assert type(await failure(protocol.ask(upstream.url, http=http))) is RateLimited


@over_http
async def test_a_web_page_is_no_answer(protocol: Protocol, http: Http) -> None:
    page = b"<!doctype html>\n<title>Checking your browser</title>"
    async with Upstream(answering(whole(page, content_type="text/html; charset=utf-8"))) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
        assert error.message == f"{upstream.netloc} sent text/html instead of a stream: <!doctype html>"
    assert type(error) is NotAStream
    assert error.status == 200


@over_http
async def test_a_refusal_stays_a_refusal_when_its_body_breaks_off(protocol: Protocol, http: Http) -> None:
    response = head("403 Forbidden", content_length="1000") + b"No, bec"
    async with Upstream(answering_and_closing(response)) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
        assert error.message == f"{upstream.netloc} answered 403 Forbidden: No, bec"
    assert type(error) is Unauthorized


@over_http
async def test_a_refusal_does_not_wait_for_a_body_that_does_not_come(
    protocol: Protocol, http: Http, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.providers.failures.ERROR_BODY_TIMEOUT", 0.05)

    async def stall(exchange: Exchange) -> None:
        await exchange.send(head("500 Internal Server Error", content_length="1000") + b"Oh")
        await exchange.peer_closed()

    async with Upstream(stall) as upstream:
        assert type(await failure(protocol.ask(upstream.url, http=http))) is Broken


@over_http
async def test_a_refusal_reads_no_endless_body(protocol: Protocol, http: Http) -> None:
    async def babble(exchange: Exchange) -> None:
        await exchange.send(head("500 Internal Server Error", transfer_encoding="chunked"))
        with suppress(ConnectionError):
            while True:
                await exchange.send(chunk(b"x" * 50_000))
        exchange.hang_up()

    async with Upstream(babble) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
    assert len(error.message) < 400


# --- no connection, or one that fails --------------------------------------------------------------------


class Names(AbstractResolver):
    """A name server that answers as it is told."""

    def __init__(self, lookup: Callable[[], Awaitable[list[ResolveResult]]]) -> None:
        self._lookup = lookup

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        return await self._lookup()

    async def close(self) -> None:
        pass


def session_with(lookup: Callable[[], Awaitable[list[ResolveResult]]]) -> Http:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(resolver=Names(lookup)))


@over_http
async def test_a_refused_connection_is_unreachable(protocol: Protocol, http: Http) -> None:
    async with closed_port() as url:
        error = await failure(protocol.ask(url, http=http))
    assert type(error) is Unreachable
    assert error.message.startswith(f"no connection to {url.removeprefix('http://')}: ")
    assert isinstance(error.__cause__, aiohttp.ClientError)


@over_http
async def test_an_unknown_host_name_is_unreachable(protocol: Protocol) -> None:
    async def unknown() -> list[ResolveResult]:
        raise OSError(socket.EAI_NONAME, "Name or service not known")

    async with session_with(unknown) as http:
        error = await failure(protocol.ask("https://no-such-host.invalid", http=http))
    assert type(error) is Unreachable
    assert error.message == "no connection to no-such-host.invalid: the host name is not known"


@over_http
async def test_a_connection_that_takes_too_long_times_out_in_our_words(protocol: Protocol) -> None:
    async def silence() -> list[ResolveResult]:
        await asyncio.Event().wait()
        raise AssertionError

    async with session_with(silence) as http:
        error = await failure(protocol.ask("http://slow.invalid", http=http, timeout=0.05))
    assert type(error) is TimedOut
    assert error.message == "no connection to slow.invalid within 0.05 s"


@over_http
async def test_a_service_that_speaks_no_tls_is_unreachable(protocol: Protocol, http: Http) -> None:
    async def not_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(not_tls, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        error = await failure(protocol.ask(f"https://127.0.0.1:{port}", http=http))
    assert type(error) is Unreachable


@over_http
@pytest.mark.parametrize("framing", ["chunks", "length", "reset"])
async def test_a_cut_answer_is_told_from_a_complete_one(protocol: Protocol, framing: str, http: Http) -> None:
    beginning = protocol.encode(["Once upon", " a time"])[:-4]

    async def cut(exchange: Exchange) -> None:
        if framing == "length":
            await exchange.send(protocol.head(content_length="5000"), beginning)
        else:
            await exchange.send(protocol.head(transfer_encoding="chunked"), chunk(beginning))
        if framing == "reset":
            exchange.reset()
        else:
            exchange.hang_up()

    async with Upstream(cut) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
        assert error.message == f"{upstream.netloc} closed the connection before the answer was complete"
    assert type(error) is Cut
    assert error.__cause__ is not None


@over_http
async def test_a_reset_is_not_the_end_of_an_answer_that_ends_with_its_connection(
    protocol: Protocol, http: Http
) -> None:
    async def reset(exchange: Exchange) -> None:
        await exchange.send(protocol.head(), protocol.encode(["Once upon", " a time"])[:-4])
        exchange.reset_at_once()

    async with Upstream(reset) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
    assert type(error) is Cut


@over_http
@pytest.mark.parametrize(
    ("response", "kind"),
    [
        (b"", Cut),
        (b"HTTP/1.1 200", (Cut, Broken)),
        (b"SSH-2.0-server\r\n\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 100_000 + b"\r\n\r\n", Broken),
        (b"HTTP/1.1 200 OK\r\ncontent-length: many\r\n\r\n", Broken),
        (head(content_type="CT", transfer_encoding="chunked") + b"nonsense\r\n", (Cut, Broken)),
        (head(content_type="CT", transfer_encoding="chunked") + chunk(b"a") + b"zz\r\n\r\n", (Cut, Broken)),
        (whole(b"not gzip at all", content_type="CT", content_encoding="gzip"), (Cut, Broken)),
    ],
    ids=["nothing", "half-a-status-line", "ssh", "long-header", "length", "chunk", "later-chunk", "gzip"],
)
async def test_what_is_not_http_becomes_one_of_our_errors(
    protocol: Protocol,
    response: bytes,
    kind: type[ProviderError] | tuple[type[ProviderError], ...],
    http: Http,
) -> None:
    response = response.replace(b"CT", protocol.content_type.encode())
    async with Upstream(answering_and_closing(response)) as upstream:
        error = await failure(protocol.ask(upstream.url, http=http))
    assert isinstance(error, kind)
    assert error.__cause__ is not None


@over_http
@pytest.mark.parametrize("later", [b"zz\r\nxx\r\n", b"-1\r\n", b"5\r\nabcdefgh\r\n"])
async def test_a_malformed_chunk_that_comes_later_leaves_nobody_waiting(
    protocol: Protocol, later: bytes, http: Http
) -> None:
    first = protocol.encode(["a"])[:1]

    async def derail(exchange: Exchange) -> None:
        await exchange.send(protocol.head(transfer_encoding="chunked"), chunk(first), later)
        await exchange.peer_closed()

    async with Upstream(derail) as upstream:
        assert isinstance(await failure(protocol.ask(upstream.url, http=http)), Cut | Broken)


@over_http
async def test_a_pooled_connection_that_ends_badly_disturbs_nobody(
    protocol: Protocol, http: Http, caplog: pytest.LogCaptureFixture
) -> None:
    async def answer_then_reset(exchange: Exchange) -> None:
        await exchange.send(*protocol.chunked([protocol.encode(TEXTS)]))
        exchange.reset()

    async with Upstream(answer_then_reset) as upstream:
        assert text_of(await collect(protocol.ask(upstream.url, http=http))) == TEXT
    await http.close()
    gc.collect()
    assert not caplog.records


@over_http
@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:80",
        "ftp://host",
        "http://",
        "http://a..b",
        f"http://{'a' * 64}.invalid",
        "http://h:99999",
    ],
)
async def test_an_unusable_url_is_a_bad_request(protocol: Protocol, url: str) -> None:
    assert type(await failure(protocol.ask("http://h.invalid", proxy=url))) is BadRequest
    if url:  # an empty base URL is none, and the provider's own would be asked
        assert type(await failure(protocol.ask(url))) is BadRequest


@over_http
async def test_compressed_answers_are_read(protocol: Protocol, http: Http) -> None:
    body = gzip.compress(protocol.encode(TEXTS))
    response = whole(body, content_type=protocol.content_type, content_encoding="gzip")
    async with Upstream(answering(response)) as upstream:
        assert text_of(await collect(protocol.ask(upstream.url, http=http))) == TEXT


# --- whoever opens a stream closes it --------------------------------------------------------------------


def stalling(protocol: Protocol, gone: asyncio.Event) -> Callable[[Exchange], Awaitable[None]]:
    """Send a first chunk and half of the next, then wait for the client to leave."""

    async def script(exchange: Exchange) -> None:
        first = protocol.encode(["first"])
        if first.count(b"\n\n") > 1:
            first = first[: first.index(b"\n\n") + 2]
        await exchange.send(protocol.head(transfer_encoding="chunked"), chunk(first), chunk(b"second")[:5])
        await exchange.peer_closed()
        gone.set()

    return script


@over_http
@pytest.mark.parametrize("shared", [True, False], ids=["pooled", "own-session"])
async def test_a_cancel_in_mid_chunk_closes_the_connection(
    protocol: Protocol, shared: bool, http: Http
) -> None:
    gone, seen = asyncio.Event(), asyncio.Event()

    async def read(url: str) -> None:
        async for _ in protocol.ask(url, http=http if shared else None):
            seen.set()

    async with Upstream(stalling(protocol, gone)) as upstream, asyncio.timeout(PATIENCE):
        reader = asyncio.create_task(read(upstream.url))
        await seen.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await gone.wait()


@over_http
@pytest.mark.parametrize("shared", [True, False], ids=["pooled", "own-session"])
async def test_closing_the_generator_closes_the_connection(
    protocol: Protocol, shared: bool, http: Http
) -> None:
    gone = asyncio.Event()
    async with Upstream(stalling(protocol, gone)) as upstream, asyncio.timeout(PATIENCE):
        answer = protocol.ask(upstream.url, http=http if shared else None)
        assert await anext(answer) == "first"
        await answer.aclose()
        await gone.wait()


@over_http
async def test_a_cancel_before_the_first_byte_closes_the_connection(protocol: Protocol, http: Http) -> None:
    asked, gone = asyncio.Event(), asyncio.Event()

    async def silent(exchange: Exchange) -> None:
        asked.set()
        await exchange.peer_closed()
        gone.set()

    async with Upstream(silent) as upstream, asyncio.timeout(PATIENCE):
        reader = asyncio.create_task(collect(protocol.ask(upstream.url, http=http)))
        await asked.wait()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await gone.wait()


@over_http
async def test_complete_answers_share_one_connection(protocol: Protocol, http: Http) -> None:
    async with Upstream(answering(*protocol.chunked([protocol.encode(TEXTS)]))) as upstream:
        for _ in range(3):
            assert text_of(await collect(protocol.ask(upstream.url, http=http))) == TEXT
        assert len(upstream.requests) == 3
        assert upstream.connections == 1


@over_http
async def test_a_session_of_its_own_is_closed_with_the_answer(protocol: Protocol) -> None:
    async def answer_and_wait(exchange: Exchange) -> None:
        await exchange.send(*protocol.chunked([protocol.encode(TEXTS)]))
        await exchange.peer_closed()

    async with Upstream(answer_and_wait) as upstream:
        assert text_of(await collect(protocol.ask(upstream.url))) == TEXT


@over_http
async def test_no_cookie_goes_from_one_call_to_the_next(protocol: Protocol, http: Http) -> None:
    response = whole(protocol.encode(TEXTS), content_type=protocol.content_type, set_cookie="who=me; Path=/")
    async with Upstream(answering(response)) as upstream:
        for _ in range(2):
            await collect(protocol.ask(upstream.url, http=http))
        assert upstream.requests[0] == upstream.requests[1]


# --- proxies and secrets ---------------------------------------------------------------------------------


@over_http
async def test_a_proxy_is_used_when_it_is_given(protocol: Protocol, http: Http) -> None:
    async with Upstream(answering(*protocol.chunked([protocol.encode(TEXTS)]))) as proxy:
        proxy_url = f"http://me:{SECRET}@{proxy.netloc}"
        answer = protocol.ask("http://service.invalid/base", proxy=proxy_url, http=http)
        assert text_of(await collect(answer)) == TEXT
        request = proxy.requests[0].decode()
    assert request.startswith(
        f"POST http://service.invalid/base{protocol.path} HTTP/1.1\r\nHost: service.invalid\r\n"
    )
    assert "Proxy-Authorization: Basic " in request


@over_http
async def test_a_proxy_that_says_no_is_unreachable(protocol: Protocol, http: Http) -> None:
    async with Upstream(answering_and_closing(whole(b"", "403 Forbidden"))) as proxy:
        error = await failure(protocol.ask("https://service.invalid", proxy=proxy.url, http=http))
        assert proxy.requests[0].startswith(b"CONNECT service.invalid:443 ")
    assert type(error) is Unreachable
    assert error.message == "no connection to service.invalid: the proxy answered 403 Forbidden"


@over_http
async def test_a_proxy_that_is_away_is_unreachable_and_its_password_stays_secret(
    protocol: Protocol, http: Http
) -> None:
    async with closed_port() as url:
        proxy_url = url.replace("://", f"://me:{SECRET}@")
        error = await failure(protocol.ask("http://service.invalid", proxy=proxy_url, http=http))
    assert type(error) is Unreachable
    assert error.message.startswith("no connection to service.invalid: the proxy is not reachable")
    assert SECRET not in error.message


@over_http
@pytest.mark.parametrize("status", ["200 OK", "401 Unauthorized", "500 Internal Server Error"])
async def test_no_secret_comes_back_in_an_error(protocol: Protocol, status: str, http: Http) -> None:
    body = f'{{"told": "Authorization: Bearer sk-abcdefghijklmnop", "via": "{SECRET}"}}'.encode()
    async with Upstream(answering(whole(body, status, content_type="text/html"))) as proxy:
        proxy_url = f"http://me:{SECRET}@{proxy.netloc}"
        error = await failure(protocol.ask("http://service.invalid", proxy=proxy_url, http=http))
    assert "told" in error.message
    assert SECRET not in error.message
    assert "abcdefghijklmnop" not in error.message


@over_http
async def test_an_invalid_url_does_not_show_its_password(protocol: Protocol) -> None:
    error = await failure(protocol.ask(f"ftp://me:{SECRET}@host"))
    assert SECRET not in error.message
    error = await failure(protocol.ask(f"http://me:{SECRET}@host:99999"))
    assert SECRET not in error.message
    assert error.__cause__ is None
