"""All benchmarks, one after another, each a process with a time bound of its own; then the plots.

    python -m benchmarks           or, for a look,            python -m benchmarks --quick

One that fails does not keep the others from running; which ones did is said at the end, and is the exit status.
What else is given is handed on to each: ``--server redis --repeats 5 --out DIR``.
"""

import importlib.util
import signal
import subprocess
import sys
import time
from typing import Any

from benchmarks import command, plot
from benchmarks.processes import ROOT

SCRIPTS = ("relay", "growth", "readers", "jobs", "enqueue", "round_trip", "idle_latency", "startup")
BOUND, QUICK_BOUND = 3600.0, 300.0  # seconds
LAST_WORDS = 30.0  # seconds


def main() -> int:
    made = command.parser(__doc__)
    made.add_argument("--scripts", nargs="+", choices=SCRIPTS, default=present(), help="default: all")
    given = command.parse(made)
    arguments = command.again(given)
    bound = QUICK_BOUND if given.quick else BOUND
    failed = [name for name in given.scripts if not succeeds(name, arguments, bound)]
    for picture in plot.draw_all(sorted(given.out.glob("*.json"))):
        print(picture)
    print(f"the results are in {given.out}")
    print(f"failed: {', '.join(failed)}" if failed else "all benchmarks ran to their end")
    return 1 if failed else 0


def present() -> list[str]:
    """Return the scripts that are there."""
    return [name for name in SCRIPTS if importlib.util.find_spec(f"benchmarks.{name}")]


def succeeds(name: str, arguments: list[str], bound: float) -> bool:
    """Run one script to its end, or to its time bound."""
    print(f"\n---- benchmarks.{name}", flush=True)
    began_at = time.monotonic()
    with subprocess.Popen([sys.executable, "-m", f"benchmarks.{name}", *arguments], cwd=ROOT) as process:
        try:
            status = process.wait(bound)
        except subprocess.TimeoutExpired:
            status = end(process) or -1  # whatever it says of itself, it was not done
            print(f"benchmarks.{name} took longer than {bound:g} s and was ended")
    print(f"---- benchmarks.{name}: status {status}, {time.monotonic() - began_at:.0f} s", flush=True)
    return status == 0


def end(process: "subprocess.Popen[Any]") -> int:
    """End a script as Ctrl-C does, so that it ends the processes that it has started; return its status."""
    process.send_signal(signal.SIGINT)
    try:
        return process.wait(LAST_WORDS)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
