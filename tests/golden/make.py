"""Store the golden scores anew: ``python -m tests.golden.make``. Only for a change of scores that is meant."""

import tempfile
from pathlib import Path

from tests.golden.embedded import scan_demo, write_golden

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        write_golden(scan_demo(Path(folder)))
