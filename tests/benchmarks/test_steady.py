from collections.abc import Awaitable, Callable, Iterable

from benchmarks.steady import Steady


def looks(*nanoseconds: float) -> Callable[[], float]:
    """A machine that has these yardsticks, one after the other."""
    left = iter(nanoseconds)
    return lambda: next(left)


def turns(of: Iterable[str]) -> Callable[[], Awaitable[str]]:
    """Turns that give these, one after the other."""
    left = iter(of)

    async def measure() -> str:
        return next(left)

    return measure


async def test_a_turn_of_a_machine_that_is_itself_counts() -> None:
    steady = Steady(looks(100, 110, 119))
    assert await steady.turn(turns(["first"])) == "first"
    assert "Of 1 turns 0 were measured again" in steady.told


async def test_a_turn_after_which_the_machine_is_slow_is_measured_again_once_it_is_itself() -> None:
    steady = Steady(looks(100, 100, 150, 150, 125, 110, 105), pause=0.0)
    assert await steady.turn(turns(["slow", "good"])) == "good"
    assert "Of 1 turns 1 were measured again" in steady.told
    assert "0 count although" in steady.told


async def test_what_is_usual_is_the_best_that_was_seen() -> None:
    steady = Steady(looks(150, 100, 125, 100, 100), pause=0.0)
    assert await steady.turn(turns(["slow", "good"])) == "good"


async def test_a_machine_that_stays_slow_is_measured_all_the_same_and_that_is_told() -> None:
    steady = Steady(looks(100, 150, 150), patience=0.0)
    assert await steady.turn(turns(["slow"])) == "slow"
    assert "1 count although" in steady.told
