"""What is finished stays, what is there in part is made whole, and what is told of a run is told at its end."""

from __future__ import annotations

import itertools
import json
import shutil
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import ripcurrent as rc
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import load_model
from ripcurrent.runs import RunFolder, read_manifest
from ripcurrent.scan import _scan, _tokens
from ripcurrent.scan._merge import merge_parts
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._part import Part
from ripcurrent.scan._prefilter import _joined
from ripcurrent.scan._prepared_anchors import directions_are_cached
from ripcurrent.scan._scan import scan_part
from tests.models.tiny import save_tiny
from tests.tiny_scan import EXACT, good_rows, small_shards, write_jsonl

RECIPE = "method: full\nlearning_rate: 1.0e-3\nbatch: 4\nsteps: 3\n"


@pytest.fixture
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    return small_shards(tiny_folder, anchors_file)


def test_a_stop_in_the_token_pass_leaves_scores_and_page(
    rows_file: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_scan, "add_token_shares", stop)
        with pytest.raises(KeyboardInterrupt):
            rc.scan(rows_file, tmp_path / "out", tokens="top:2", **options)
    assert (tmp_path / "out" / "report.html").is_file()
    monkeypatch.setattr(_tokens, "_shares", lambda *arguments: (_ for _ in ()).throw(MemoryError("out of memory")))
    with pytest.raises(RipcurrentError, match=r"The token shares of row \d+ do not fit into memory"):
        rc.scan(rows_file, tmp_path / "out", tokens="top:2", **options)


def test_the_peak_is_that_of_all_but_the_page_which_shows_it(
    rows_file: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rising, seen = itertools.count(1), []
    monkeypatch.setattr(_scan, "process_peak", lambda: next(rising))
    monkeypatch.setattr(_scan, "write_forecast", lambda *arguments, **named: seen.append(next(rising)))
    shown: list[int] = []
    monkeypatch.setattr(_scan, "build_report", lambda run: shown.append(read_manifest(run)["peak_memory_bytes"]))
    result = rc.scan(rows_file, tmp_path / "out", **options)
    assert result.manifest["peak_memory_bytes"] == shown[-1] > seen[-1]


def test_parts_of_which_a_pass_for_single_anchors_is_missing_are_not_merged(
    options: dict[str, Any], tmp_path: Path, no_page: None
) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(9))
    for index in range(2):
        scan_part(rows, Part(index, 2), tmp_path / "out", per_anchor=True, **options)
    (passes,) = (tmp_path / "out" / "signals").glob("per_anchor_*")
    passes.rename(tmp_path / "aside")
    with pytest.raises(RipcurrentError, match="passes of --per-anchor are missing"):
        merge_parts([tmp_path / "out"])
    (tmp_path / "aside").rename(passes)
    assert merge_parts([tmp_path / "out"]).scores().num_rows == 9


def test_a_saved_dataset_that_has_grown_is_another_one(options: dict[str, Any], tmp_path: Path, no_page: None) -> None:
    from datasets import Dataset

    Dataset.from_list(good_rows(10)).save_to_disk(tmp_path / "rows")
    whole = rc.scan(tmp_path / "rows", tmp_path / "whole", **options)
    first = rc.scan(tmp_path / "rows", tmp_path / "first", limit=8, **options)
    shutil.rmtree(tmp_path / "rows")
    Dataset.from_list(good_rows(14)).save_to_disk(tmp_path / "rows")
    with pytest.raises(RipcurrentError, match="has changed since it was scanned"):
        rc.select(whole.folder, top=2)
    assert rc.select(first.folder, top=2)


def test_directions_that_a_cleaner_took_are_computed_again(
    rows_file: Path, anchors_file: Path, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    model = save_tiny(tmp_path / "model", "llama_tied", seed=5)
    how = {"model": str(model), "anchors": str(anchors_file), **EXACT}
    first = rc.scan(rows_file, tmp_path / "first", **how)
    (large,) = (tmp_path / "cache" / "directions").glob("*/harmful.safetensors")
    large.unlink()
    from ripcurrent.anchors import load_anchors

    options = ScanOptions(**how)
    assert not directions_are_cached(load_anchors(str(anchors_file)), load_model(model, device="cpu"), options)
    again = rc.scan(rows_file, tmp_path / "again", **how)
    assert again.scores()["gradient_harmful"] == first.scores()["gradient_harmful"]


def test_a_cache_that_is_cleaned_while_rows_are_scored_loses_none(
    rows_file: Path, anchors_file: Path, tmp_path: Path, no_page: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    how = {"model": str(save_tiny(tmp_path / "model", "llama_tied", seed=5)), "anchors": str(anchors_file), **EXACT}
    run_signals = _scan.run_signals

    def cleaned(*arguments: Any) -> Any:
        found = run_signals(*arguments)
        shutil.rmtree(tmp_path / "cache" / "directions")
        return found

    with monkeypatch.context() as patch:
        patch.setattr(_scan, "run_signals", cleaned)
        run = rc.scan(rows_file, tmp_path / "run", **how)
        assert run.status_counts["ok"]
        # what needs them once more says what to do
        with pytest.raises(RipcurrentError, match="the cache was cleaned while it was needed"):
            rc.scan(rows_file, tmp_path / "run", **how, tokens="top:2")
    assert (tmp_path / "run" / "anchors" / "directions.json").is_file()
    assert rc.scan(rows_file, tmp_path / "run", **how, tokens="top:2").manifest["tokens"]["rows"]


def test_a_training_killed_before_its_manifest_goes_on_from_its_last_checkpoint(
    rows_file: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short.yaml").write_text(RECIPE)

    def train() -> rc.FinetuneRun:
        how = {"model": str(tiny_folder), "device": "cpu", "dtype": "float32"}
        return rc.finetune(rows_file, tmp_path / "out", tmp_path / "short.yaml", checkpoint_minutes=0, **how)

    def killed(run: RunFolder, manifest: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            train()
    assert train().manifest["training"]["resumed_from"] == 2
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_training_that_memory_stopped_at_once_goes_on_with_another_recipe(
    rows_file: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*arguments: Any, **named: Any) -> None:
        raise RipcurrentError("A batch of 4 rows does not fit into the memory of cpu.")

    how = {"model": str(tiny_folder), "device": "cpu", "dtype": "float32"}
    (tmp_path / "short.yaml").write_text(RECIPE)
    with monkeypatch.context() as patch:
        patch.setattr(import_module("ripcurrent.finetune._train"), "train", too_much)
        patch.setattr(import_module("ripcurrent.finetune"), "train", too_much, raising=False)
        with pytest.raises(RipcurrentError, match="does not fit"):
            rc.finetune(rows_file, tmp_path / "out", tmp_path / "short.yaml", **how)
    assert (tmp_path / "out" / "rows.jsonl").is_file()
    (tmp_path / "short.yaml").write_text(RECIPE + "accumulation: 2\n")
    assert rc.finetune(rows_file, tmp_path / "out", tmp_path / "short.yaml", **how).kind == "model"


def test_an_adapter_of_another_base_is_named_where_it_is_trained_on(
    rows_file: Path, tiny_folder: Path, tmp_path: Path
) -> None:
    from tests.models.test_adapter import save_adapter

    adapter = save_adapter(tmp_path / "adapter", "llama_tied")
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "owner/another"}))
    (tmp_path / "short.yaml").write_text(RECIPE)
    how = {"model": str(tiny_folder), "adapter": str(adapter), "device": "cpu", "dtype": "float32"}
    trained = rc.finetune(rows_file, tmp_path / "out", tmp_path / "short.yaml", **how)
    assert any("names the base model owner/another" in note for note in trained.notes)


def test_a_document_spoilt_in_the_gradient_pass_keeps_no_windows() -> None:
    first = pa.table(
        {
            "row": [0, 1],
            "status": ["ok", "ok"],
            "window_tokens": [[3], [4, 5]],
            "window_representation_cosines": [[[0.1]], [[0.2], [0.3]]],
        }
    )
    second = pa.table({"row": [1], "status": ["not_finite"], "dot_harmful": [None]})
    joined = _joined(first, second, {1})
    assert joined["window_tokens"].to_pylist() == [[3], None]
    assert joined["window_representation_cosines"].to_pylist() == [[[0.1]], None]
