"""Every fault, with one worker and with three: real processes over a real server, and the checker afterwards."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.report import tell
from worker.verify import table
from worker.verify.matrix import SIZES, Bench
from worker.verify.scenarios import FAULTS, Fault

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=SIZES, ids=lambda size: f"{size} workers")
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    """A server and workers, that all faults are done to in turn."""
    async with Bench(request.param) as bench:
        yield bench


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
async def test_nothing_is_lost_doubled_or_left_waiting(bench: Bench, fault: Fault) -> None:
    result = await bench.run(fault)
    tell("faults: how long it took to recover is a figure, not a test", table.row(result))
    assert list(result.violations) == []


async def test_workers_that_stop_leave_nothing_behind(bench: Bench) -> None:
    result = await bench.stop()
    assert list(result.violations) == []
    here = asyncio.current_task()
    left = [task.get_name() for task in asyncio.all_tasks() if task is not here]
    assert [name for name in left if name.startswith("verify-")] == []
