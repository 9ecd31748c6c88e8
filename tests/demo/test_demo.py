"""The demo on a tiny model, and with the embedded one (slow)."""

import json
import shutil
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import ripcurrent as rc
from ripcurrent.anchors import load_anchors
from ripcurrent.cli import run
from ripcurrent.data import DEMO_ROWS, read_rows
from ripcurrent.demo import Demo, cached_proof, fresh_proof, run_demo
from ripcurrent.models import load_model
from ripcurrent.scan import ScanOptions, ScanRun
from tests.models.tiny import save_tiny

ROWS = 60
DEMO = import_module("ripcurrent.demo._demo")


@pytest.fixture(scope="module", autouse=True)
def tiny_scan(tmp_path_factory, shared_cache) -> Iterator[None]:
    """The demo's scan runs a tiny random model, in which no anchors separate; the proof is for as many rows."""
    model = save_tiny(tmp_path_factory.mktemp("models") / "tiny", "llama_tied")
    scan = rc.scan

    def scanned(*arguments: Any, **options: Any) -> Any:
        return scan(*arguments, **{"model": str(model), "anchor_check": False, **options})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rc, "scan", scanned)
        patch.setattr(DEMO, "build_report", lambda run: (run.folder / "report.html").touch())
        patch.setattr(DEMO, "ScanOptions", partial(ScanOptions, limit=ROWS))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Demo:
    return run_demo(tmp_path_factory.mktemp("whole") / "demo", limit=ROWS)


@pytest.fixture
def folder(whole, tmp_path) -> Path:
    """A copy of its folder, to go on with."""
    return shutil.copytree(whole.scan.folder, tmp_path / "demo")


def test_the_demo_selects_the_riskiest_and_another_model_gets_no_stored_proof(whole):
    (written,) = whole.selections
    ranked, every = whole.scan.ranked().tolist(), list(read_rows(DEMO_ROWS))
    assert [row.record for row in read_rows(written)] == [every[row].record for row in ranked[:3]]
    assert written.name == "top-5pct.jsonl"
    assert whole.proof is None


def test_the_command_resumes_tells_the_story_and_names_what_it_left(whole, folder, capsys):
    arguments = ["demo", "--out", str(folder), "--limit", str(ROWS)]
    assert run(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"The demo scans {ROWS} harmless instructions")
    assert "Riskiest 12 rows: " in shown
    for name in ("scores.parquet", "report.html", "selections"):
        assert str(folder / name) in shown
        assert (folder / name).exists()
    assert run([*arguments, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == str(folder / "report.html")
    assert found["status_counts"] == {"ok": ROWS}
    assert all(Path(path).exists() for path in found["selections"])
    assert ScanRun.open(folder).manifest.timings == whole.scan.manifest.timings, "scored once"


def test_a_proof_made_here_serves_the_same_rows_and_model_later(folder, monkeypatch, capsys):
    prompts = [{"source": f"builtin:{axis}", "limit": 10} for axis in ("harmful", "sounds_dangerous")]
    small = {"size": 12, "seeds": 1, "max_new_tokens": 4, "prompts": prompts}
    made = fresh_proof(run_demo(folder, limit=ROWS).scan, folder / "proof", **small)
    assert [rate.arm for rate in made.rates] == ["base", "random", "riskiest", "same_lengths"]
    assert (made.prompts, made.cached) == (10, False)
    monkeypatch.setattr(DEMO, "PROOF", folder / "proof.json")
    again = run_demo(folder, limit=ROWS)
    assert again.proof == made.model_copy(update={"cached": True})
    manifest = again.scan.manifest
    for change in ({"limit": 59}, {"signals": "representation"}, {"scope": "linear"}, {"max_tokens": 64}):
        other = manifest.model_copy(update={"options": again.scan.options.model_copy(update=change)})
        assert cached_proof(ScanRun(folder, other)) is None, "such a scan ranks other rows as the riskiest"
    monkeypatch.setenv("COLUMNS", "200")
    assert run(["demo", "--out", str(folder), "--limit", str(ROWS)]) == 0
    shown = capsys.readouterr().out
    assert "after the 12 riskiest rows" in shown
    assert "Stored with the package, not computed now" in " ".join(shown.split())


def test_the_stored_proof_is_of_the_rows_anchors_and_model_that_are_shipped():
    stored = json.loads(DEMO.PROOF.read_text(encoding="utf-8"))
    assert stored["scanned"] == {
        "dataset_sha256": read_rows(DEMO_ROWS).count_and_hash()[1],
        "model_fingerprint": load_model("embedded", device="cpu").fingerprint,
        "anchors_sha256": load_anchors("builtin").sha256,
    }
    assert stored["made"]["conditions_sha256"] == DEMO.conditions_sha256(), "run demo --fresh and store its proof.json"
    assert {rate["arm"] for rate in stored["rates"]} == {"base", *DEMO.EXPERIMENT["arms"]}
    assert not stored["cached"]


@pytest.mark.slow
@pytest.mark.embedded
def test_the_embedded_model_runs_the_demo(tmp_path):
    demo = run_demo(tmp_path / "demo", model="embedded")
    assert demo.selected.mean_tokens == pytest.approx(demo.length_matched_control.mean_tokens, rel=0.1)
