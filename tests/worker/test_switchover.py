"""G8: another server takes the place of the one that worker and producer are connected to, and that one lives on."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from producer import Producer
from producer.connection import Url
from producer.link import Link
from tests.support.facts import PATIENCE, until
from tests.support.gated import Gate, gated_registry
from worker.settings import Settings
from worker.verify.proxy import Proxy
from worker.verify.servers import OwnServer
from worker.worker import Worker


class Pair:
    """A master and its replica, behind an address at which whoever asks anew finds the master of that moment."""

    def __init__(self, master: OwnServer, replica: OwnServer) -> None:
        self._master, self._replica = master, replica
        self.address = Proxy(lambda: asyncio.open_connection("127.0.0.1", self._master.port))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.address.port}"

    async def follow(self) -> None:
        """Let the one follow the other, until it has all of it."""
        async with Redis.from_url(self._replica.url) as replica:
            await replica.replicaof("127.0.0.1", self._master.port)
            await _until(replica, "master_link_status", "up")

    async def is_left(self) -> bool:
        """Whether nobody is connected any more to the one that was demoted, but for the new master."""
        async with Redis.from_url(self._replica.url) as replica:
            clients = await replica.client_list()
            return len([client for client in clients if "M" not in client["flags"]]) == 1

    async def switch_over(self) -> None:
        """Let the replica take the master's place, as a planned failover does; no connection is cut by it."""
        async with Redis.from_url(self._master.url) as master, Redis.from_url(self._replica.url) as replica:
            await master.execute_command("FAILOVER")
            await _until(replica, "role", "master")
            await _until(master, "role", "slave")
        self._master, self._replica = self._replica, self._master


async def _until(server: Redis, field: str, value: str) -> None:
    async def is_so() -> bool:
        return bool((await server.info("replication")).get(field) == value)

    await until(is_so)


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    async with OwnServer() as first, OwnServer() as second:
        for server in (first, second):
            async with Redis.from_url(server.url) as admin:
                await admin.config_set("repl-diskless-sync-delay", "0")
        pair = Pair(first, second)
        async with pair.address:
            await pair.follow()
            yield pair


async def test_a_running_job_and_the_next_one_end_on_the_server_that_took_over(
    pair: Pair, prefix: str
) -> None:
    gate = Gate()
    worker = Worker(Settings(redis_url=pair.url, prefix=prefix, name="w1", poll=0.1), gated_registry(gate))
    running = asyncio.create_task(worker.run())
    async with asyncio.timeout(PATIENCE), Producer(pair.url, prefix=prefix, idle_check=0.2) as producer:
        job = await producer.enqueue("x", provider="gated")
        await gate.first_chunk_out.wait()
        reading = producer.text(job.id)
        assert await anext(reading) == "one "
        await pair.switch_over()
        gate.open.set()
        assert [text async for text in reading] == ["two"]
        after = await producer.enqueue("after", provider="gated")
        assert (await producer.result(after.id)).text == "one two"
        # Also those that only look and listen follow, or they would see as much as the other server has by then.
        await until(pair.is_left)
    assert gate.calls == 2
    worker.stop()
    await running


async def test_what_a_producer_asks_aside_goes_to_the_server_that_took_over(pair: Pair) -> None:
    link = Link(Url(pair.url), PATIENCE)
    assert await link.ask(lambda redis: redis.incr("asked"))
    await pair.switch_over()
    assert await link.ask(lambda redis: redis.incr("asked")) == 2
    await link.aclose()
