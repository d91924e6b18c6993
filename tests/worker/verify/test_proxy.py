"""The proxy makes exactly the trouble that it is told to."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from worker.verify.proxy import Proxy

Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@asynccontextmanager
async def echo_behind_a_proxy() -> AsyncIterator[tuple[Proxy, list[bytes]]]:
    heard: list[bytes] = []

    class Echo(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            self.transport = transport

        def data_received(self, data: bytes) -> None:
            heard.append(data)
            self.transport.write(data)  # type: ignore[attr-defined]

    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, Proxy(lambda: asyncio.open_connection("127.0.0.1", port)) as proxy:
        yield proxy, heard


async def say(ends: Ends, line: bytes) -> None:
    ends[1].write(line)
    await ends[1].drain()


async def connect(proxy: Proxy) -> Ends:
    return await asyncio.open_connection("127.0.0.1", proxy.port)


async def is_cut(ends: Ends) -> bool:
    try:
        return not await ends[0].readline()
    except ConnectionError:
        return True
    finally:
        ends[1].close()


async def test_it_hands_on_what_is_said_and_answered() -> None:
    async with echo_behind_a_proxy() as (proxy, heard):
        ends = await connect(proxy)
        await say(ends, b"one\n")
        assert await ends[0].readline() == b"one\n"
        assert heard == [b"one\n"]
        assert proxy.connections == 1
        ends[1].close()


async def test_cut_off_means_that_old_and_new_connections_end() -> None:
    async with echo_behind_a_proxy() as (proxy, _):
        old = await connect(proxy)
        await say(old, b"one\n")
        await old[0].readline()
        proxy.refuse()
        assert await is_cut(old)
        assert await is_cut(await connect(proxy))
        proxy.heal()
        new = await connect(proxy)
        await say(new, b"two\n")
        assert await new[0].readline() == b"two\n"
        new[1].close()


async def test_what_is_held_back_arrives_afterwards_over_the_same_connection() -> None:
    async with echo_behind_a_proxy() as (proxy, heard):
        ends = await connect(proxy)
        await say(ends, b"one\n")
        await ends[0].readline()
        proxy.black_hole()
        await say(ends, b"two\n")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await ends[0].readline()
        assert heard == [b"one\n"]
        proxy.heal()
        assert await ends[0].readline() == b"two\n"
        ends[1].close()


async def test_a_lost_reply_is_one_to_a_command_that_was_carried_out() -> None:
    async with echo_behind_a_proxy() as (proxy, heard):
        ends = await connect(proxy)
        await say(ends, b"one\n")
        await ends[0].readline()
        proxy.lose_replies()
        await say(ends, b"two\n")
        while len(heard) < 2:  # noqa: ASYNC110 - the protocol above knows no events
            await asyncio.sleep(0)
        proxy.heal()
        assert await is_cut(ends)
        assert heard == [b"one\n", b"two\n"]


async def test_a_delayed_reply_comes_late_and_whole() -> None:
    async with echo_behind_a_proxy() as (proxy, _):
        ends = await connect(proxy)
        proxy.delay(0.1)
        began_at = asyncio.get_running_loop().time()
        await say(ends, b"one\n")
        assert await ends[0].readline() == b"one\n"
        assert asyncio.get_running_loop().time() - began_at >= 0.1
        ends[1].close()
