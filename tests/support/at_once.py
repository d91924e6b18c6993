"""A client for code that awaits Redis in a test which decides about every step: each command is answered at once."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import redis
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Arg, Call


class AtOnce:
    """The blocking client in an asyncio client's clothes: the event loop never waits, so nothing else comes between."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        method = getattr(self._client, name)

        async def command(*args: Any, **kwargs: Any) -> Any:
            return method(*args, **kwargs)

        return command

    def pipeline(self, *, transaction: bool) -> "_AtOncePipeline":
        return _AtOncePipeline(self._client.pipeline(transaction=transaction))


class _AtOncePipeline:
    def __init__(self, pipe: Any) -> None:
        self._pipe = pipe

    async def __aenter__(self) -> "_AtOncePipeline":
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pipe.reset()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return getattr(self._pipe, name)

    async def execute(self, *, raise_on_error: bool = True) -> list[Any]:
        return self._pipe.execute(raise_on_error=raise_on_error)


class AtOnceLine:
    """In place of a `Line`, as `AtOnce` is in place of a client.

    ``loses_reply``: the next command is carried out, and its reply gets lost.
    """

    is_open = True

    def __init__(self, client: redis.Redis) -> None:
        self._raw = redis.Redis(connection_pool=client.connection_pool)
        self._raw.response_callbacks.clear()  # replies are to be what a server says
        self.loses_reply = False

    async def ask(self, *command: Arg) -> Any:
        reply = self._raw.execute_command(*command)
        if self.loses_reply:
            self.loses_reply = False
            raise RedisConnectionError("the reply was lost")
        return reply

    def close(self) -> None:
        """It stays open."""


RunCall = Callable[[Call], Any]
"""Carries a script out and returns its result."""


class RunsAtOnce:
    """Stands in for a `ScriptRunner`: one call after the other, each by the test's own hand."""

    def __init__(self, run_call: RunCall) -> None:
        self._run_call = run_call

    async def run(self, calls: Sequence[Call]) -> list[Any]:
        return [self._run_call(call) for call in calls]
