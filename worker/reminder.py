"""Tells a server that comes back what it may have forgotten.

A server that syncs its file once a second, or a replica that takes over, may come back without what it acknowledged
last. So what was acknowledged lately is remembered, and said again to a server that is not the one from before.
"""

import time

import structlog
from redis.exceptions import ResponseError

from producer.connection import Call, Line, ScriptRunner
from producer.connection.refusals import is_passing
from producer.connection.tasks import within
from worker.recent_calls import RecentCalls

logger = structlog.get_logger("chatrelay.writer")

_SAID_AT_ONCE = 1000  # calls: as many as the writer has on their way at once


class Reminder:
    """Knows the server at the other end of ``line``, and what it acknowledged lately.

    ``timeout``: seconds that each step may take. All of them together may take longer: where a whole fleet comes back
    to a server, what they all have to tell it takes its time, and to begin again would only make it more.
    """

    def __init__(self, line: Line, scripts: ScriptRunner, timeout: float) -> None:
        self._line = line
        self._scripts = scripts
        self._timeout = timeout
        self._acknowledged: list[Call] = []
        """Calls that are about to be remembered."""
        self._recent = RecentCalls()
        self._server: str | None = None
        self._has_met_server = False

    def note(self, call: Call) -> None:
        """Remember a call that the server has acknowledged, or that says again what it acknowledged."""
        self._acknowledged.append(call)

    def server_was_heard_of(self) -> None:
        """Remember what was noted, and forget the old. Only for when replies came: what the server may have lost since
        are the moments before that, and no others."""
        now = time.monotonic()
        self._remember(now)
        self._recent.forget_the_old(now)

    async def meet_server(self) -> None:
        """If the connection is a new one, see that the server at its other end knows all that it should.

        Raises:
            redis.exceptions.RedisError: it cannot be reached, or cannot take what it is told; nothing is forgotten.
            TimeoutError: it did not answer in time; nothing is forgotten.
        """
        if self._has_met_server and self._line.is_open:
            return
        self._has_met_server = False
        await within(self._timeout, self._line.open())
        server = await self._name_of_server()
        # One that does not say who it is may always be another one.
        if self._server is not None and (server != self._server or not server):
            await self._say_again()
        self._server, self._has_met_server = server, True

    async def _name_of_server(self) -> str:
        """Return what tells this server's process from any other; nothing, where it does not say."""
        if self._server == "":
            return ""
        info = await within(self._timeout, self._info())
        if info is None:
            self._line.close()  # fakeredis hangs up after an error
            await within(self._timeout, self._line.open())
            return ""
        lines = info.decode(errors="replace").splitlines()
        return next((line.partition(":")[2] for line in lines if line.startswith("run_id:")), "")

    async def _info(self) -> bytes | None:
        try:
            info: bytes = await self._line.ask("INFO", "server")
        except ResponseError:  # an access list may forbid it
            return None
        return info

    async def _say_again(self) -> None:
        self._remember(time.monotonic())
        scripts, calls = self._recent.scripts(), self._recent.calls()
        logger.warning("redis is not the server it was, telling it the last again", calls=len(calls))
        self._scripts.forget()
        for start in range(0, len(calls), _SAID_AT_ONCE):
            said = self._scripts.run_packed(scripts, calls[start : start + _SAID_AT_ONCE])
            results = await within(self._timeout, said)
            for refused in filter(is_passing, results):
                raise refused  # it cannot take them yet: nothing else may come before them

    def _remember(self, now: float) -> None:
        calls, self._acknowledged = self._acknowledged, []
        self._recent.add(calls, now)
