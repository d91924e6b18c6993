"""Any interleaving of what producers, workers, operators and crashes do keeps what the queue promises.

The real parts run, over a real server, and nothing moves by itself: hypothesis says who takes the next step, whose
reply is lost, who freezes (takes no step for a while), who dies, and which message arrives late once more. After every
call the small model in `tests.support.promises` says whether that was allowed.
"""

import itertools
import os
import sys
import time

import pytest

DAY_S = 86_400.0

MINUTES = float(os.environ.get("CHAT_MODEL_MINUTES", "0"))
"""For a long run with seeds of its own; without it, the same short one every time."""

SEED = int(os.environ.get("CHAT_MODEL_SEED", time.time_ns() % 10**9))
"""Where a long run begins."""

EXAMPLES = int(os.environ.get("CHAT_MODEL_EXAMPLES", "240"))
SHRINKS = not os.environ.get("CHAT_MODEL_AS_FOUND")
"""Whether the smallest case that fails is looked for."""


@pytest.mark.timeout(600)  # the smallest case that fails is looked for at length
def test_any_order_of_steps_crashes_and_lost_replies_keeps_every_promise(model: type[QueueModel]) -> None:
    for number in range(4):
        play(model, EXAMPLES // 4, number)
    assert model.reached.keys() >= TO_BE_REACHED


@pytest.mark.skipif(not MINUTES, reason="a long run is asked for by CHAT_MODEL_MINUTES")
@pytest.mark.timeout(MINUTES * 60 + 900)
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
