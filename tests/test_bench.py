"""What the benchmarks say of their figures, the table that they keep, and how they tell memory that grows."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from bench import __main__ as everything
from bench import gpu, measure, speed
from bench.peers.table import goal
from bench.scale import report, watched

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


@pytest.mark.parametrize(
    ("value", "goals", "more", "said"),
    [
        (2.1, (1.8, 2.0), True, "goals ≥ 1.8 and ≥ 2: pass"),
        (1.9, (1.8, 2.0), True, "goals ≥ 1.8 and ≥ 2: first goal passed, FALLS SHORT of the second"),
        (1.7, (1.8, 2.0), True, "goals ≥ 1.8 and ≥ 2: FALLS SHORT"),
        (20.1, (20.0,), False, "goal ≤ 20: FALLS SHORT"),
        (float("nan"), (20.0,), False, "goal ≤ 20: FALLS SHORT"),
    ],
)
def test_goals_are_met_or_fallen_short_of(value, goals, more, said):
    assert measure.judged(value, goals, more=more) == said


def test_the_whole_bench_runs_both_parts_and_writes_their_table(monkeypatch, capsys, tmp_path):
    best = {"forward": 1.0, "scan": 4.5, "representation": 1.0, "loop": 9.0}
    reports = {name: speed.report(name, 10, 100.0, best, arithmetic=1.8) for name in speed.SETS}
    assert "4.500   goals ≤ 4.6 and ≤ 4: first goal passed, FALLS SHORT of the second" in capsys.readouterr().out
    exact = {"cosine": 5e-6, "norm": 2e-4, "spearman": 1.0}
    figures = {
        "bench.exactness": {"rows": 16, "float32": exact, "bfloat16": {**exact, "spearman": 0.9985}},
        "bench.speed": {"machine": "a CPU", "threads": 2, "matmul_flops": 8.5e11, **reports},
    }

    def run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        Path(command[-1]).write_text(json.dumps(figures[command[2]]))
        return subprocess.CompletedProcess(command, 0)

    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench: begin -->\nold\n<!-- bench: end -->\nafter\n")
    monkeypatch.setattr(everything, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(sys, "argv", ["bench", "--write", str(page)])
    assert everything.main() == 0
    written = page.read_text()
    assert written.startswith("before\n<!-- bench: begin -->\n\n")
    assert written.endswith("\n<!-- bench: end -->\nafter\n")
    assert "old" not in written
    assert "| largest relative norm difference, float32 | 16 rows | 2.0e-04 | goal ≤ 0.0001: FALLS SHORT |" in written
    assert "| times the batch-1 loop | 10 of 100 tokens | 2.00 | goals ≥ 1.8 and ≥ 2: pass |" in written


def test_the_gpu_bench_runs_on_a_cpu(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.gpu", "--device", "cpu", "--shapes", "tiny", "--rows", "9"])
    assert gpu.main() == 0
    shown = capsys.readouterr().out
    for said in ("of the matmul peak", "times the loop", "times the loop, arithmetic alone", "tiny, factored"):
        assert said in shown


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="read from /proc")
def test_memory_of_the_rows_is_told_apart_from_that_of_loading(tmp_path):
    seconds, peak, rows_peak = watched([sys.executable, "-c", SCAN, str(tmp_path / "run")], tmp_path / "run")
    assert seconds > 0.8
    assert peak > 300e6
    assert 1e6 < rows_peak < 100e6
    with pytest.raises(SystemExit, match="ended with 3"):
        watched([sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "run")


@pytest.mark.parametrize(("largest", "code"), [(1.05e9, 0), (1.2e9, 1)])
def test_memory_that_grows_with_the_rows_falls_short(largest, code):
    one: dict[str, Any] = {
        "rows": 1, "mean_tokens": 60.0, "seconds": 60.0, "peak_bytes": 2e9, "rows_peak_bytes": 1e9,
        "rows_per_second": 5.0, "bytes_on_disk": 1,
    }  # fmt: skip
    assert report([one, {**one, "rows": 9, "rows_peak_bytes": largest}]) == code


def peer(name: str, rate: float, **changed: Any) -> dict[str, Any]:
    """A peer's result on one set of ten rows."""
    result = {"peer": name, "scope": "linear", "dtype": "float32", "cosine": True, "spearman": 1.0, "rows": 10}
    return {**result, "largest_difference": 1e-6, "rows_per_second": {"short": rate}, **changed}


@pytest.mark.parametrize(
    ("peers", "said"),
    [
        ([peer("ripcurrent", 4.0), peer("one", 2.0), peer("two", 3.2)], "1.25 times the fastest other"),
        ([peer("ripcurrent", 4.0), peer("one", 9.0, spearman=0.9)], "no other that gives cosines"),
        ([peer("ripcurrent", 4.0, spearman=0.9), peer("one", 1.0)], "**FALLS SHORT**"),
        ([{"peer": "ripcurrent", "error": "killed"}, peer("one", 1.0)], "gave no result: **FALLS SHORT**"),
    ],
)
def test_the_goal_is_to_be_faster_than_every_accurate_other(peers, said):
    assert said in goal(peers, "short")
