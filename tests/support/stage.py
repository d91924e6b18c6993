"""A stage for a queue, its workers and its producers, on which nothing moves unless somebody pulls a string."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any
from uuid import uuid4

import redis as sync_redis
from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.connection import Call
from producer.dead import DeadJob
from producer.errors import QueueFull
from producer.intake import new_job
from producer.link import Link
from producer.submission import submit
from producer.wire.events import EventId
from producer.wire.keys import GROUP, Keys
from tests.support.promises import Past, Said, check_call, name_of
from tests.support.puppets import LEASE_MS, PROVIDERS, QUEUE, Died, PuppetLink, PuppetWorker, calm
from tests.support.world import ENDED, Observer, World, check_world

JOB_IDS = ("j1", "j2")
WORKERS = 3


class Stage(RuleBasedStateMachine):
    """Who is on it, how they are moved, what is checked after each step, and how it all comes to an end."""

    client: sync_redis.Redis
    runner: asyncio.Runner
    reached: dict[str, int]
    """How often which script had which result, over all runs."""

    def __init__(self) -> None:
        super().__init__()
        self.keys = Keys(f"t{uuid4().hex[:12]}")
        self.observer = Observer(self.client, self.keys, JOB_IDS)
        self.past = Past()
        self.names = (f"w{number}" for number in itertools.count(1))
        self.workers: list[PuppetWorker] = []
        self.late: list[Call] = []
        self.hints: list[tuple[str, int]] = []
        self.letters: list[DeadJob] = []
        self.channel = self.client.pubsub()
        self.channel.psubscribe(f"{self.keys.prefix}:*:events")

    @initialize()
    def begin(self) -> None:
        self.client.xgroup_create(self.keys.jobs(QUEUE), GROUP, id="0", mkstream=True)
        for _ in range(WORKERS):
            self.hire()
        self.world = self.observer.look()

    def hire(self) -> None:
        self.workers.append(PuppetWorker(next(self.names), self.client, self.keys))

    # -- the strings --------------------------------------------------------------------------------------

    def run_call(self, call: Call) -> Any:
        """Carry a script out, and hold it to its promise."""
        before = self.world
        result = self.client.eval(call.script.text, len(call.keys), *call.keys, *call.args)
        self.world = self.observer.look()
        note(f"    {name_of(call.script)} {[str(arg)[:24] for arg in call.args[:4]]} -> {str(result)[:60]}")
        check_call(Said(call, result, before, self.world, self.past))
        return result

    def do(self, step: Coroutine[Any, Any, Any] | None = None) -> Any:
        """Take a step, and let all who heard of it go on until they wait again."""

        async def both() -> Any:
            result = None if step is None else await step
            await calm()
            return result

        try:
            return self.runner.run(both())
        finally:
            for worker in self.workers:
                worker.check()
            self.workers = [worker for worker in self.workers if not worker.has_stopped]
            while len(self.workers) < WORKERS:
                self.hire()

    def pull(self, string: Callable[[], object]) -> None:
        """Have a worker begin something, which is nothing that waits."""

        async def begin() -> None:
            string()

        self.do(begin())

    def send(self, worker: PuppetWorker, count: int, *, heard: bool = True) -> None:
        batch = [
            (step, call) for step in worker.waiting[:count] if (call := step.pending.prepare()) is not None
        ]
        replies = [self.run_call(call) for _, call in batch]
        if not heard:
            self.late += [call for _, call in batch]
            return
        del worker.waiting[:count]

        async def hear() -> None:
            for (step, _), reply in zip(batch, replies, strict=True):
                step.pending.tell(reply)

        self.do(hear())

    def link(self, **faults: int | None) -> PuppetLink:
        return PuppetLink(self.client, self.run_call, **faults)

    # -- who may be next ----------------------------------------------------------------------------------

    def one_with(self, number: int, what: str) -> PuppetWorker:
        fit = [worker for worker in self.workers if getattr(worker, what)]
        return fit[number % len(fit)]

    def any_has(self, what: str) -> bool:
        return any(getattr(worker, what) for worker in self.workers)

    def takers(self) -> list[PuppetWorker]:
        """Those who would find something; an empty queue would only keep them waiting."""
        is_fresh = any(EventId.parse(entry) > self.world.last_delivered for entry in self.world.entries)
        return [
            worker
            for worker in self.workers
            if not (worker.is_stopping or worker.is_frozen) and (is_fresh or worker.has_more_to_take)
        ]

    def waits_for_a_time(self) -> bool:
        dues = [float(job.record.get("due", 0)) for job in self.world.jobs.values()]
        return any(due > self.world.now for due in [*self.world.later.values(), *dues])

    def is_over(self, job_id: str) -> bool:
        return self.world.jobs[job_id].status in ENDED and not self.world.letters_of(job_id)

    def is_quiet(self) -> bool:
        return not (self.world.entries or self.world.later) and all(worker.is_idle for worker in self.workers)

    # -- steps that rules, and the end, are made of -------------------------------------------------------

    def try_to_enqueue(self, fields: dict[str, Any], link: Link, *, bound: int = 0) -> None:
        try:
            self.do(submit(link, self.keys, new_job("hi", {"queue": QUEUE, **fields}), bound=bound))
        except (Died, QueueFull) as end:
            note(f"    {type(end).__name__}")

    def have_taken(self, worker: PuppetWorker, count: int, *, heard: bool) -> None:
        worker.line.loses_reply = not heard
        try:
            self.do(worker.take(count))
        except RedisConnectionError:
            note("    the reply was lost")
        worker.line.loses_reply = False
        self.world = self.observer.look()

    def go_on(self, worker: PuppetWorker) -> None:
        for _ in range(100):
            if not worker.can_speak or worker not in self.workers:
                return
            self.send(worker, len(worker.waiting))
        raise AssertionError("a worker never has enough")

    def hear_late(self, call: Call) -> None:
        self.run_call(call)

    def tell(self, number: int, part: str | Exception | None) -> None:
        calls = [call for worker in self.workers for call in worker.asked]
        self.pull(lambda: calls[number % len(calls)].say(part))

    def end_lease(self, entry: str) -> None:
        who = self.world.held[entry].consumer
        self.client.xclaim(self.keys.jobs(QUEUE), GROUP, who, 0, [entry], idle=2 * LEASE_MS, justid=True)
        self.world = self.observer.look()

    def let_time_pass(self, *, all_of_it: bool) -> None:
        """Every job is due; every provider that asked to be left alone can be asked again, if it is late enough."""
        for body in self.world.later:
            self.client.zadd(self.keys.later(QUEUE), {body: 1}, xx=True)
        for job_id, job in self.world.jobs.items():
            if "due" in job.record:
                self.client.hset(self.keys.record(job_id), "due", 1)
        if all_of_it:
            self.client.delete(*(self.keys.parked(name) for name in PROVIDERS))
        self.world = self.observer.look()

    def kill(self, worker: PuppetWorker) -> None:
        self.workers.remove(worker)
        self.late += self.do(worker.die())

    # -- what holds ---------------------------------------------------------------------------------------

    @invariant()
    def all_is_well(self) -> None:
        if hasattr(self, "world"):
            check_world(self.world, self.past.letters_due)

    def teardown(self) -> None:
        try:
            if hasattr(self, "world"):
                self.the_world_calms_down()
        finally:
            self.channel.close()
            for worker in self.workers:
                self.runner.run(worker.die())
            names = [key for job_id in JOB_IDS for key in (self.keys.log(job_id), self.keys.record(job_id))]
            queue = (self.keys.jobs(QUEUE), self.keys.later(QUEUE), self.keys.dead(QUEUE))
            self.client.delete(*names, *queue)

    def the_world_calms_down(self) -> None:
        self.abandoned_jobs_are_enqueued_again()
        for _ in range(40):
            if self.is_quiet():
                break
            self.everybody_does_their_duty()
        assert self.is_quiet(), "it never came to an end"
        for call in self.late:
            self.hear_late(call)
            self.all_is_well()
        self.check_the_end(self.world)
        for name, count in self.past.seen.items():
            self.reached[name] = self.reached.get(name, 0) + count

    def abandoned_jobs_are_enqueued_again(self) -> None:
        for job_id, job in self.world.jobs.items():
            if job.is_provisional:
                self.try_to_enqueue({"id": job_id, "provider": PROVIDERS[0]}, self.link())

    def everybody_does_their_duty(self) -> None:
        self.let_time_pass(all_of_it=True)
        renewed = {entry for worker in self.workers for entry in worker.holdings.of(QUEUE)}
        for entry in self.world.held.keys() - renewed:
            self.end_lease(entry)
        for worker in list(self.workers):
            worker.is_frozen = False
            if not worker.is_stopping:
                self.pull(worker.reclaim)
                self.pull(worker.promote)
                if worker in self.takers():
                    self.have_taken(worker, 2, heard=True)
            self.go_on(worker)
            for call in list(worker.asked):
                self.pull(lambda call=call: call.say(None))
            self.go_on(worker)

    def check_the_end(self, world: World) -> None:
        for job_id, job in world.jobs.items():
            assert sum(event.terminal for event in job.events()) == (job.status is not None), (
                f"{job_id} has no end"
            )
            assert world.letters_of(job_id) == self.past.letters_due.get(job_id, 0)
        assert not world.held
        told = {job_id: frames for job_id, frames in self.past.told.items() if frames}
        assert self.heard() == told, "the channel said something else than the log"

    def heard(self) -> dict[str, list[bytes]]:
        heard: dict[str, list[bytes]] = {}
        last = self.keys.events("-")
        self.client.publish(last, b"")
        for message in self.channel.listen():
            channel = message["channel"].decode()
            if channel == last:
                return heard
            if message["type"] == "pmessage":
                heard.setdefault(channel.partition("{")[2].partition("}")[0], []).append(message["data"])
        return heard
