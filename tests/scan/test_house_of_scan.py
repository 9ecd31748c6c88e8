"""The way of a row through a scan: few files opened, few frames, no module of a later verb."""

import inspect
import json
import subprocess
import sys
from typing import Any

from ripcurrent.gradients.kernels import linear
from ripcurrent.scan import scan

LATER = ("select", "finetune", "evaluate", "experiment", "forecast", "report", "demo", "cli")

ALONE = """
import json, sys

opened = []
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
import pyarrow.parquet as pq
for name in ("ParquetFile", "ParquetWriter"):
    real = getattr(pq, name)
    class Counted(real):
        def __init__(self, where, *arguments, real=real, **named):
            opened.append(str(where))
            real.__init__(self, where, *arguments, **named)
    setattr(pq, name, Counted)
import ripcurrent as rc

dataset, out, options = sys.argv[1:]
run = rc.scan(dataset, out, **json.loads(options))
run.ranked(), run.ids([0])
names = [name.split(".")[1] for name in sys.modules if name.startswith("ripcurrent.")]
print(json.dumps([opened, sorted(set(names))]))
"""


def test_a_scan_opens_few_files_and_loads_no_later_verb(rows_file, tmp_path, exact):
    out = tmp_path / "out"
    command = [sys.executable, "-c", ALONE, str(rows_file), str(out), json.dumps(exact)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    opened, rooms = json.loads(done.stdout)
    assert 1 <= opened.count(str(rows_file)) <= 3
    written, read = opened.count(str(out / "scores.parquet.part")), opened.count(str(out / "scores.parquet"))
    # written, flushed to the disk, and read once
    assert (written, read) == (2, 1)
    assert not set(rooms) & set(LATER)


def test_nine_frames_from_the_scan_to_the_matrix_product(rows_file, tmp_path, exact, monkeypatch):
    frames: list[list[str]] = []

    def watched(name: str) -> None:
        real = getattr(linear, name)

        def kernel(*arguments: Any) -> Any:
            ours = [frame.function for frame in inspect.stack()[1:] if "/src/ripcurrent/" in frame.filename]
            # anchors are measured by other ways
            if "compute" in ours:
                frames.append([name, *ours[: ours.index("scan") + 1]])
            return real(*arguments)

        monkeypatch.setattr(linear, name, kernel)

    for name in ("_dots", "batched_dots", "linear_dots", "_squared_norms"):
        watched(name)
    scan(rows_file, tmp_path / "out", **exact)
    assert frames
    assert max(map(len, frames)) <= 9, max(frames, key=len)
