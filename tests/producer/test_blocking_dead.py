"""Dead letters through the blocking twin: found, walked through, retried and dropped, and nothing is left out."""

import asyncio
from datetime import timedelta

import pytest
from redis.asyncio import Redis

from producer import DeadJob, Retry, Unavailable
from producer.blocking import Producer
from producer.dead import PAGE
from producer.wire.keys import Keys
from tests.conftest import StartWorker
from tests.support.processes import PATIENCE
from tests.support.servers import Server
from tests.support.twin import LISTENER, inside, tasks
from tests.support.undertaker import Undertaker


async def test_letters_are_found_as_the_async_client_finds_them(
    blocking: Producer, undertaker: Undertaker
) -> None:
    cut = await undertaker.failed("x", id="mine", queue="slow")
    late = await undertaker.failed("y", code="timeout")

    def use() -> None:
        assert blocking.dead() == [cut, late]
        assert blocking.dead("slow") == [cut]
        assert blocking.dead(limit=1) == [cut]
        assert blocking.dead(code="timeout", provider="echo") == [late]
        assert blocking.dead(older_than=timedelta(hours=1)) == []
        assert blocking.find_dead("mine", late.id) == blocking.find_dead(late.id, "mine") == [late, cut]
        assert blocking.find_dead("mine", queue="default") == []

    await asyncio.to_thread(use)


async def test_a_retried_job_is_answered_and_a_dropped_one_is_gone(
    blocking: Producer, undertaker: Undertaker, start_worker: StartWorker
) -> None:
    again, never = await undertaker.failed("hello", id="again"), await undertaker.failed("x", id="never")
    await start_worker()

    def use() -> None:
        assert blocking.retry_dead(again) is Retry.RETRIED
        assert blocking.result("again", timeout=PATIENCE).text == "hello"
        assert blocking.retry_dead(again) is Retry.KNOWN
        assert [blocking.drop_dead(never), blocking.drop_dead(never)] == [True, False]
        assert blocking.retry_dead(never) is Retry.GONE
        assert blocking.dead() == []

    await asyncio.to_thread(use)


async def test_every_letter_is_walked_through_once_and_may_go_meanwhile(
    blocking: Producer, undertaker: Undertaker
) -> None:
    count = PAGE + 2
    for number in range(count):
        await undertaker.bury("a", job_id=f"a{number}", code=str(number % 2))
    await undertaker.bury("b", job_id="b", code="1")

    def use() -> list[str]:
        assert [dead.job_id for dead in blocking.each_dead("b")] == ["b"]
        assert sum(1 for _ in blocking.each_dead(code="1")) == count // 2 + 1
        seen = []
        for dead in blocking.each_dead():
            seen.append(dead.job_id)
            assert blocking.drop_dead(dead)
        return seen

    assert await asyncio.to_thread(use) == [*(f"a{number}" for number in range(count)), "b"]
    assert await asyncio.to_thread(lambda: list(blocking.each_dead())) == []


async def test_a_walk_is_left_at_any_point_and_leaves_nothing_behind(
    blocking: Producer, undertaker: Undertaker
) -> None:
    for number in range(3):
        await undertaker.bury(job_id=str(number))

    def use() -> None:
        with blocking.each_dead() as walk:
            assert next(walk).job_id == "0"
        assert list(walk) == []
        for dead in blocking.each_dead():
            assert dead.job_id == "0"
            break

    await asyncio.to_thread(use)
    assert await asyncio.to_thread(inside, blocking, tasks) <= LISTENER


async def test_a_step_that_was_interrupted_or_failed_is_taken_again(
    blocking: Producer, undertaker: Undertaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generator would be over then, and the rest of the letters missing without a word."""
    for number in range(2 * PAGE):
        await undertaker.bury(job_id=str(number))
    walk = blocking.each_dead()
    seen: list[DeadJob] = []
    link = blocking._session.client._link
    ask, troubles = link.ask, [Unavailable("away"), asyncio.CancelledError()] * 2
    asked = 0

    async def troubled(command: object) -> object:
        nonlocal asked
        asked += 1
        if asked % 2 and troubles:
            raise troubles.pop()
        return await ask(command)  # type: ignore[arg-type]

    def use() -> None:
        while len(seen) < 2 * PAGE:
            try:
                seen.append(next(walk))
            except Unavailable:  # what the thread makes of both
                continue

    monkeypatch.setattr(link, "ask", troubled)
    await asyncio.to_thread(use)
    assert [dead.job_id for dead in seen] == [str(number) for number in range(2 * PAGE)]
    assert troubles == []
    assert await asyncio.to_thread(list, walk) == []


async def test_a_closed_producer_refuses_them_with_the_typed_error(
    server: Server, prefix: str, undertaker: Undertaker, redis: Redis, keys: Keys
) -> None:
    dead = await undertaker.failed()

    def use() -> None:
        client = Producer(server.url, prefix=prefix)
        walk = client.each_dead()
        client.close()
        for verb in (
            client.dead,
            lambda: client.find_dead(dead.id),
            lambda: client.retry_dead(dead),
            lambda: client.drop_dead(dead),
            lambda: next(walk),
            lambda: next(client.each_dead()),
        ):
            with pytest.raises(Unavailable, match="closed"):
                verb()

    await asyncio.to_thread(use)
    assert await redis.xlen(keys.dead(dead.queue)) == 1
