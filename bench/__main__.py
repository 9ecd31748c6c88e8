"""``python -m bench [--full | --quick] [--json FILE]``: exactness, then speed, on the embedded model.

As it is, 16 rows for exactness; for speed 24 long and 60 short rows, the best of two repetitions, and 10 long rows for
the reference's way: to be done within 20 minutes on two cores. ``--full`` takes 48, 96, 240 and 50 rows and three
repetitions, about an hour; ``--quick`` makes one repetition.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from bench.goals import line

MINUTES = 20.0
"""Goal for everything, unless it is the full run."""


def main() -> int:
    """Run each in a process of its own, so that none measures the other's memory; the first failure ends it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="many more rows, three repetitions")
    size.add_argument("--quick", action="store_true", help="one repetition for speed")
    parser.add_argument("--json", help="also write the figures of speed here")
    given = parser.parse_args()
    full = ["--full"] * given.full
    speed = [*full, *["--quick"] * given.quick, *(["--json", given.json] if given.json else [])]
    began = time.perf_counter()
    for module, arguments in (("bench.exactness", full), ("bench.speed", speed)):
        code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
        if code:
            return code
    minutes = (time.perf_counter() - began) / 60
    print("\n" + line("minutes for exactness and speed", minutes, None if given.full else (MINUTES,), more=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
