"""From a Redis URL to a client."""

import math
from dataclasses import dataclass
from urllib.parse import urlsplit

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

SCHEMES = ("redis", "rediss", "unix")


@dataclass(frozen=True, slots=True, repr=False)
class Url:
    """A Redis URL that does not show its password.

    Raises:
        ValueError: the scheme is not ``redis://``, ``rediss://`` or ``unix://``, or a part is malformed.
    """

    secret: str

    def __post_init__(self) -> None:
        parts = urlsplit(self.secret)
        if parts.scheme not in SCHEMES:
            raise ValueError(f"Redis URL {self}: it must start with redis://, rediss:// or unix://")
        try:
            self.new_pool(timeout=1, connections=1)
            _ = parts.port
        except (ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"Redis URL {self}: {error}") from error

    def __str__(self) -> str:
        parts = urlsplit(self.secret)
        return f"{parts.scheme or '?'}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def __repr__(self) -> str:
        return f"Url({str(self)!r})"

    def new_pool(self, *, timeout: float | None, connections: int) -> BlockingConnectionPool:
        """Return a pool of at most ``connections``; whoever needs one more waits ``timeout`` seconds for it.

        ``timeout`` (seconds) also bounds the connect and each reply.
        """
        # RESP2 for all: replies have one shape on every server and release, and redis-py's own retries are
        # off because each caller knows which of its commands may be said twice, and how long it has.
        return BlockingConnectionPool.from_url(
            self.secret,
            max_connections=connections,
            timeout=timeout,
            protocol=2,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )

    def new_connection(self) -> AbstractConnection:
        """Return one connection, not yet open, for whoever speaks the protocol itself, and bounds each step."""
        connection: AbstractConnection = self.new_pool(timeout=None, connections=1).make_connection()
        return connection


def connect(url: Url, *, timeout: float, connections: int = 16, block: float = 0.0) -> Redis:
    """Return a client; nothing is sent before its first command. Close it with ``aclose()``.

    Args:
        url: where Redis is.
        timeout: seconds for the connect, and for a reply.
        connections: the most that are open at once; further callers wait for one.
        block: seconds that a blocking command may wait; its reply may take that much longer.
    """
    reply_timeout = math.fsum((timeout, block))
    return Redis.from_pool(url.new_pool(timeout=reply_timeout, connections=connections))
