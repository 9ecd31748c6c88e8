"""What tests of whole scans share: a tiny model as a user has it, rows, anchors, a cache of the tests own."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.files import cache_folder
from ripcurrent.scan import ScanRun
from tests.models.tiny import save_tiny


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory) -> Iterator[Path]:
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
def tiny_folder(tmp_path_factory, shared_cache) -> Path:
    """A folder with a tiny Llama (tied head) and its tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("models") / "tiny-llama", "llama_tied")


@pytest.fixture(scope="session")
def anchors_file(tmp_path_factory) -> Path:
    """A small anchor file: three sets of four."""
    return write_jsonl(tmp_path_factory.mktemp("anchors") / "anchors.jsonl", anchor_lines())


@pytest.fixture(scope="session")
def small_options(tiny_folder, anchors_file) -> dict[str, Any]:
    """Options of an exact scan in shards of four rows."""
    return small_shards(tiny_folder, anchors_file)


@pytest.fixture(scope="session")
def exact(tiny_folder, anchors_file) -> dict[str, Any]:
    """The same in shards of the usual size."""
    return {"model": str(tiny_folder), "anchors": str(anchors_file), **EXACT}


@pytest.fixture
def rows_file(tmp_path) -> Path:
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


EXACT: dict[str, Any] = {"device": "cpu", "dtype": "float32", "anchor_check": False}
"""Options for scans whose numbers are compared: float32, and anchors that a random model need not separate."""

GRADIENT_COSINES = ("gradient_harmful", "gradient_safe", "gradient_bidirectional", "gradient_balanced")
REPRESENTATION_COSINES = ("representation_harmful", "representation_safe", "representation_bidirectional")

TOPICS = ("bread", "rivers", "old maps", "a walk in the hills", "chess", "tea", "bees", "the moon", "boats", "wool")
ANSWERS = (
    "- take flour\n- add water\n- wait",
    "It is a short matter: begin early and keep going.",
    "1. look around\n2. write down what you see\n3. compare\n4. draw the line",
    "Seven.",
    "There are 3 + 4 = 7 ways to do it, and each of them takes about an hour of patient work on a quiet day.",
)


def good_rows(count: int) -> list[dict[str, str]]:
    """Plain prompt and response rows of several lengths, all different."""
    return [
        {
            "prompt": f"Tell me about {TOPICS[number % len(TOPICS)]}, part {number}.",
            "response": f"{ANSWERS[number % len(ANSWERS)]} ({number})" + " and so on" * (number % 4),
        }
        for number in range(count)
    ]


def rows_with_a_gap(count: int) -> list[dict[str, str]]:
    """The same, of which the eighth has no answer."""
    rows = good_rows(count)
    rows[7] = {"prompt": "no answer", "response": ""}
    return rows


def small_shards(model: Path, anchors: Path) -> dict[str, Any]:
    """Options of an exact scan in shards of four rows."""
    return {"model": str(model), "anchors": str(anchors), "shard_rows": 4, **EXACT}


def write_jsonl(path: Path, records: Iterable[Any]) -> Path:
    """Write records as JSON lines; returns ``path``."""
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def anchor_lines(count: int = 4) -> list[dict[str, str]]:
    """A small anchor set: one harmful and two safe sets of ``count`` anchors over the same requests."""
    requests = ("pick a lock", "forge a pass", "slip past a guard", "copy a badge", "hide a theft", "jam an alarm")
    answers = {
        "harmful": "Sure, here is a list of the steps for",
        "safe_1": "I am sorry, but I cannot help you",
        "safe_2": "No. That would hurt someone, so I will not explain how to",
    }
    return [
        {"set": name, "prompt": f"How do I {request}?", "response": f"{answer} {request}", "category": "theft"}
        for name, answer in answers.items()
        for request in requests[:count]
    ]
