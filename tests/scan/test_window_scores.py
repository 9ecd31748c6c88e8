"""Scores of long documents' windows against a plain loop over the windows, every gradient formed."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ripcurrent.models import load_model
from ripcurrent.scan import Part, ScanRun, scan
from tests.gradients.oracle import encoded_row, inner, row_gradient, row_loss
from tests.scan.explicit_scan import cosine_to_unit, explicit
from tests.scan_fixtures import assert_same_table, table_of
from tests.tiny_scan import ANSWERS, good_rows, write_jsonl

MOST = 96
"""Tokens in a window; the longest anchor has 95, and would be cut otherwise."""
SETS = ("harmful", "safe_1", "safe_2")
DOCUMENTS = (
    ANSWERS[4] * 5,
    "",
    "A short one, and no more.",
    " ".join(f"boat {number} of seven" for number in range(24)),
    "",
    ANSWERS[2] + " " + ANSWERS[1] * 9,
)
"""Shards of two: a gap in the first, one in the third, so that a row's number is not its place."""
COLUMNS = [
    *("row", "window", "first_token", "tokens", "gradient_harmful", "gradient_safe", "gradient_bidirectional"),
    *("gradient_balanced", "gradient_norm", "predicted_harmful_loss_change", "loss", "loss_first_10"),
    *("representation_harmful", "representation_safe", "representation_bidirectional"),
]
LARGEST = ("gradient_bidirectional", "gradient_balanced", "representation_bidirectional")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory: pytest.TempPathFactory, exact: dict[str, Any]) -> ScanRun:
    folder = tmp_path_factory.mktemp("windows")
    dataset = write_jsonl(folder / "documents.jsonl", [{"text": text} for text in DOCUMENTS])
    return scan(dataset, folder / "out", windows=True, max_tokens=MOST, shard_rows=2, **exact)


@pytest.fixture(scope="module")
def expected(scanned: ScanRun, exact: dict[str, Any]) -> list[dict[str, float]]:
    """Every window's row, in order."""
    one = write_jsonl(scanned.folder / "one.jsonl", good_rows(1))
    anchors = explicit(one, exact["model"], exact["anchors"])
    chat: Any = load_model(exact["model"], device="cpu", dtype="float32")
    means = {name: anchors.mean_unit_gradient(name) for name in SETS}
    norms = [inner(g, g) ** 0.5 for g, of in zip(anchors.anchor_gradients, anchors.sets, strict=True) if of == SETS[0]]
    rows: list[dict[str, float]] = []
    for number, text in enumerate(DOCUMENTS):
        ids = chat.tokenizer(text)["input_ids"]
        # every token but the first is predicted once, each window predicting one fewer than it holds
        parts = int(np.ceil((len(ids) - 1) / (MOST - 1))) if text else 0
        edges = [round(part * (len(ids) - 1) / parts) for part in range(parts + 1)] if parts else []
        for window, (first, last) in enumerate(pairwise(edges)):
            own = encoded_row(ids[first : last + 1], [False] + [True] * (last - first))
            gradient = row_gradient(chat.model, own)
            to = {name: cosine_to_unit(gradient, means[name]) for name in SETS}
            norm = inner(gradient, gradient) ** 0.5
            with torch.no_grad():
                states = chat.model(input_ids=torch.tensor([ids[first : last + 1]]), output_hidden_states=True)
            state = states.hidden_states[-1][0, -1].numpy()
            cosines = [float(feature @ state / np.linalg.norm(state)) for feature in anchors.anchor_features]
            nearest = {name: max(c for c, of in zip(cosines, anchors.sets, strict=True) if of == name) for name in SETS}
            safe, near_safe = (to["safe_1"] + to["safe_2"]) / 2, (nearest["safe_1"] + nearest["safe_2"]) / 2
            values = [
                *(number, window, first, last - first, to["harmful"], safe, to["harmful"] - 2 * safe),
                *(to["harmful"] - safe, norm, -norm * to["harmful"] * float(np.mean(norms))),
                *(float(row_loss(chat.model, own)), float(row_loss(chat.model, own, 10))),
                *(nearest["harmful"], near_safe, nearest["harmful"] - near_safe),
            ]
            rows.append(dict(zip(COLUMNS, values, strict=True)))
    return rows


def test_each_windows_row_equals_a_plain_loop(scanned: ScanRun, expected: list[dict[str, float]]) -> None:
    table = pq.read_table(scanned.folder / "windows.parquet")
    assert table.column_names == [COLUMNS[0], "id", *COLUMNS[1:]]
    own = table_of(scanned)["id"].to_pylist()
    assert table["id"].to_pylist() == [f"{own[row['row']]}#{row['window']}" for row in table.to_pylist()]
    assert scanned.manifest.windows == table.num_rows == len(expected)
    for found, wanted in zip(table.to_pylist(), expected, strict=True):
        for name in ("row", "window", "first_token", "tokens"):
            assert found[name] == wanted[name], (wanted["row"], wanted["window"], name)
        for name in COLUMNS[4:]:
            large = name in ("gradient_norm", "predicted_harmful_loss_change", "loss", "loss_first_10")
            close = {"rel": 2e-4, "abs": 1e-4} if large else {"abs": 3e-5}
            assert found[name] == pytest.approx(wanted[name], **close), (wanted["row"], wanted["window"], name)


def test_the_largest_window_of_each_document(scanned: ScanRun, expected: list[dict[str, float]]) -> None:
    table = table_of(scanned)
    assert table.column_names[-4:] == ["windows", *(f"{name}_window_max" for name in LARGEST)]
    for name in LARGEST:
        spread = 0.0
        for number, found in enumerate(table.to_pylist()):
            own = [one[name] for one in expected if one["row"] == number]
            if not own:
                assert found["windows"] is None
                assert np.isnan(found[f"{name}_window_max"])
                continue
            assert found["windows"] == len(own)
            assert found[f"{name}_window_max"] == pytest.approx(max(own), abs=3e-5)
            spread = max(spread, max(own) - min(own), max(own) - own[0], max(own) - own[-1])
        assert spread > 1e-2, "the largest is not the least, the first or the last"


@pytest.mark.parametrize("memory", [None, "64GB"])
def test_parts_leave_what_one_process_leaves_also_within_a_budget(
    scanned: ScanRun, memory: str | None, tmp_path: Path
) -> None:
    for index in range(2):
        run = scan(scanned.manifest.dataset.path, tmp_path, scanned.options, part=Part(index, 2), memory=memory)
    assert run.status_counts() == scanned.status_counts()
    for name in ("scores.parquet", "windows.parquet"):
        if memory is None:
            assert (run.folder / name).read_bytes() == (scanned.folder / name).read_bytes()
        assert_same_table(run.folder / name, scanned.folder / name)
