"""What a trial plays on: a server, an upstream, workers behind proxies, and a client."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from redis.asyncio import Redis
from redis.exceptions import RedisError

from producer import Producer
from producer.connection import Url, bounded, connect
from producer.wire.keys import Keys
from worker.verify.fleet import Fleet, Manner
from worker.verify.proxy import Proxy
from worker.verify.servers import OwnServer
from worker.verify.upstream import Upstream

_IDLE_CHECK = 1.0  # seconds: a reader whose job's log is gone is to find out soon
_CONNECT_TIMEOUT = 5.0  # seconds
_PAGE = 500


@dataclass(frozen=True, slots=True)
class Stage:
    """All that stands while trials are run. ``server`` is None where the server is somebody else's."""

    keys: Keys
    size: int
    upstream: Upstream
    fleet: Fleet
    producer: Producer
    redis: Redis
    server: OwnServer | None = None

    async def restore(self) -> None:
        """Bring the fleet back to its size, with all workers awake and all ways open."""
        if self.server is not None:
            await self.server.restore()
        for one in list(self.fleet.workers):
            one.proxy.heal()
            one.thaw()
            if not one.runs:
                self.fleet.retire(one)
        await self.fleet.start(max(0, self.size - len(self.fleet.workers)))


def new_prefix(stem: str | None = None) -> str:
    """Return a prefix that nobody has used."""
    return f"{stem or 'chatverify'}-{uuid4().hex[:12]}"


@contextlib.asynccontextmanager
async def open_stage(
    url: str, manner: Manner, *, size: int, server: OwnServer | None = None
) -> AsyncIterator[Stage]:
    """Put up everything, with ``size`` workers that are ready; at the end all of it ends.

    The keys under the prefix are left to `clean_up`.
    """
    route = Route(url)
    async with (
        Upstream() as upstream,
        Fleet(manner, upstream.url, lambda: Proxy(route.reach), route.through) as fleet,
        Producer(url, prefix=manner.prefix, idle_check=_IDLE_CHECK) as producer,
        connect(Url(url), connect_timeout=_CONNECT_TIMEOUT) as redis,
    ):
        stage = Stage(Keys(manner.prefix), size, upstream, fleet, producer, redis, server)
        await stage.restore()
        yield stage


class Route:
    """The way to the server at ``url``, to be led through proxies.

    Raises:
        ValueError: it goes over TLS, and the server's certificate does not name a proxy.
    """

    def __init__(self, url: str) -> None:
        self._url = Url(url)
        self._parts = urlsplit(url)
        if self._parts.scheme not in ("redis", "unix"):
            raise ValueError(
                "each worker is put behind a proxy, which TLS does not allow: give a redis:// URL"
            )

    async def check(self) -> None:
        """See whether the server is there, and lets us in.

        Raises:
            OSError: it is not, or does not.
        """
        try:
            async with (
                connect(self._url, connect_timeout=_CONNECT_TIMEOUT) as redis,
                bounded(_CONNECT_TIMEOUT),
            ):
                await redis.ping()
        except RedisError as error:
            raise OSError(f"Redis at {self._url} cannot be used: {error}") from error

    async def reach(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection to the server itself."""
        if self._parts.scheme == "unix":
            return await asyncio.open_unix_connection(self._parts.path)
        return await asyncio.open_connection(self._parts.hostname or "localhost", self._parts.port or 6379)

    def through(self, port: int) -> str:
        """Return the URL by which a worker gets there through a proxy on this port."""
        credentials, at, _ = self._parts.netloc.rpartition("@")
        path = "" if self._parts.scheme == "unix" else self._parts.path
        netloc = f"{credentials}{at}127.0.0.1:{port}"
        return urlunsplit(self._parts._replace(scheme="redis", netloc=netloc, path=path))


async def clean_up(redis: Redis, prefix: str) -> int:
    """Remove every key under ``prefix``, and return how many there were."""
    count = 0
    async for key in redis.scan_iter(match=f"{prefix}:*", count=_PAGE):
        count += int(await redis.unlink(key))
    return count
