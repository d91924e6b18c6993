"""Any interleaving of what producers, workers, operators and crashes do keeps what the queue promises.

The real parts run, over a real server, and nothing moves by itself: hypothesis says who takes the next step, whose
reply is lost, who freezes (takes no step for a while), who dies, and which message arrives late once more. After every
call the small model in `tests.support.promises` says whether that was allowed.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Iterator

import pytest
import redis as sync_redis
from hypothesis import HealthCheck, Phase, note, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule, run_state_machine_as_test

from producer.cancellation import Cancellation, cancel_job
from producer.dead import dead_jobs
from producer.errors import JobNotFound
from producer.expiry import expire_job
from producer.revival import retry_dead
from tests.support.puppets import PROVIDERS, QUEUE, Died
from tests.support.servers import Server
from tests.support.stage import JOB_IDS, Stage
from tests.support.world import ENDED
from worker import scripts as worker_scripts
from worker.providers.errors import ProviderError, RateLimited, Refused, Unauthorized, Unreachable

DAY_S = 86_400.0

MINUTES = float(os.environ.get("CHAT_MODEL_MINUTES", "0"))
"""For a long run with seeds of its own; without it, the same short one every time."""

SEED = int(os.environ.get("CHAT_MODEL_SEED", time.time_ns() % 10**9))
"""Where a long run begins."""

EXAMPLES = int(os.environ.get("CHAT_MODEL_EXAMPLES", "240"))
SHRINKS = not os.environ.get("CHAT_MODEL_AS_FOUND")
"""Whether the smallest case that fails is looked for."""

pick = st.integers(0, 11)
step_of_a_producer = st.sampled_from([None, None, None, None, 1, 2, 0, 3])

FAILURES: list[ProviderError] = [
    Unreachable("no"),
    RateLimited("later", retry_after=3600),
    Refused("no"),
    Unauthorized("no"),
]

FOLLOWS = (worker_scripts.SETTLE, worker_scripts.DEFER, worker_scripts.BURY, worker_scripts.RELEASE)
"""What follows for the entry once an attempt's end is written."""


class QueueModel(Stage):
    """The rules by which the world goes on."""

    # -- producers and operators --------------------------------------------------------------------------

    @precondition(
        lambda self: any(job.status is None or job.is_provisional for job in self.world.jobs.values())
    )
    @rule(
        job_id=st.sampled_from(JOB_IDS),
        providers=st.sampled_from([PROVIDERS, PROVIDERS[:1], PROVIDERS[1:]]),
        max_attempts=st.sampled_from([3, 2, 1, 4]),
        on_retry=st.sampled_from(["restart", "restart", "fail", "continue"]),
        when=st.sampled_from(["now", "now", "later", "by"]),
        bound=st.sampled_from([0, 0, 0, 0, 1]),
        dies_before=step_of_a_producer,
        says_twice=step_of_a_producer,
    )
    def enqueue(self, job_id, providers, max_attempts, on_retry, when, bound, dies_before, says_twice):
        fields = {
            "id": job_id,
            "provider": list(providers),
            "max_attempts": max_attempts,
            "on_retry": on_retry,
        }
        fields |= {"now": {}, "later": {"delay": DAY_S}, "by": {"deadline": DAY_S}}[when]
        link = self.link(dies_before=dies_before, says_twice=says_twice)
        self.try_to_enqueue(fields, link, bound=bound)

    @precondition(lambda self: any(job.status not in (None, *ENDED) for job in self.world.jobs.values()))
    @rule(job_id=st.sampled_from(JOB_IDS), sure=pick)
    def cancel(self, job_id, sure):
        if sure > (6 if self.world.jobs[job_id].status == "running" else 2):
            return  # or too few would ever come far
        link = self.link()
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
        self.do(expire_job(self.link(), self.keys, job_id))

    @precondition(lambda self: self.world.dead)
    @rule()
    def an_operator_looks_at_the_dead(self):
        self.letters = self.do(dead_jobs(self.link(), self.keys, QUEUE, None, {}))

    @precondition(lambda self: self.letters)
    @rule(number=pick, dies_before=step_of_a_producer, says_twice=step_of_a_producer)
    def an_operator_retries(self, number, dies_before, says_twice):
        link = self.link(dies_before=dies_before, says_twice=says_twice)
        try:
            self.do(retry_dead(link, self.keys, self.letters[number % len(self.letters)]))
        except Died:
            note("    Died")

    @precondition(lambda self: 0 < len(self.world.entries) < 4)
    @rule(number=pick, is_taken=st.booleans())
    def a_producer_adds_an_entry_twice(self, number, is_taken):
        bodies = list(self.world.entries.values())
        self.client.xadd(self.keys.jobs(QUEUE), {"job": bodies[number % len(bodies)]})
        self.world = self.observer.look()
        if is_taken and (takers := self.takers()):  # by one that sits on it for a while
            self.have_taken(takers[number % len(takers)], 4, heard=True)
            takers[number % len(takers)].is_frozen = True

    # -- workers ------------------------------------------------------------------------------------------

    @precondition(lambda self: self.takers())
    @rule(number=pick, count=st.integers(1, 2), heard=st.sampled_from([True, True, False]))
    def take(self, number, count, heard):
        takers = self.takers()
        self.have_taken(takers[number % len(takers)], count, heard=heard)

    @precondition(lambda self: self.any_has("can_speak"))
    @rule(number=pick, count=st.integers(1, 3))
    def a_worker_says_what_it_has_to(self, number, count):
        self.send(self.one_with(number, "can_speak"), count)

    @precondition(lambda self: self.any_has("can_speak"))
    @rule(number=pick)
    def a_worker_goes_on_until_it_waits_for_others(self, number):
        self.go_on(self.one_with(number, "can_speak"))

    # Said more than once, because there is one way to go on and so many to go wrong.
    a_worker_goes_on = a_worker_goes_on_until_it_waits_for_others

    @precondition(lambda self: self.any_has("can_speak"))
    @rule(number=pick, count=st.integers(1, 2))
    def a_worker_is_not_answered(self, number, count):
        self.send(self.one_with(number, "can_speak"), count, heard=False)

    @precondition(lambda self: self.late)
    @rule(number=pick)
    def a_message_arrives_late_once_more(self, number):
        self.hear_late(self.late.pop(number % len(self.late)))

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

    @precondition(lambda self: self.any_has("asked"))
    @rule(number=pick)
    def a_job_is_put_off_and_comes_back(self, number):
        worker = self.one_with(number, "asked")
        self.pull(lambda: worker.asked[0].say(Unreachable("no")))
        self.go_on(worker)
        if self.world.later:  # it was not the job's last attempt
            self.let_time_pass(all_of_it=True)
            self.pull(worker.promote)
            self.go_on(worker)

    @precondition(lambda self: self.any_has("asked"))
    @rule(number=pick, who=pick, part=st.sampled_from([Unreachable("no"), Unauthorized("no"), None]))
    def a_worker_freezes_between_an_end_and_what_follows(self, number, who, part):
        worker = self.one_with(number, "asked")
        worker.is_frozen = True
        self.pull(lambda: worker.asked[0].say(part))
        for _ in range(4):
            if not worker.waiting or worker.waiting[0].script in FOLLOWS:
                break
            self.send(worker, 1)
        for entry in set(worker.holdings.of(QUEUE)) & self.world.held.keys():
            self.end_lease(entry)
        other = self.workers[who % len(self.workers)]
        self.pull(other.reclaim)
        self.go_on(other)

    @precondition(lambda self: self.takers())
    @rule(number=pick)
    def a_worker_takes_a_job_and_goes_on(self, number):
        takers = self.takers()
        worker = takers[number % len(takers)]
        self.have_taken(worker, 1, heard=True)
        self.go_on(worker)

    @precondition(lambda self: self.any_has("is_holding"))
    @rule(number=pick)
    def a_worker_renews(self, number):
        self.pull(self.one_with(number, "is_holding").renew)

    @precondition(lambda self: self.world.held)
    @rule(number=pick)
    def a_lease_ends(self, number):
        held = list(self.world.held)
        self.end_lease(held[number % len(held)])

    @precondition(lambda self: self.world.held)
    @rule(number=pick, who=pick)
    def a_worker_freezes_and_another_one_takes_over(self, number, who):
        held = list(self.world.held)
        self.end_lease(held[number % len(held)])
        worker = self.workers[who % len(self.workers)]
        self.pull(worker.reclaim)
        self.go_on(worker)

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
        self.let_time_pass(all_of_it=all_of_it)

    @precondition(
        lambda self: self.is_quiet() and not self.late and any(self.is_over(job_id) for job_id in JOB_IDS)
    )
    @rule()
    def the_retention_ends(self):
        """Then an id may be used for another job. Nobody is so slow as to speak of the first one still.

        Nor does an operator retry a letter from before: that is told by the time that has passed, and here none does.
        """
        for job_id in filter(self.is_over, JOB_IDS):
            self.client.delete(self.keys.log(job_id), self.keys.record(job_id))
            self.past.lives.pop(job_id, None)
        self.hints, self.letters = [], []
        self.world = self.observer.look()

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

    @precondition(lambda self: self.any_has("is_frozen"))
    @rule(number=pick)
    def a_worker_thaws(self, number):
        worker = self.one_with(number, "is_frozen")
        worker.is_frozen = False
        self.go_on(worker)

    @precondition(lambda self: self.any_has("is_holding"))
    @rule(number=pick)
    def a_worker_dies(self, number):
        self.kill(self.one_with(number, "is_holding"))


@pytest.fixture
def model(valkey: Server) -> Iterator[type[QueueModel]]:
    with sync_redis.Redis.from_url(valkey.url, protocol=2) as client, asyncio.Runner() as runner:

        class Model(QueueModel):
            pass

        Model.client, Model.runner, Model.reached = client, runner, {}
        yield Model


def play(model: type[QueueModel], examples: int, seed_: int) -> None:
    rules = settings(
        max_examples=examples,
        stateful_step_count=100,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if SHRINKS else [Phase.generate],
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(seed(seed_)(model), settings=rules)


TO_BE_REACHED = {
    *("append: written", "append: repeated", "append: lost", "bury: 0", "defer: 1", "release: 1"),
    *(
        "claim: claimed",
        "claim: early",
        "claim: elsewhere",
        "claim: ended",
        "claim: lost",
        "settle: 0",
        "settle: 1",
    ),
    *(
        "finish: written",
        "finish: repeated",
        "finish: lost",
        "finish: cancel",
        "cancel: requested",
        "leave: 1",
    ),
    *(
        "cancel: cancelled",
        "expire: expired",
        "revive: accepted",
        "revive: known",
        "withdraw: 1",
        "withdraw: -1",
    ),
}
"""What a run has to meet, or it would prove little."""


@pytest.mark.timeout(600)  # the smallest case that fails is looked for at length
@pytest.mark.usefixtures("longest_pauses")
def test_any_order_of_steps_crashes_and_lost_replies_keeps_every_promise(model: type[QueueModel]) -> None:
    for number in range(4):
        play(model, EXAMPLES // 4, number)
    assert model.reached.keys() >= TO_BE_REACHED


@pytest.mark.skipif(not MINUTES, reason="a long run is asked for by CHAT_MODEL_MINUTES")
@pytest.mark.timeout(MINUTES * 60 + 900)
@pytest.mark.usefixtures("longest_pauses")
def test_it_does_so_for_as_long_as_it_is_asked_for(
    model: type[QueueModel], capsys: pytest.CaptureFixture[str]
) -> None:
    end = time.monotonic() + MINUTES * 60
    for number in itertools.count(SEED):
        with capsys.disabled():
            sys.stdout.write(f"\nCHAT_MODEL_SEED={number}, {sum(model.reached.values())} calls so far")
            sys.stdout.flush()
        play(model, 200, number)
        if time.monotonic() > end:
            break
