"""Options together: a corpus in windows behind a prefilter is scored the same in parts, by workers and in a budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ripcurrent as rc
from ripcurrent.scan import _memory
from ripcurrent.scan._merge import merge_parts
from ripcurrent.scan._part import Part
from ripcurrent.scan._prefilter import PASSED
from ripcurrent.scan._scan import ScanResult, scan, scan_part
from tests.scan_fixtures import without_page
from tests.tiny_scan import good_rows, small_shards, write_jsonl

pytestmark = pytest.mark.usefixtures("no_page")

DOCUMENTS = 120
OF = 2


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents in two Parquet shards; every third one is several windows long, and one is empty."""
    folder = tmp_path_factory.mktemp("corpus")
    texts = [
        f"{row['prompt']} {row['response']} " * (1 + 2 * (number % 3 == 0))
        for number, row in enumerate(good_rows(DOCUMENTS - 1))
    ]
    texts.insert(7, "")
    for number in range(2):
        pq.write_table(pa.table({"text": texts[number * 60 : number * 60 + 60]}), folder / f"part-{number}.parquet")
    return folder / "*.parquet"


@pytest.fixture(scope="module")
def options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    together = {"windows": True, "max_tokens": 48, "prefilter": "20%", "prefilter_sample": 100}
    return {**small_shards(tiny_folder, anchors_file), **together, "shard_rows": 16}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, corpus: Path, options: dict[str, Any]) -> ScanResult:
    """The scan by one process."""
    with without_page():
        return scan(corpus, tmp_path_factory.mktemp("whole") / "run", **options)


def same(one: ScanResult, other: ScanResult) -> None:
    """Rows, order, status, windows and what was picked the same; numbers to float32's rounding."""
    assert one.status_counts == other.status_counts
    assert one.manifest["prefilter"]["passed"] == other.manifest["prefilter"]["passed"]
    for name in ("scores.parquet", "windows.parquet"):
        first, second = (pq.read_table(result.folder / name) for result in (one, other))
        assert first.schema.equals(second.schema)
        for column in first.column_names:
            left, right = first[column], second[column]
            if str(left.type) in ("double", "float"):
                assert np.allclose(left.to_numpy(), right.to_numpy(), rtol=1e-4, atol=2e-5, equal_nan=True), column
            else:
                assert left.equals(right), column


def test_a_corpus_is_cut_and_picked_from(whole: ScanResult) -> None:
    table = whole.scores()
    assert whole.status_counts == {"ok": DOCUMENTS - 1, "no_response": 1}
    assert max(table["windows"].drop_null().to_pylist()) > 2
    measured = np.isfinite(table["gradient_bidirectional"].to_numpy())
    passed = np.array([way == PASSED for way in table["prefilter"].to_pylist()])
    assert passed.sum() == round(0.2 * (DOCUMENTS - 1))
    assert measured[passed].all()
    assert passed.sum() < measured.sum() < DOCUMENTS - 1


def test_in_parts(tmp_path: Path, corpus: Path, options: dict[str, Any], whole: ScanResult) -> None:
    for _ in range(2):
        for index in range(OF):
            scan_part(corpus, Part(index, OF), tmp_path / "run", **options)
    merged = merge_parts([tmp_path / "run"])
    same(merged, whole)
    for name in ("scores.parquet", "windows.parquet"):
        assert (merged.folder / name).read_bytes() == (whole.folder / name).read_bytes()


@pytest.mark.parametrize("mapped", [False, True], ids=["as it is", "directions in files"])
def test_within_a_budget(
    mapped: bool,
    tmp_path: Path,
    corpus: Path,
    options: dict[str, Any],
    whole: ScanResult,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if mapped:
        monkeypatch.setattr(_memory, "memory_in_use", lambda device: 64 * 10**9)
    found = scan(corpus, tmp_path / "run", memory="64GB", **options)
    assert found.manifest["memory"]["mapped_directions"] == mapped
    same(found, whole)


@pytest.mark.parametrize("mapped", [False, True], ids=["as they are", "in files"])
def test_token_shares_of_rows_behind_a_prefilter(
    mapped: bool, tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only rows that a gradient was computed of are chosen, and their shares add up."""
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(DOCUMENTS))
    memory: dict[str, Any] = {}
    if mapped:
        monkeypatch.setattr(_memory, "memory_in_use", lambda device: 64 * 10**9)
        memory = {"memory": "64GB"}
    how = {**options, **memory, "windows": False, "max_tokens": 400}
    result = scan(dataset, tmp_path / "run", tokens="top:3,bottom:2", **how)
    shares, scores = rc.load_tokens(result.folder), result.scores()
    chosen = shares["row"].unique().to_pylist()
    assert len(chosen) == 5
    assert np.isfinite(scores["gradient_norm"].to_numpy()[chosen]).all()
    assert result.manifest["tokens"]["largest_difference"] < 1e-5
