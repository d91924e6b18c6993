"""How fast this interpreter is on this machine: so that figures of two days, or of two builds, can be told apart.

An interpreter that was built without profile-guided optimisation, as ``./configure && make`` does it, takes longer
than one of a distribution or of the official images. Most of what is measured here is time in it.
"""

import time

_CALLS, _ROUNDS = 10_000, 50


class _Something:
    __slots__ = ("_value",)

    def __init__(self, value: int) -> None:
        self._value = value

    def plus(self, other: int) -> int:
        return self._value + other


def nanoseconds_of_a_call() -> float:
    """Return what it takes to make a small object and to call a method of it, in ns; the best of several rounds."""
    return min(_round() for _ in range(_ROUNDS)) / _CALLS


def _round() -> int:
    began = time.perf_counter_ns()
    for number in range(_CALLS):
        _Something(number).plus(3)
    return time.perf_counter_ns() - began
