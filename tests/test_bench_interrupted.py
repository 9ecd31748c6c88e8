"""The bench of interrupted scans: it kills when it says, compares every value, and tells when it fell short."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.interrupted import Command, compare, differences, lines_of, run_to
from bench.scale import Kind

SCAN = """
import pathlib, shutil, sys, time

run, scores = pathlib.Path(sys.argv[1]), sys.argv[2:]
signals = run / "signals"
signals.mkdir(parents=True, exist_ok=True)
fresh = 0
for number in range(6):
    marker = signals / f"shard-{number:05d}.done"
    if not marker.exists():
        time.sleep(0.2)
        marker.write_text("")
        fresh += 10
shutil.copy(scores[run.name == "interrupted"], run / "scores.parquet")
(run / "manifest.json").write_text('{"timings": {"rows_scored_in_this_call": %d}}' % fresh)
"""
"""Stands for a scan: six shards of ten rows, a fifth of a second each, those that are there skipped."""


def scan(folder: Path, value: float = 0.5) -> Command:
    """The scan as a command; ``value`` is a score that it gives where it was interrupted, 0.5 else."""
    (folder / "scan.py").write_text(SCAN, encoding="utf-8")
    for number, score in enumerate((0.5, value)):
        pq.write_table(pa.table({"row": [0, 1], "score": [score, None]}), folder / f"{number}.parquet")
    scores = [str(folder / f"{number}.parquet") for number in (0, 1)]
    return lambda run: [sys.executable, str(folder / "scan.py"), str(run), *scores]


def test_a_scan_is_killed_at_even_distances_and_resumed(tmp_path: Path) -> None:
    found = compare(scan(tmp_path), tmp_path, 60, 6, 2)

    assert found.undisturbed.ended == "finished"
    ends = [process.ended for process in found.interrupted]
    assert ends[2] == "finished"
    killed = [int(ended.split()[2]) for ended in ends[:2]]
    assert 2 <= killed[0] < killed[1] < 6
    assert found.last_rows == 10 * (6 - killed[1])
    assert found.passed
    assert found.same_bytes
    assert lines_of(found)[-1] == "60 rows, killed twice, resumed, the same result: pass"
    assert found.as_json()["passed"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_of_the_rows_is_told_apart_from_that_of_loading(tmp_path: Path) -> None:
    load = "held = bytearray(b'x') * 300_000_000; time.sleep(0.3); del held\n"
    (tmp_path / "scan.py").write_text(SCAN.replace("fresh = 0\n", load + "fresh = 0\n"), encoding="utf-8")
    pq.write_table(pa.table({"row": [0]}), tmp_path / "0.parquet")
    command = [sys.executable, str(tmp_path / "scan.py"), str(tmp_path / "run"), str(tmp_path / "0.parquet")]

    found = run_to(command, tmp_path / "run", 6, None)

    assert found.peak_bytes > 300e6
    assert 1e6 < found.rows_peak_bytes < 100e6


def test_other_scores_fall_short_and_are_named(tmp_path: Path) -> None:
    found = compare(scan(tmp_path, 0.75), tmp_path, 60, 6, 1)

    assert found.differences == ["score: 1 of 2 values differ"]
    assert not found.passed
    assert lines_of(found)[-1] == "60 rows, killed once, resumed, the same result: FALL SHORT"


def test_a_scan_that_ends_before_it_is_killed_falls_short(tmp_path: Path) -> None:
    found = compare(scan(tmp_path), tmp_path, 200, 20, 1)

    assert [process.ended for process in found.interrupted] == ["finished"]
    assert not found.differences
    assert not found.passed
    assert any("ended before it could be killed once" in line for line in lines_of(found))


def test_a_scan_that_fails_ends_the_bench(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        run_to([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "run", 6, 2)


@pytest.mark.parametrize(
    ("column", "other", "same"),
    [
        (pa.array([0.1, float("nan"), None]), pa.array([0.1, float("nan"), None]), True),
        (pa.array([0.1, float("nan"), None]), pa.array([np.nextafter(0.1, 1), float("nan"), None]), False),
        (pa.array([0.1, float("nan"), None]), pa.array([0.1, None, None]), False),
        (pa.array([0.1, float("nan"), None]), pa.array([0.1, 0.2, None]), False),
        (pa.array(["ok", None]), pa.array(["ok", None]), True),
        (pa.array(["ok", None]), pa.array(["ok", "ok"]), False),
        (pa.array([True, False]), pa.array([True, True]), False),
        (pa.array([1, None, 3]), pa.array([1, None, 3]), True),
        (pa.array([1, 2]), pa.array([1.0, 2.0]), False),
        (pa.array([1, 2]), pa.array([1, 2, 3]), False),
    ],
)
def test_values_are_the_same_only_to_the_bit(column: pa.Array, other: pa.Array, same: bool) -> None:
    assert (differences(pa.table({"x": column}), pa.table({"x": other})) == []) == same


def test_what_is_unusual_names_a_scans_files() -> None:
    usual, other = Kind(3000, "representation", 60, 256), Kind(300, "all", 40, 64)
    assert (usual.text, usual.name, usual.shards) == ("rows-3000", "rows-3000", 12)
    assert (other.text, other.name) == ("rows-300-tokens-40", "rows-300-tokens-40-signals-all-shards-64")
    assert other.command(Path("rows"), Path("run"))[-4:] == ["--signals", "all", "--shard-rows", "64"]
