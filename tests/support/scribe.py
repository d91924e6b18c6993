"""Writes a job's log by hand, so that a reader can be met with every order of events."""

from redis.asyncio import Redis

from producer.wire.events import Event
from producer.wire.frames import decode_frame, encode
from producer.wire.keys import Keys


class Scribe:
    """Logs and publishes frames of one job, or only one of the two, as a broken network would."""

    def __init__(self, redis: Redis, keys: Keys, job_id: str) -> None:
        self._redis = redis
        self._log, self._channel = keys.log(job_id), keys.events(job_id)

    async def write(self, *events: Event) -> None:
        """Log a frame and publish it."""
        await self.log(*events)
        await self.publish(*events)

    async def log(self, *events: Event) -> None:
        """Log a frame; whoever listens hears nothing."""
        frame = _frame(events)
        await self._redis.xadd(self._log, {"f": frame}, id=str(decode_frame(frame).last))

    async def publish(self, *events: Event) -> int:
        """Publish a frame; return how many connections heard it."""
        return await self.say(_frame(events))

    async def say(self, data: bytes) -> int:
        """Publish anything."""
        return int(await self._redis.publish(self._channel, data))


def _frame(events: tuple[Event, ...]) -> bytes:
    return b"".join(encode(event) for event in events)
