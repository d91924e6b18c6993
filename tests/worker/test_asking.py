"""An answer's task belongs to whoever wrote the provider's class: its job goes on whatever becomes of it."""

import asyncio
from types import SimpleNamespace
from typing import Any

from producer.wire.keys import Keys
from worker.asking import Asker, Question
from worker.attempt import Attempt
from worker.cancellations import Cancellations
from worker.event_log import EventLog
from worker.holdings import Entry
from worker.outcome import Failure, Follow

PATIENCE = 5.0  # seconds


async def test_an_answer_that_is_cancelled_before_its_first_step_has_failed() -> None:
    """G1: nobody else tells the job that nothing will come."""
    unused: Any = None
    settings: Any = SimpleNamespace(timeout=1.0, check=1.0, lease=3.0)
    job: Any = SimpleNamespace(id="j", deadline=None)
    provider: Any = SimpleNamespace(name="p", is_limited=False)
    log = EventLog(unused, Keys("unused"))
    asker = Asker(log, Cancellations(unused, unused, settings), unused, unused, "w")
    before = asyncio.all_tasks()
    asking = asyncio.create_task(
        asker.ask(Question(Entry("q", "1-0", b""), job, Attempt("j", 5, 1), provider))
    )
    await asyncio.sleep(0)
    (answering,) = asyncio.all_tasks() - before - {asking}
    answering.cancel()
    async with asyncio.timeout(PATIENCE):
        outcome = await asking
    assert outcome == Failure("provider_crashed", "provider 'p' cancelled itself", Follow.RETRY)
