"""What is finished stays, what is there in part is made whole, and what is told of a run is told at its end."""

import shutil
from pathlib import Path
from typing import Any

import pytest

import ripcurrent as rc
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import ScanRun, _scan, _tokens
from tests.models.tiny import save_tiny
from tests.tiny_scan import EXACT, good_rows, small_shards


@pytest.fixture
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    return small_shards(tiny_folder, anchors_file)


def test_a_stop_in_the_token_pass_leaves_the_scores(
    rows_file: Path, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: Any, **named: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(_scan, "add_token_shares", stop)
        with pytest.raises(KeyboardInterrupt):
            rc.scan(rows_file, tmp_path / "out", tokens="top:2", **options)
    assert ScanRun.open(tmp_path / "out").ranked().size
    monkeypatch.setattr(_tokens, "_shares", lambda *arguments: (_ for _ in ()).throw(MemoryError("out of memory")))
    with pytest.raises(RipcurrentError, match=r"The token shares of row \d+ do not fit into memory"):
        rc.scan(rows_file, tmp_path / "out", tokens="top:2", **options)


def test_a_saved_dataset_that_has_grown_is_another_one(options: dict[str, Any], tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list(good_rows(10)).save_to_disk(tmp_path / "rows")
    whole = rc.scan(tmp_path / "rows", tmp_path / "whole", **options)
    first = rc.scan(tmp_path / "rows", tmp_path / "first", limit=8, **options)
    shutil.rmtree(tmp_path / "rows")
    Dataset.from_list(good_rows(14)).save_to_disk(tmp_path / "rows")
    with pytest.raises(RipcurrentError, match="has changed since it was scanned"):
        rc.select(whole.folder, top=2)
    assert rc.select(first.folder, top=2)


def test_a_cache_that_is_cleaned_while_rows_are_scored_loses_none(
    rows_file: Path, anchors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    how = {"model": str(save_tiny(tmp_path / "model", "llama_tied", seed=5)), "anchors": str(anchors_file), **EXACT}
    run_shards = _scan.run_shards

    def cleaned(*arguments: Any) -> None:
        run_shards(*arguments)
        shutil.rmtree(tmp_path / "cache" / "directions")

    with monkeypatch.context() as patch:
        patch.setattr(_scan, "run_shards", cleaned)
        run = rc.scan(rows_file, tmp_path / "run", **how)
        assert run.status_counts()["ok"]
        # what needs them once more says what to do
        with pytest.raises(RipcurrentError, match="the cache was cleaned while it was needed"):
            rc.scan(rows_file, tmp_path / "run", **how, tokens="top:2")
    assert (tmp_path / "run" / "anchors" / "directions.json").is_file()
    assert rc.scan(rows_file, tmp_path / "run", **how, tokens="top:2").manifest.tokens
