"""Dead letters by hand, as a worker leaves them whose provider fails."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from producer import AttemptError, DeadJob, DeadLetter, Failed, Producer
from producer.status import server_ms
from producer.wire.keys import Keys
from tests.support.scribe import Scribe


class Undertaker:
    """Ends jobs and buries them by hand, as a worker does whose provider fails."""

    def __init__(self, redis: Redis, keys: Keys, producer: Producer) -> None:
        self._redis, self._keys, self._producer = redis, keys, producer

    async def bury(self, queue: str = "default", **letter: Any) -> str:
        """Write a letter and nothing else; return its id."""
        whole = {"job": b"job", "job_id": "", "code": "invalid_job", "reason": "?", **letter}
        fields: Mapping[Any, Any] = DeadLetter(**whole).fields()
        return bytes(await self._redis.xadd(self._keys.dead(queue), fields)).decode()

    async def failed(
        self, text: str = "x", *, attempt: int | None = None, code: str = "cut", **fields: Any
    ) -> DeadJob:
        """Enqueue a job, let it fail in its first attempt, which is the server's time as for a worker, and bury it."""
        job = await self._producer.enqueue(text, **{"provider": "echo", **fields})
        jobs, record = self._keys.jobs(job.queue), self._keys.record(job.id)
        ((entry, found),) = [(e, f) for e, f in await self._redis.xrange(jobs) if f[b"job"] == job.encode()]
        attempt = attempt or await server_ms(self._redis)
        await Scribe(self._redis, self._keys, job.id).write(Failed(f"{attempt}-0", code, "no end mark", 3))
        now = await self._redis.time()
        ended = {"status": "failed", "attempt": attempt, "number": 3, "finished_at": now[0] * 1000}
        await self._redis.hset(record, mapping=ended)
        await self._redis.xdel(jobs, entry)
        errors = (AttemptError(1, 3, "echo", code, "no end mark"),)
        letter = {"job_id": job.id, "code": code, "reason": "no end mark", "attempts": 3, "errors": errors}
        await self.bury(job.queue, job=found[b"job"], provider="echo", worker="w1", **letter)
        (dead,) = await self._producer.find_dead(job.id)
        return dead
