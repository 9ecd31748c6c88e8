"""The demo command on a tiny model, and with the embedded one (slow)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ripcurrent.anchors import load_anchors
from ripcurrent.cli import run
from ripcurrent.cli._demo import show_proof
from ripcurrent.data import read_rows
from ripcurrent.demo import DEMO_ROWS, _demo, _demo_proof
from ripcurrent.demo._demo import Demo, run_demo
from ripcurrent.demo._demo_proof import fresh_proof
from ripcurrent.models import load_model
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan import scan
from tests.models.tiny import save_tiny
from tests.scan_fixtures import without_page

ROWS = 60


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny", "llama_tied")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@contextmanager
def tiny_scans(model: Path, cache: Path) -> Iterator[None]:
    """The demo's scan runs a tiny random model, in which no anchors separate; the proof is for as many rows."""

    def scanned(*arguments: Any, **options: Any) -> Any:
        return scan(*arguments, **{"model": str(model), "anchor_check": False, **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RIPCURRENT_CACHE", str(cache))
        patch.setattr(_demo, "scan", scanned)
        patch.setattr(_demo_proof, "ScanOptions", partial(ScanOptions, limit=ROWS))
        yield


@pytest.fixture
def tiny_scan(model: Path, cache: Path) -> Iterator[None]:
    with tiny_scans(model, cache):
        yield


@pytest.fixture(scope="module")
def whole(model: Path, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A demo on the tiny model, without its page."""
    with tiny_scans(model, cache), without_page():
        return run_demo(tmp_path_factory.mktemp("whole") / "demo", limit=ROWS)


@pytest.fixture
def folder(whole: Demo, tiny_scan: None, tmp_path: Path) -> Path:
    """A copy of its folder, to go on with."""
    return shutil.copytree(whole.scan.folder, tmp_path / "demo")


def test_the_demo_rows_are_three_hundred_usable_alpaca_rows() -> None:
    rows = read_rows(DEMO_ROWS)

    assert rows.format == "alpaca"
    assert len([row for row in rows if row.problem is None]) >= 300


def test_the_demo_shows_both_ends_and_compares_the_selection(whole: Demo) -> None:
    scores = {record["row"]: record for record in whole.scan.scores().to_pylist()}
    ranked = sorted(scores, key=lambda row: scores[row][whole.ranking])
    assert [row.row for row in whole.riskiest] == ranked[: -1 - len(whole.riskiest) : -1]
    assert [row.row for row in whole.protective] == ranked[: len(whole.protective)]
    assert whole.riskiest[0].score == scores[ranked[-1]][whole.ranking]
    assert whole.riskiest[0].prompt.startswith(list(read_rows(DEMO_ROWS))[ranked[-1]].record["instruction"])
    chosen = whole.selections[0].selection
    assert set(chosen.indices) == set(ranked[-(ROWS // 4) :])
    tokens = [scores[row]["response_tokens"] for row in chosen.indices]
    assert whole.selected.mean_tokens == pytest.approx(sum(tokens) / len(tokens))
    controls = [r.selection for r in whole.selections if r.selection.kind == "length-matched"]
    assert whole.controls == len(controls) == 3
    tokens = [scores[row]["response_tokens"] for control in controls for row in control.indices]
    assert whole.control.mean_tokens == pytest.approx(sum(tokens) / len(tokens))
    assert whole.other is not None


@pytest.mark.usefixtures("no_page")
def test_a_second_demo_resumes_the_first(whole: Demo, folder: Path) -> None:
    second = run_demo(folder, limit=ROWS)

    assert second.scan.manifest["timings"] == whole.scan.manifest["timings"]
    assert second.riskiest == whole.riskiest


@pytest.mark.usefixtures("tiny_scan", "no_page")
def test_representations_alone_have_no_other_ranking(tmp_path: Path) -> None:
    demo = run_demo(tmp_path / "demo", limit=ROWS, signals="representation")

    assert demo.ranking == "representation_bidirectional"
    assert demo.other is None


@pytest.mark.usefixtures("tiny_scan")
def test_the_command_tells_the_story_and_names_what_it_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--out", str(tmp_path / "demo"), "--limit", str(ROWS)]) == 0

    shown = capsys.readouterr().out
    assert shown.startswith(f"The demo scans {ROWS} harmless instructions")
    assert "most protective" in shown
    for name in ("scores.parquet", "report.html", "selections"):
        assert str(tmp_path / "demo" / name) in shown
        assert (tmp_path / "demo" / name).exists()
    assert "ripcurrent doctor DATASET" in shown


@pytest.mark.usefixtures("no_page")
def test_json_is_one_object_and_quiet_is_silent(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["demo", "--out", str(folder), "--limit", str(ROWS)]
    assert run([*arguments, "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["report"] == str(folder / "report.html")
    assert found["status_counts"] == {"ok": ROWS}
    assert all(Path(path).exists() for path in found["selections"])

    assert run([*arguments, "--quiet"]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.usefixtures("tiny_scan")
def test_a_folder_with_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "letters.txt").write_text("dear")

    assert run(["demo", "--out", str(tmp_path), "--limit", "12", "--quiet"]) == 1

    assert "letters.txt" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_model_runs_the_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--out", str(tmp_path / "demo"), "--json"]) == 0

    found = json.loads(capsys.readouterr().out)
    assert found["status_counts"] == {"ok": len(list(read_rows(DEMO_ROWS)))}
    assert found["selected"]["mean_tokens"] == pytest.approx(found["length_matched_control"]["mean_tokens"], rel=0.1)


SMALL = {
    "size": 12,
    "seeds": 1,
    "max_new_tokens": 4,
    "prompts": [{"source": "builtin:harmful", "limit": 10}, {"source": "builtin:sounds_dangerous", "limit": 10}],
}


@pytest.mark.usefixtures("no_page")
def test_a_proof_made_here_serves_the_same_rows_and_model_later(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.experiment._experiment"), "_page", lambda *given: None)
    made = fresh_proof(run_demo(folder, limit=ROWS).scan, folder / "proof", **SMALL)

    assert [rate.arm for rate in made.rates] == ["base", "random", "riskiest", "same_lengths"]
    assert made.prompts == 10
    assert not made.cached
    monkeypatch.setattr(_demo_proof, "PROOF", folder / "proof.json")
    again = run_demo(folder, limit=ROWS)
    assert again.proof == replace(made, cached=True)
    show_proof(again.proof, Console(width=300))
    shown = capsys.readouterr().out
    assert "after the 12 riskiest rows" in shown
    assert "dangerous-sounding refused" in shown
    assert "judge prefix (κ 0.88 to 0.89 with people)" in shown
    assert "Stored with the package, not computed now" in shown


def test_another_model_gets_no_stored_proof(whole: Demo) -> None:
    assert whole.proof is None


def test_the_stored_proof_is_of_the_rows_anchors_and_model_that_are_shipped() -> None:
    stored = json.loads(_demo_proof.PROOF.read_text(encoding="utf-8"))

    assert stored["scanned"] == {
        "dataset_sha256": read_rows(DEMO_ROWS).count_and_hash()[1],
        "model_fingerprint": load_model("embedded", device="cpu").fingerprint,
        "anchors_sha256": load_anchors("builtin").sha256,
    }
    assert stored["made"]["conditions_sha256"] == _demo_proof.conditions_sha256(), "run demo --fresh and store it anew"
    assert {rate["arm"] for rate in stored["rates"]} == {"base", *_demo_proof.EXPERIMENT["arms"]}
    for axis in ("answered", "over_refusal", "plain_answered"):
        assert all(0 <= rate[axis] <= 1 for rate in stored["rates"])
    assert not stored["cached"]
