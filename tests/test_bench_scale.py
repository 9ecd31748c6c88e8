"""The bench of memory and of interrupted scans: it kills when it says and compares every value."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench.scale import compare, differences, generated_rows, report, run_to

SCAN = """
import pathlib, shutil, sys, time

scores, run = sys.argv[1], pathlib.Path(sys.argv[3])
signals = run / "signals"
signals.mkdir(parents=True, exist_ok=True)
held = bytearray(b'x') * 300_000_000; time.sleep(0.2); del held
for number in range(6):
    marker = signals / f"shard-{number:05d}.done"
    if not marker.exists():
        time.sleep(0.2)
        marker.write_text("")
shutil.copy(scores, run / "scores.parquet")
"""
"""Stands for a scan: it loads, then six shards, a fifth of a second each, those that are there skipped."""


def scan(folder: Path, name: str, score: float) -> list[str]:
    (folder / "scan.py").write_text(SCAN, encoding="utf-8")
    pq.write_table(pa.table({"row": [0, 1], "score": [score, None]}), folder / f"{name}.parquet")
    return [sys.executable, str(folder / "scan.py"), str(folder / f"{name}.parquet"), "--out", str(folder / name)]


@pytest.mark.parametrize(
    ("score", "shards", "kills", "said", "code"),
    [
        (0.5, 6, 2, "killed 2 times of 2, resumed, the same result: pass", 0),
        (0.75, 6, 1, "score: 1 of 2 values differ", 1),
        (0.5, 20, 1, "killed 0 times of 1, resumed, the same result: FALLS SHORT", 1),
    ],
)
def test_a_scan_is_killed_resumed_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], score: float, shards: int, kills: int, said: str, code: int
) -> None:
    assert compare(scan(tmp_path, "whole", 0.5), scan(tmp_path, "broken", score), shards, kills) == code
    assert said in capsys.readouterr().out


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_of_the_rows_is_told_apart_from_that_of_loading(tmp_path: Path) -> None:
    process = run_to(scan(tmp_path, "run", 0.5), tmp_path / "run", None)
    assert process.killed_after is None
    assert process.peak_bytes > 300e6
    assert 1e6 < process.rows_peak_bytes < 100e6


def test_a_scan_that_fails_ends_the_bench(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="ended with 3"):
        run_to([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "run", 2)


@pytest.mark.parametrize(
    ("column", "other", "same"),
    [
        (pa.array([0.1, float("nan"), None]), pa.array([0.1, float("nan"), None]), True),
        (pa.array([0.1, float("nan"), None]), pa.array([np.nextafter(0.1, 1), float("nan"), None]), False),
        (pa.array([0.1, float("nan"), None]), pa.array([0.1, None, None]), False),
        (pa.array(["ok", None]), pa.array(["ok", "ok"]), False),
        (pa.array([1, 2]), pa.array([1.0, 2.0]), False),
        (pa.array([1, 2]), pa.array([1, 2, 3]), False),
    ],
)
def test_values_are_the_same_only_to_the_bit(column: pa.Array, other: pa.Array, same: bool) -> None:
    assert (differences(pa.table({"x": column}), pa.table({"x": other})) == []) == same


@pytest.mark.parametrize(("largest", "code"), [(1.05e9, 0), (1.2e9, 1)])
def test_memory_that_grows_with_the_rows_falls_short(largest: float, code: int) -> None:
    one: dict[str, Any] = {
        "rows": 1, "signals": "gradient", "mean_tokens": 60.0, "seconds": 60.0, "peak_bytes": 2e9,
        "rows_peak_bytes": 1e9, "rows_per_second": 5.0, "bytes_on_disk": 1,
    }  # fmt: skip
    assert report([one, {**one, "rows": 9, "rows_peak_bytes": largest}]) == code


def test_generated_rows_differ_and_stay_the_same_from_run_to_run() -> None:
    rows = list(generated_rows(50))
    assert rows == list(generated_rows(50))
    assert len({row["output"] for row in rows}) == 50
