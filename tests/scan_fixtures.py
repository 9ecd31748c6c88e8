"""Fixtures for whole scans: a tiny model as a user has it, a small anchor file, a cache of the tests' own."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.models import cache_folder
from ripcurrent.scan import ScanRun
from tests.models.tiny import save_tiny
from tests.tiny_scan import anchor_lines, good_rows, small_shards, write_jsonl


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """RIPCURRENT_CACHE for the session, so that a model's directions are computed once."""
    folder = tmp_path_factory.mktemp("cache")
    # but for the embedded model's copy, which takes half a minute and is the user's own
    copies = cache_folder() / "gguf"
    copies.mkdir(parents=True, exist_ok=True)
    (folder / "gguf").symlink_to(copies, target_is_directory=True)
    before = os.environ.get("RIPCURRENT_CACHE")
    os.environ["RIPCURRENT_CACHE"] = str(folder)
    yield folder
    if before is None:
        del os.environ["RIPCURRENT_CACHE"]
    else:
        os.environ["RIPCURRENT_CACHE"] = before


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> Path:
    """A folder with a tiny Llama (tied head) and its tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama", "llama_tied")


@pytest.fixture(scope="session")
def anchors_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small anchor file: three sets of four."""
    return write_jsonl(tmp_path_factory.mktemp("anchors") / "anchors.jsonl", anchor_lines())


@pytest.fixture(scope="session")
def small_options(tiny_folder: Path, anchors_file: Path) -> dict[str, Any]:
    """Options of an exact scan in shards of four rows."""
    return small_shards(tiny_folder, anchors_file)


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    """Twelve good rows."""
    return write_jsonl(tmp_path / "rows.jsonl", good_rows(12))


def table_of(run: ScanRun) -> pa.Table:
    """The scores table as it lies on disk."""
    return pq.read_table(run.scores_path)


def assert_same_table(one: Path, other: Path) -> None:
    """The same rows, ids, order and statuses; numbers to float32's rounding."""
    first, second = pq.read_table(one), pq.read_table(other)
    assert first.schema.equals(second.schema)
    for name in first.column_names:
        left, right = first[name], second[name]
        if str(left.type) in ("double", "float"):
            assert np.allclose(left.to_numpy(), right.to_numpy(), rtol=1e-4, atol=2e-5, equal_nan=True), name
        else:
            assert left.equals(right), name
