"""Any interleaving of what producers, workers, operators and crashes do keeps what the queue promises.

The real parts run, over a real server, and nothing moves by itself: hypothesis says who takes the next step, whose
reply is lost, who freezes (takes no step for a while), who dies, and which message arrives late once more. After every
call the small model in `tests.support.promises` says whether that was allowed.
"""

import asyncio
import itertools
import os
import time
from collections.abc import Iterator
from uuid import uuid4

import pytest
import redis as sync_redis
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from redis.exceptions import ConnectionError as RedisConnectionError

from producer.cancellation import Cancellation, cancel_job
from producer.connection import Call
from producer.dead import DeadJob, dead_jobs, retry_dead
from producer.errors import JobNotFound, QueueFull
from producer.expiry import expire_job
from producer.intake import new_job
from producer.submission import submit
from producer.wire.events import EventId
from producer.wire.keys import GROUP, Keys
from tests.support.promises import Past, Said, check_call, name_of
from tests.support.puppets import LEASE_MS, PROVIDERS, QUEUE, Died, PuppetLink, PuppetWorker, calm
from tests.support.servers import Server
from tests.support.world import ENDED, Observer, World, check_world
from worker import scripts as worker_scripts
from worker.providers.errors import ProviderError, RateLimited, Refused, Unauthorized, Unreachable

JOB_IDS = ("j1", "j2")
WORKERS = 3
DAY_S = 86_400.0

MINUTES = float(os.environ.get("CHAT_MODEL_MINUTES", "0"))
"""For a long run with seeds of its own; without it, the same short one every time."""

STALE_CLAIMS = bool(os.environ.get("CHAT_MODEL_STALE_CLAIMS"))
"""Whether workers may also claim what they were handed long ago, in an entry that is gone since."""

pick = st.integers(0, 11)
step_of_a_producer = st.sampled_from([None, None, None, None, 1, 2, 0, 3])

FAILURES: list[ProviderError] = [
    Unreachable("no"),
    RateLimited("later", retry_after=3600),
    Refused("no"),
    Unauthorized("no"),
]


class QueueModel(RuleBasedStateMachine):
    """The rules by which the world goes on."""

    client: sync_redis.Redis
    runner: asyncio.Runner
    reached: dict[str, int]

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

    # -- the strings ---------------------------------------------------------------------------------------

    def run_call(self, call: Call) -> object:
        """Carry a script out, and hold it to its promise."""
        before = self.world
        result = self.client.eval(call.script.text, len(call.keys), *call.keys, *call.args)
        self.world = self.observer.look()
        note(f"    {name_of(call.script)} {[str(arg)[:24] for arg in call.args[:4]]} -> {str(result)[:60]}")
        check_call(Said(call, result, before, self.world, self.past))
        return result

    def do(self, step: object = None) -> object:
        """Take a step, and let all who heard of it go on until they wait again."""

        async def both() -> object:
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

    def pull(self, string: object) -> None:
        """Have a worker begin something, which is nothing that waits."""

        async def begin() -> None:
            string()

        self.do(begin())

    def send(self, worker: PuppetWorker, count: int, *, heard: bool = True) -> None:
        batch = worker.waiting[:count]
        if any(self.is_stale(step.call) for step in batch):
            self.kill(worker)
            return
        replies = [self.run_call(step.call) for step in batch]
        if not heard:
            self.late += [step.call for step in batch]
            return
        del worker.waiting[:count]

        async def hear() -> None:
            for step, reply in zip(batch, replies, strict=True):
                if not step.reply.done():
                    step.reply.set_result(reply)

        self.do(hear())

    def is_stale(self, call: Call) -> bool:
        """Whether a worker claims a job in an entry that is gone, and that the job's record knows nothing of.

        A hole that is known: such a worker becomes the owner and cannot put the job off, because it holds nothing;
        and the entries that the job does have are settled, because the job runs.
        """
        if STALE_CLAIMS or call.script is not worker_scripts.CLAIM:
            return False
        job_id = call.keys[0].partition("{")[2].partition("}")[0]
        entry = str(call.args[0])
        return entry not in self.world.entries and entry not in self.past.life(job_id).handed_over

    def one_with(self, number: int, what: str) -> PuppetWorker:
        fit = [worker for worker in self.workers if getattr(worker, what)]
        return fit[number % len(fit)]

    def any_has(self, what: str) -> bool:
        return any(getattr(worker, what) for worker in self.workers)

    # -- producers and operators ---------------------------------------------------------------------------

    @precondition(
        lambda self: any(job.status is None or job.is_provisional for job in self.world.jobs.values())
    )
    @rule(
        job_id=st.sampled_from(JOB_IDS),
        providers=st.sampled_from([PROVIDERS, PROVIDERS[:1], PROVIDERS[1:]]),
        max_attempts=st.integers(1, 3),
        on_retry=st.sampled_from(["restart", "restart", "fail", "continue"]),
        when=st.sampled_from(["now", "now", "later", "by"]),
        bound=st.sampled_from([0, 0, 0, 0, 1]),
        dies_before=step_of_a_producer,
        says_twice=step_of_a_producer,
    )
    def enqueue(self, job_id, providers, max_attempts, on_retry, when, bound, dies_before, says_twice):
        fields = {
            "id": job_id,
            "queue": QUEUE,
            "provider": list(providers),
            "max_attempts": max_attempts,
            "on_retry": on_retry,
        }
        fields |= {"now": {}, "later": {"delay": DAY_S}, "by": {"deadline": DAY_S}}[when]
        link = PuppetLink(self.client, self.run_call, dies_before=dies_before, says_twice=says_twice)
        try:
            self.do(submit(link, self.keys, new_job("hi", fields), bound=bound))
        except (Died, QueueFull) as end:
            note(f"    {type(end).__name__}")

    @precondition(lambda self: any(job.status not in (None, *ENDED) for job in self.world.jobs.values()))
    @rule(job_id=st.sampled_from(JOB_IDS), sure=pick)
    def cancel(self, job_id, sure):
        if sure > (6 if self.world.jobs[job_id].status == "running" else 2):
            return  # or too few would ever come far
        link = PuppetLink(self.client, self.run_call)
        try:
            outcome, attempt = self.do(cancel_job(link, self.keys, job_id, "no more"))
        except JobNotFound:
            assert self.world.jobs[job_id].status is None
            return
        if outcome is Cancellation.REQUESTED:
            self.hints.append((job_id, attempt))

    @precondition(
        lambda self: any(
            job.status in ("queued", "waiting") and "deadline" in job.record
            for job in self.world.jobs.values()
        )
    )
    @rule(job_id=st.sampled_from(JOB_IDS))
    def the_deadline_passes(self, job_id):
        if self.world.jobs[job_id].record.get("deadline"):
            self.client.hset(self.keys.record(job_id), "deadline", 1)
            self.world = self.observer.look()
        self.do(expire_job(PuppetLink(self.client, self.run_call), self.keys, job_id))

    @precondition(lambda self: self.world.dead)
    @rule()
    def an_operator_looks_at_the_dead(self):
        self.letters = self.do(dead_jobs(PuppetLink(self.client, self.run_call), self.keys, QUEUE, None, {}))

    @precondition(lambda self: self.letters)
    @rule(number=pick, dies_before=step_of_a_producer, says_twice=step_of_a_producer)
    def an_operator_retries(self, number, dies_before, says_twice):
        link = PuppetLink(self.client, self.run_call, dies_before=dies_before, says_twice=says_twice)
        try:
            self.do(retry_dead(link, self.keys, self.letters[number % len(self.letters)]))
        except Died:
            note("    Died")

    @precondition(lambda self: 0 < len(self.world.entries) < 4)
    @rule(number=pick)
    def a_producer_adds_an_entry_twice(self, number):
        bodies = list(self.world.entries.values())
        self.client.xadd(self.keys.jobs(QUEUE), {"job": bodies[number % len(bodies)]})
        self.world = self.observer.look()

    # -- workers -------------------------------------------------------------------------------------------

    @precondition(lambda self: self.takers())
    @rule(number=pick, count=st.integers(1, 2), heard=st.sampled_from([True, True, False]))
    def take(self, number, count, heard):
        takers = self.takers()
        self.have_taken(takers[number % len(takers)], count, heard=heard)

    def takers(self) -> list[PuppetWorker]:
        """Those who would find something; an empty queue would only keep them waiting."""
        is_fresh = any(EventId.parse(entry) > self.world.last_delivered for entry in self.world.entries)
        return [
            worker
            for worker in self.workers
            if not worker.is_stopping and (is_fresh or worker.has_more_to_take)
        ]

    def have_taken(self, worker: PuppetWorker, count: int, *, heard: bool) -> None:
        worker.redis.loses_reply = not heard
        try:
            self.do(worker.take(count))
        except RedisConnectionError:
            note("    the reply was lost")
        worker.redis.loses_reply = False
        self.world = self.observer.look()

    @precondition(lambda self: self.any_has("waiting"))
    @rule(number=pick, count=st.integers(1, 3))
    def a_worker_says_what_it_has_to(self, number, count):
        self.send(self.one_with(number, "waiting"), count)

    @precondition(lambda self: self.any_has("waiting"))
    @rule(number=pick)
    def a_worker_goes_on_until_it_waits_for_others(self, number):
        self.go_on(self.one_with(number, "waiting"))

    # Said more than once, because there is one way to go on and so many to go wrong.
    a_worker_goes_on = a_worker_goes_on_until_it_waits_for_others
    one_more_worker_goes_on = a_worker_goes_on_until_it_waits_for_others

    def go_on(self, worker: PuppetWorker) -> None:
        for _ in range(100):
            if not worker.waiting or worker not in self.workers:
                return
            self.send(worker, len(worker.waiting))
        raise AssertionError("a worker never has enough")

    @precondition(lambda self: self.any_has("waiting"))
    @rule(number=pick, count=st.integers(1, 2))
    def a_worker_is_not_answered(self, number, count):
        self.send(self.one_with(number, "waiting"), count, heard=False)

    @precondition(lambda self: self.late)
    @rule(number=pick)
    def a_message_arrives_late_once_more(self, number):
        self.hear_late(self.late.pop(number % len(self.late)))

    def hear_late(self, call: Call) -> None:
        if not self.is_stale(call):
            self.run_call(call)

    @precondition(lambda self: self.any_has("asked"))
    @rule(number=pick, text=st.sampled_from(["a", "bc"]))
    def a_provider_says(self, number, text):
        self.tell(number, text)

    @precondition(lambda self: self.any_has("asked"))
    @rule(number=pick)
    def a_provider_has_said_all(self, number):
        self.tell(number, None)

    @precondition(lambda self: self.any_has("asked"))
    @rule(number=pick, failure=st.sampled_from(FAILURES))
    def a_provider_fails(self, number, failure):
        self.tell(number, failure)

    another_provider_fails = a_provider_fails

    def tell(self, number: int, part: object) -> None:
        calls = [call for worker in self.workers for call in worker.asked]
        self.pull(lambda: calls[number % len(calls)].say(part))

    @precondition(lambda self: self.any_has("is_holding"))
    @rule(number=pick)
    def a_worker_renews(self, number):
        self.pull(self.one_with(number, "is_holding").renew)

    @precondition(lambda self: self.world.held)
    @rule(number=pick)
    def a_lease_ends(self, number):
        held = list(self.world.held)
        self.end_lease(held[number % len(held)])

    def end_lease(self, entry: str) -> None:
        who = self.world.held[entry].consumer
        self.client.xclaim(self.keys.jobs(QUEUE), GROUP, who, 0, [entry], idle=2 * LEASE_MS, justid=True)
        self.world = self.observer.look()

    @precondition(lambda self: any(hold.is_over for hold in self.world.held.values()))
    @rule(number=pick)
    def a_worker_reclaims(self, number):
        self.pull(self.workers[number % len(self.workers)].reclaim)

    @precondition(lambda self: self.world.later)
    @rule(number=pick)
    def a_worker_promotes(self, number):
        self.pull(self.workers[number % len(self.workers)].promote)

    @precondition(lambda self: self.waits_for_a_time())
    @rule(all_of_it=st.booleans())
    def time_goes_on(self, all_of_it):
        """Every job is due; every provider that asked to be left alone can be asked again, if it is late enough."""
        for body in self.world.later:
            self.client.zadd(self.keys.later(QUEUE), {body: 1}, xx=True)
        for job_id, job in self.world.jobs.items():
            if "due" in job.record:
                self.client.hset(self.keys.record(job_id), "due", 1)
        if all_of_it:
            self.client.delete(*(self.keys.parked(name) for name in PROVIDERS))
        self.world = self.observer.look()

    def waits_for_a_time(self) -> bool:
        dues = [float(job.record.get("due", 0)) for job in self.world.jobs.values()]
        return any(due > self.world.now for due in [*self.world.later.values(), *dues])

    @precondition(
        lambda self: self.is_quiet() and not self.late and any(self.is_over(job_id) for job_id in JOB_IDS)
    )
    @rule()
    def the_retention_ends(self):
        """Then an id may be used for another job. Nobody is so slow as to speak of the first one still.

        Nor does an operator retry a letter from before: it is told by the time that has passed, which stands still here.
        """
        for job_id in filter(self.is_over, JOB_IDS):
            self.client.delete(self.keys.log(job_id), self.keys.record(job_id))
            self.past.lives.pop(job_id, None)
        self.hints, self.letters = [], []
        self.world = self.observer.look()

    def is_over(self, job_id: str) -> bool:
        return self.world.jobs[job_id].status in ENDED and not self.world.letters_of(job_id)

    @precondition(lambda self: self.hints)
    @rule(number=pick, who=pick)
    def a_worker_hears_of_a_cancel(self, number, who):
        job_id, attempt = self.hints[number % len(self.hints)]
        worker = self.workers[who % len(self.workers)]
        self.pull(lambda: worker.cancellations.cancel(job_id, attempt, "no more"))

    @precondition(lambda self: any(job.mark for job in self.world.jobs.values()))
    @rule(number=pick)
    def a_worker_looks_for_marks(self, number):
        self.do(self.workers[number % len(self.workers)].cancellations.check())

    @precondition(lambda self: self.any_has("asked"))
    @rule(number=pick)
    def a_worker_stops(self, number):
        worker = self.one_with(number, "asked")
        if not worker.is_stopping:
            self.pull(worker.stop)

    @precondition(lambda self: self.any_has("is_holding"))
    @rule(number=pick)
    def a_worker_dies(self, number):
        self.kill(self.one_with(number, "is_holding"))

    def kill(self, worker: PuppetWorker) -> None:
        self.workers.remove(worker)
        self.late += self.do(worker.die())

    # -- what holds ----------------------------------------------------------------------------------------

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
                self.enqueue(job_id, PROVIDERS[:1], 1, "restart", "now", 0, None, None)

    def is_quiet(self) -> bool:
        return not (self.world.entries or self.world.later) and all(worker.is_idle for worker in self.workers)

    def everybody_does_their_duty(self) -> None:
        self.time_goes_on(all_of_it=True)
        renewed = {entry for worker in self.workers for entry in worker.holdings.of(QUEUE)}
        for entry in self.world.held.keys() - renewed:
            self.end_lease(entry)
        for worker in list(self.workers):
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


@pytest.fixture
def model(valkey: Server) -> Iterator[type[QueueModel]]:
    with sync_redis.Redis.from_url(valkey.url, protocol=2) as client, asyncio.Runner() as runner:

        class Model(QueueModel):
            pass

        Model.client, Model.runner, Model.reached = client, runner, {}
        yield Model


def play(model: type[QueueModel], examples: int, seed_: int | None) -> None:
    rules = settings(
        max_examples=examples,
        stateful_step_count=100,
        deadline=None,
        database=None,
        derandomize=seed_ is None,
        phases=[Phase.generate, *([] if os.environ.get("NOSHRINK") else [Phase.shrink])],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(model if seed_ is None else seed(seed_)(model), settings=rules)


def test_any_order_of_steps_crashes_and_lost_replies_keeps_every_promise(model: type[QueueModel]) -> None:
    play(model, int(os.environ.get("EX", "60")), None)
    print(sorted(model.reached.items()))


@pytest.mark.skipif(not MINUTES, reason="CHAT_MODEL_MINUTES is not set")
@pytest.mark.timeout(MINUTES * 60 + 900)
def test_for_as_long_as_it_is_asked_for(model: type[QueueModel], capsys: pytest.CaptureFixture[str]) -> None:
    end = time.monotonic() + MINUTES * 60
    for number in itertools.count(int(os.environ.get("CHAT_MODEL_SEED", time.time_ns() % 10**9))):
        with capsys.disabled():
            print(f"seed {number}: {sum(model.reached.values())} calls so far", flush=True)
        play(model, 200, number)
        if time.monotonic() > end:
            break
    with capsys.disabled():
        print(dict(sorted(model.reached.items())))
