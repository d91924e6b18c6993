"""From a Redis URL to a client."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

# Neither chained to its cause nor quoting it: that may repeat a part of the password.
_UNREADABLE = (
    "Redis URL {}: its host, port, database or options cannot be read; "
    "a password that holds / # ? [ ] or @ must be percent-encoded"
)

_OURS = frozenset(
    {
        "protocol",
        "decode_responses",
        "encoding",
        "encoding_errors",
        "health_check_interval",
        "max_connections",
    }
    | {"retry_on_timeout", "retry_on_error", "socket_connect_timeout", "socket_timeout", "timeout"}
)
"""Options of a URL that would change what the code around counts on."""

SCHEMES = ("redis", "rediss", "unix")

_ADDRESS = re.compile(r"(\[[^\]]*\]|[^:]*)(?::(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """A Redis URL that does not show its password.

    Raises:
        ValueError: the scheme is not ``redis://``, ``rediss://`` or ``unix://``, or a part is malformed.
    """

    secret: str

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.secret)
        except ValueError:
            raise ValueError(_UNREADABLE.format(self)) from None
        if parts.scheme not in SCHEMES or not self.secret.startswith(f"{parts.scheme}://"):
            raise ValueError(f"Redis URL {self}: it must start with redis://, rediss:// or unix://")
        if ours := sorted(parse_qs(parts.query).keys() & _OURS):
            raise ValueError(f"Redis URL {self}: {ours[0]} is not for the URL to say")
        try:
            self.new_connection(connect_timeout=1)  # which alone looks at the options
            _ = parts.port
            if parts.scheme != "unix" and parts.path.strip("/"):
                int(parts.path.strip("/"))
        except (ValueError, TypeError, AttributeError, RedisError):
            raise ValueError(_UNREADABLE.format(self)) from None

    def __str__(self) -> str:
        if "://" not in self.secret:
            return "(without a scheme)"  # and it may be the password alone
        try:
            parts = urlsplit(self.secret)
        except ValueError:
            return "(not shown)"
        if "@" in f"{parts.path}{parts.query}{parts.fragment}":  # a password that was not encoded fell apart
            return f"{parts.scheme}://…"
        return f"{parts.scheme}://{_shown(parts.netloc.rpartition('@')[2])}{parts.path}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def new_pool(
        self,
        *,
        connect_timeout: float | None,
        connections: int,
    ) -> BlockingConnectionPool:
        """Return a pool of at most ``connections``; whoever needs one more waits for it."""

        # RESP2 for all: replies have one shape on every server and release. redis-py's own retries are off,
        # because each caller knows which of its commands may be said twice, and how long it has. So is its
        # socket_timeout: it is made of asyncio.wait_for, which before Python 3.12 swallows a cancel that comes
        # in the very step in which a send completes (https://bugs.python.org/issue42130). `bounded` stands in.
        return BlockingConnectionPool.from_url(
            self.secret,
            max_connections=connections,
            timeout=None,
            protocol=2,
            socket_timeout=None,
            socket_connect_timeout=connect_timeout,
            retry=Retry(NoBackoff(), 0),
        )

    def new_connection(self, connect_timeout: float | None = None) -> AbstractConnection:
        """Return one connection, not yet open, for whoever speaks the protocol itself, and bounds each step."""
        pool = self.new_pool(connect_timeout=connect_timeout, connections=1)
        connection: AbstractConnection = pool.make_connection()
        return connection


def _shown(address: str) -> str:
    """Return host and port, with … for what is no port: it may be a password whose host was forgotten."""
    found = _ADDRESS.fullmatch(address)
    assert found is not None, "there is nothing that it does not match"
    host, port = found.groups()
    return host if port is None else f"{host}:{port if port.isdigit() else '…'}"


def connect(
    url: Url,
    *,
    connect_timeout: float,
    connections: int = 16,
) -> Redis:
    """Return a client; nothing is sent before its first command. Close it with ``aclose()``.

    Only the connect is bounded, to ``connect_timeout`` seconds: put `bounded` around what must not take for ever.
    """
    pool = url.new_pool(connect_timeout=connect_timeout, connections=connections)
    return Redis.from_pool(pool)


@asynccontextmanager
async def bounded(seconds: float) -> AsyncIterator[None]:
    """Bound what stands inside; what comes too late closes its connection, and nobody else gets its reply.

    Raises:
        redis.exceptions.TimeoutError: it took too long.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise RedisTimeoutError(f"no reply within {seconds:g} s") from error
