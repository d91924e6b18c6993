"""Run a module under cProfile, by the clock of the CPU: python -m benchmarks.profiled FILE MODULE ARGUMENTS…

`python -m cProfile` knows the clock on the wall alone, which goes on while the process waits, or another one runs.
"""

import cProfile
import runpy
import sys
import time


def main() -> None:
    path, module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    profile = cProfile.Profile(time.process_time)
    try:
        profile.runcall(runpy.run_module, module, run_name="__main__", alter_sys=True)
    finally:
        profile.dump_stats(path)


if __name__ == "__main__":
    main()
