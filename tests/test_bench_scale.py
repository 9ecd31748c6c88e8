"""The bench of scale: figures made with other versions are not taken for figures of now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bench import scale
from bench.interrupted import Process
from bench.scale import Kind

KIND = Kind(1000, "representation", 60, 256)
NOW = {"source": scale._source(), **{name: version(name) for name in ("ripcurrent", "torch", "numpy")}}


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Stands for scans; holds for each whether its run folder was there already."""
    found: list[bool] = []

    def run_to(command: Sequence[str], run: Path, shards: int, kill_at: int | None) -> Process:
        found.append(run.exists())
        (run / "signals").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"prompt_tokens": [20], "response_tokens": [40]}), run / "scores.parquet")
        manifest = {
            "timings": {"rows_scored_in_this_call": 1000, "signals": 20.0},
            "model": {"dtype": "bfloat16"},
            "version": NOW["ripcurrent"],
            "versions": {name: found for name, found in NOW.items() if name not in ("ripcurrent", "source")},
        }
        (run / "manifest.json").write_text(json.dumps(manifest))
        return Process("finished", 25.0, 10**9, 8 * 10**8)

    monkeypatch.setattr(scale.interrupted, "run_to", run_to)
    monkeypatch.setattr(scale, "_dataset", lambda kind, folder: folder / "rows.jsonl")
    return found


def test_figures_of_the_same_versions_are_taken_as_they_are(
    tmp_path: Path, scans: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    first = scale._measured(KIND, tmp_path)
    assert first["versions"] == NOW
    assert scale._measured(KIND, tmp_path) == first
    assert scans == [False]
    assert "as measured before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("versions", "said"),
    [
        ({**NOW, "source": "another"}, f"source another, now {NOW['source']}"),
        ({**NOW, "torch": "0.1"}, f"torch 0.1, now {NOW['torch']}"),
        ({**NOW, "ripcurrent": "0.0.1"}, f"ripcurrent 0.0.1, now {NOW['ripcurrent']}"),
        ({**NOW, "no-such-package": "1"}, "no-such-package 1, now none"),
        (
            {"torch": NOW["torch"]},
            f"ripcurrent unknown, now {NOW['ripcurrent']}, source unknown, now {NOW['source']}",
        ),
    ],
)
def test_figures_of_other_versions_are_measured_again_from_the_start(
    tmp_path: Path, scans: list[bool], capsys: pytest.CaptureFixture[str], versions: dict[str, str], said: str
) -> None:
    figures = tmp_path / "rows-1000.json"
    figures.write_text(json.dumps({"versions": versions}))
    (tmp_path / "run-1000" / "signals").mkdir(parents=True)
    found = scale._measured(KIND, tmp_path)
    assert scans == [False]
    assert (found["seconds"], found["versions"]) == (25.0, NOW)
    assert json.loads(figures.read_text()) == found
    assert json.loads((tmp_path / "rows-1000.json.old").read_text()) == {"versions": versions}
    assert f"1000 rows: measured before with {said}: again" in capsys.readouterr().out


@pytest.mark.parametrize(("most", "said"), [(8.7e8, "1.09   goal ≤ 1.1  pass"), (9e8, "1.12   goal ≤ 1.1  FALL SHORT")])
def test_memory_is_judged_by_the_rows_and_not_by_loading(
    most: float, said: str, tmp_path: Path, scans: list[bool], capsys: pytest.CaptureFixture[str]
) -> None:
    first = scale._measured(KIND, tmp_path)
    code = scale._report([first, {**first, "rows": 10_000, "rows_peak_bytes": most, "seconds": None}], "representation")
    assert said in capsys.readouterr().out
    assert code == ("FALL" in said)
