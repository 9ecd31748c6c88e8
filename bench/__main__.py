"""``python -m bench``: exactness, then speed, on the embedded model."""

from __future__ import annotations

import subprocess
import sys


def main() -> int:
    """Run each in a process of its own, so that none measures the other's memory; the first failure ends it."""
    for module, arguments in (("bench.exactness", []), ("bench.speed", sys.argv[1:])):
        code = subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
        if code:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
