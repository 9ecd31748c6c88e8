"""What the bench of the peers says of its figures: goals, errors, losses, and the dots of its oracle."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.peers import __main__ as peers
from bench.peers.__main__ import MARKS, fastest, put_table
from bench.peers.environments import Peer, last_line
from bench.peers.exchange import Task, collate, sum_of_row_means
from bench.peers.prepare import _dot
from bench.peers.table import goals, markdown


def entry(peer: str, rate: float, **changed: Any) -> dict[str, Any]:
    """A result of one set of ten rows."""
    return {
        "peer": peer,
        "scope": "linear",
        "dtype": "float32",
        "measure": "cosine",
        "spearman": 1.0,
        "largest_difference": 1e-6,
        "rows": 10,
        "seconds": {"short": 10 / rate},
        "rows_per_second": {"short": rate},
        "peak_bytes": 2e9,
        "left_out": "",
        "settings": "",
        **changed,
    }


def figures(*results: dict[str, Any]) -> dict[str, Any]:
    return {
        "date": "2026-11-25",
        "machine": "a machine",
        "threads": 1,
        "torch": "2",
        "anchors": 4,
        "repeat": 1,
        "counts": {"short": 10},
        "files": {"short": "rows/a.json"},
        "mean_tokens": {"short": 57.0},
        "dtypes": ["float32"],
        "results": list(results),
    }


def test_the_goal_is_to_be_faster_than_every_accurate_other() -> None:
    (goal,) = goals([entry("ripcurrent", 4.0), entry("one", 2.0), entry("two", 3.2)], ["short"])
    assert goal == {"rows": "short", "fastest_other": "two", "ratio": pytest.approx(1.25), "verdict": "pass"}
    (goal,) = goals([entry("ripcurrent", 4.0), entry("one", 4.1)], ["short"])
    assert goal["verdict"] == "FALL SHORT"


@pytest.mark.parametrize("changed", [{"spearman": 0.9}, {"measure": "dot"}])
def test_inaccurate_results_and_mere_dots_are_no_rivals(changed: dict[str, Any]) -> None:
    (goal,) = goals([entry("ripcurrent", 4.0), entry("one", 9.0, **changed)], ["short"])
    assert goal["ratio"] is None


def test_an_inaccurate_ripcurrent_falls_short_however_fast() -> None:
    (goal,) = goals([entry("ripcurrent", 40.0, spearman=0.9), entry("one", 1.0)], ["short"])
    assert goal["verdict"] == "FALL SHORT"


def test_a_peer_that_failed_is_listed_with_its_error() -> None:
    failed = {"peer": "one", "scope": "linear", "dtype": "float32", "stage": "install", "error": "No such version"}
    table = markdown(figures(entry("ripcurrent", 4.0), failed))
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    assert len({row.count("|") for row in rows}) == 1
    assert "did not install**: No such version" in table


def test_an_error_is_its_own_line_without_folders() -> None:
    text = "Traceback (most recent call last):\n  File x\nValueError: no file in /a/b/c/d.json\n\nwarning: bye\n"
    assert last_line(text) == "ValueError: no file in …/d.json"
    assert last_line("ERROR: No matching distribution found for x==1\n") == "No matching distribution found for x==1"


def test_a_padded_batch_has_the_sum_of_its_rows_mean_losses() -> None:
    rows = [{"ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}, {"ids": [5, 6], "labels": [-100, 6]}]
    batch = collate(rows)
    logits = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    expected = 0.0
    for place, row in enumerate(rows):
        chosen = [position for position, label in enumerate(row["labels"]) if label != -100]
        losses = [-logits[place, position - 1].log_softmax(0)[row["ids"][position]] for position in chosen]
        expected += float(sum(losses)) / len(losses)
    assert float(sum_of_row_means(logits, batch["labels"])) == pytest.approx(expected, rel=1e-6)


def test_the_oracles_dot_is_that_of_double_precision() -> None:
    generator = torch.Generator().manual_seed(0)
    one, other = torch.randn(300, 500, generator=generator), torch.randn(300, 500, generator=generator)
    assert _dot(one, other) == pytest.approx(float((one.double() * other.double()).sum()), rel=1e-6)


def test_a_task_is_read_and_its_result_written(tmp_path: Path) -> None:
    given = {
        "model": "m",
        "dtype": "bfloat16",
        "scope": "all",
        "threads": torch.get_num_threads(),
        "sets": {"short": [{"ids": [1, 2], "labels": [-100, 2]}]},
        "anchors": {},
        "directions": "d",
        "batch": 2,
        "out": str(tmp_path / "result.json"),
    }
    (tmp_path / "task.json").write_text(json.dumps(given))
    task = Task(tmp_path / "task.json")
    assert task.torch_dtype == torch.bfloat16
    assert task.batch == 2
    task.keep("short", task.time("short", lambda rows: torch.zeros(len(rows), 2)))
    task.write("no-such-package")
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["scores"] == {"short": [[0.0, 0.0]]}
    assert result["seconds"]["short"] >= 0.0
    assert result["peak_bytes"]["short"] > 1e7
    assert result["versions"]["no-such-package"] is None


def run(batch: int | None, short: float, long: float) -> dict[str, Any]:
    """A run of two sets whose scores and memory tell which it was."""
    return {
        "batch": batch,
        "settings": "as it comes",
        "measure": "cosine",
        "seconds": {"short": short, "long": long},
        "scores": {"short": [batch, "short"], "long": [batch, "long"]},
        "peak_bytes": {"short": 10 * (batch or 1), "long": 100 * (batch or 1)},
    }


def test_each_set_has_its_own_fastest_batch_and_that_runs_scores_and_memory() -> None:
    found = fastest([run(1, 4.0, 2.0), run(2, 3.0, 2.5), run(8, 1.0, 5.0)], {})
    assert found["seconds"] == {"short": 1.0, "long": 2.0}
    assert found["scores"] == {"short": [8, "short"], "long": [1, "long"]}
    assert found["peak_bytes"] == 100
    assert found["settings"] == "rows at once, the fastest of 1, 2, 8: 8 (short), 1 (long); as it comes"
    assert found["measure"] == "cosine"


def test_a_batch_that_failed_is_named_and_the_others_count() -> None:
    found = fastest([run(1, 4.0, 2.0), run(2, 3.0, 2.5)], {8: "killed, probably for memory"})
    assert found["scores"] == {"short": [2, "short"], "long": [1, "long"]}
    assert found["settings"].endswith(
        "1, 2: 2 (short), 1 (long); as it comes; failed with 8: killed, probably for memory"
    )


def test_repeated_runs_without_batches_keep_the_fastest_runs_scores() -> None:
    slow, quick = run(None, 4.0, 2.0), {**run(None, 3.0, 2.5), "scores": {"short": ["quick"], "long": ["quick"]}}
    found = fastest([slow, quick], {})
    assert found["scores"] == {"short": ["quick"], "long": [None, "long"]}
    assert found["settings"] == "as it comes"


SCRIPT = """
import json, sys

given = json.load(open(sys.argv[1]))
if given["batch"] == 8:
    raise MemoryError("too much")
seconds = {1: 4.0, 2: 2.0}[given["batch"]]
result = {
    "measure": "cosine", "settings": "", "left_out": "", "versions": {}, "unit_directions": False,
    "seconds": {"short": seconds},
    "peak_bytes": {"short": 1000},
    "scores": {"short": [[row["score"], given["batch"]] for row in given["sets"]["short"]]},
}
json.dump(result, open(given["out"], "w"))
"""
"""Stands for a peer that takes half as long with two rows at once, and fails with eight."""


def test_a_peer_is_run_with_every_batch_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "peer.py").write_text(SCRIPT)
    monkeypatch.setattr(peers, "FOLDER", tmp_path)
    monkeypatch.setitem(peers.BY_NAME, "one", Peer("one", (), "peer.py", ("all",), batches=(1, 2, 8)))
    prepared = {
        "sets": {"short": [{"score": 0.5}, {"score": 0.25}, {"score": 0.75}]},
        "anchors": {},
        "oracle": {"short": {"all": {"dots": [[1.0, 4.0], [0.5, 4.0], [1.5, 4.0]], "norms": [2.0] * 3}}},
    }
    given = argparse.Namespace(threads=1, repeat=1, timeout=60)
    command = [sys.executable, str(tmp_path / "peer.py")]
    found = peers._measure(tmp_path, prepared, "one", command, "all", "float32", given)
    assert (found["seconds"], found["rows_per_second"]) == ({"short": 2.0}, {"short": 1.5})
    assert (found["rows"], found["peak_bytes"], found["largest_difference"]) == (3, 1000, 0.0)
    assert found["settings"].startswith("rows at once, the fastest of 1, 2: 2 (short)")
    assert found["settings"].endswith("failed with 8: MemoryError: too much")


def test_the_table_goes_between_its_marks_and_touches_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{MARKS[0]}\nold\n{MARKS[1]}\nafter\n")
    put_table(page, "new\n")
    put_table(page, "newer\n")
    assert page.read_text() == f"before\n{MARKS[0]}\n\nnewer\n\n{MARKS[1]}\nafter\n"
    put_table(tmp_path / "other.md", "new\n")
    assert (tmp_path / "other.md").read_text() == "new\n"
