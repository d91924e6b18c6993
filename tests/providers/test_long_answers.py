"""An answer that is longer than what is read ahead of its reader is whole all the same, however it ends."""

import gzip

import aiohttp
import pytest

from worker.providers.http import READ_BUFFER

from .protocols import OVER_HTTP, Protocol, collect, text_of
from .upstream import LAST_CHUNK, Upstream, answering_and_closing, chunk

TEXTS = [f"{number} bottles of beer on the wall, " for number in range(READ_BUFFER // 2)]


def framed(protocol: Protocol, framing: str) -> bytes:
    """The whole answer in one piece, so that far more is there than is read ahead."""
    body = protocol.encode(TEXTS)
    match framing:
        case "chunks":
            head = protocol.head(transfer_encoding="chunked")
            return head + b"".join(chunk(body[at : at + 70]) for at in range(0, len(body), 70)) + LAST_CHUNK
        case "length":
            return protocol.head(content_length=str(len(body))) + body
        case "close":
            return protocol.head(connection="close") + body
        case _:
            return protocol.head(connection="close", content_encoding="gzip") + gzip.compress(body)


@pytest.mark.parametrize("protocol", OVER_HTTP, ids=lambda p: p.provider.__name__)
@pytest.mark.parametrize("framing", ["chunks", "length", "close", "gzip"])
async def test_a_long_answer_is_whole_though_the_connection_ends_behind_it(
    protocol: Protocol, framing: str, http: aiohttp.ClientSession
) -> None:
    async with Upstream(answering_and_closing(framed(protocol, framing))) as upstream:
        assert text_of(await collect(protocol.ask(upstream.url, http=http))) == "".join(TEXTS)
