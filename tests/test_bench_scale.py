"""The bench of memory: memory of rows apart from that of loading, and a verdict on whether it grows."""

import sys
from typing import Any

import pytest
from bench.scale import generated_rows, report, watched

SCAN = """
import pathlib, sys, time

signals = pathlib.Path(sys.argv[1]) / "signals"
held = bytearray(b'x') * 300_000_000; time.sleep(0.2); del held
signals.mkdir(parents=True)
for number in range(3):
    time.sleep(0.2)
    (signals / f"shard-{number:05d}.done").write_text("")
"""
"""Stands for a scan: it loads, then three shards, a fifth of a second each."""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_of_the_rows_is_told_apart_from_that_of_loading(tmp_path):
    seconds, peak, rows_peak = watched([sys.executable, "-c", SCAN, str(tmp_path / "run")], tmp_path / "run")
    assert seconds > 0.8
    assert peak > 300e6
    assert 1e6 < rows_peak < 100e6


def test_a_scan_that_fails_ends_the_bench(tmp_path):
    with pytest.raises(SystemExit, match="ended with 3"):
        watched([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "run")


@pytest.mark.parametrize(("largest", "code"), [(1.05e9, 0), (1.2e9, 1)])
def test_memory_that_grows_with_the_rows_falls_short(largest, code):
    one: dict[str, Any] = {
        "rows": 1, "mean_tokens": 60.0, "seconds": 60.0, "peak_bytes": 2e9, "rows_peak_bytes": 1e9,
        "rows_per_second": 5.0, "bytes_on_disk": 1,
    }  # fmt: skip
    assert report([one, {**one, "rows": 9, "rows_peak_bytes": largest}]) == code


def test_generated_rows_differ_and_stay_the_same_from_run_to_run():
    rows = list(generated_rows(50))
    assert rows == list(generated_rows(50))
    assert len({row["output"] for row in rows}) == 50
