"""A command that is killed and given again leaves what an uninterrupted one does."""

import signal
from pathlib import Path

import pyarrow.parquet as pq

from tests.golden.small import any_file, asked_for_json, stop_once

KILL = signal.SIGKILL


def test_scan(files, scanned, tmp_path):
    out = tmp_path / "scan"
    stop_once(any_file(out, "signals/**/*.parquet"), KILL, *files.scan(out))
    again = asked_for_json(*files.scan(out))
    for part in ("rows", "scored", "ranking", "riskiest", "quantiles", "separation"):
        assert again[part] == scanned.json[part]
    whole, resumed = (pq.read_table(folder / "scores.parquet") for folder in (scanned.folder, out))
    assert resumed.equals(whole)


def answered(folder: Path) -> int:
    return (folder / "responses.partial.jsonl").read_bytes().count(b"\n")


def test_evaluate(files, evaluated, tmp_path):
    out = tmp_path / "evaluate"
    stop_once(any_file(out, "responses*"), KILL, *files.evaluate(out))
    assert 4 <= answered(out) < 60
    again = asked_for_json(*files.evaluate(out))
    whole, resumed = (pq.read_table(folder / "responses.parquet") for folder in (evaluated.folder, out))
    assert resumed.equals(whole)
    assert again["rates"] == evaluated.json["rates"]


def test_experiment(files, scanned, experimented, tmp_path):
    out = tmp_path / "experiment"
    command = ["experiment", files.experiment(scanned.folder), "--quiet", "--out", out]
    top = out / "arms" / "top-seed0"
    # while the first arm is trained, and again while the second is asked
    for seen, finished in (
        ("arms/random-seed0/finetune/loss.jsonl", {"base"}),
        ("arms/top-seed0/evaluation/responses*", {"base", "random-seed0"}),
    ):
        stop_once(any_file(out, seen), KILL, *command)
        assert {path.parent.name for path in out.glob("arms/*/arm.json")} == finished
    assert 4 <= answered(top / "evaluation") < 60
    trained = (top / "finetune" / "loss.jsonl").stat().st_mtime_ns
    again = asked_for_json(*command, codes=(0, 4))
    assert (top / "finetune" / "loss.jsonl").stat().st_mtime_ns == trained, "not trained twice"
    for part in ("arms", "comparisons", "verdict"):
        assert again[part] == experimented.json[part]
    table = "arms/top-seed0/evaluation/responses.parquet"
    assert pq.read_table(out / table).equals(pq.read_table(experimented.folder / table))
