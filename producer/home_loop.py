"""Where a client lives: in one event loop."""

import asyncio


class HomeLoop:
    """The event loop in which a client was used first. Its connections and timers are of no use in any other."""

    __slots__ = ("_loop",)

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Raise RuntimeError in any other loop."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError(
                "this Producer belongs to another event loop, the one in which it was used first: "
                "make one in each loop, or use producer.blocking"
            )
