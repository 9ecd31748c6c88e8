"""Long documents in windows against plain loops over the windows, every gradient formed: signals, then scores."""

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ripcurrent.data import EncodedRow, Row, encode_windows
from ripcurrent.gradients import GradientPass
from ripcurrent.models import load_model
from ripcurrent.scan import Part, ScanRun, _passes, scan
from ripcurrent.scan._passes import SignalStage
from ripcurrent.scan._shards import ShardFolder, ShardReader, run_shards, score_shards, shards_in
from tests.gradients.oracle import encoded_row, inner, random_directions, row_gradient, row_loss
from tests.scan.explicit_scan import cosine_to_unit, explicit
from tests.scan.tiny_stage import fresh, make_stage, rows
from tests.scan_fixtures import ANSWERS, assert_same_table, good_rows, table_of, write_jsonl

DOCUMENTS = [
    Row(0, "a", (), "the old mill turned slowly while children counted boats and bread was baked " * 3, {}),
    Row(1, "b", (), "a short one", {}),
    Row(2, "c", (), "", {}, problem="no_response"),
    Row(3, "d", (), " ".join(f"boat {number} of seven" for number in range(40)), {}),
]


@pytest.fixture(scope="module")
def stage() -> SignalStage:
    return make_stage()


def test_a_documents_signals_are_those_of_the_sum_of_its_windows_gradients(stage):
    table = fresh(stage, windows=True, max_tokens=40)(DOCUMENTS).to_pylist()
    model = stage.chat_model.model
    directions = random_directions(model, set(stage.gradient_pass.layers.parameter_shapes()))  # type: ignore[union-attr]
    pieces = list(encode_windows(DOCUMENTS, stage.chat_model.tokenizer, max_tokens=40))
    assert [len(row) for row in pieces][1:3] == [1, 1]
    assert len(pieces[0]) > 2
    for place in (0, 1, 3):
        found, windows = table[place], pieces[place]
        total = sum(window.response_tokens for window in windows)
        share = [window.response_tokens / total for window in windows]
        gradients = [row_gradient(model, window) for window in windows]
        losses = [float(row_loss(model, window)) for window in windows]
        lengths = [inner(gradient, gradient) ** 0.5 for gradient in gradients]
        whole = {name: sum(s * g[name] for s, g in zip(share, gradients, strict=True)) for name in gradients[0]}
        for name, direction in zip(("dot_harmful", "dot_safe"), directions, strict=True):
            assert found[name] == pytest.approx(inner(whole, direction), rel=1e-4, abs=1e-4)
            for number, gradient in enumerate(gradients):
                expected = inner(gradient, direction)
                assert found[f"window_{name}"][number] == pytest.approx(expected, rel=1e-4, abs=1e-3)
        bound = sum(s * length for s, length in zip(share, lengths, strict=True))
        assert found["squared_norm"] ** 0.5 == pytest.approx(bound, rel=1e-4)
        assert found["squared_norm"] >= inner(whole, whole) * (1 - 1e-4)
        assert found["loss"] == pytest.approx(sum(s * loss for s, loss in zip(share, losses, strict=True)), rel=1e-4)
        assert found["window_tokens"] == [window.response_tokens for window in windows]
        assert (found["prompt_tokens"], found["response_tokens"], found["truncated"]) == (1, total, False)
        mean = np.average(found["window_representation_cosines"], axis=0, weights=share)
        np.testing.assert_allclose(found["representation_cosines"], mean, atol=1e-5)
        assert found["window_loss_first_10"][0] == found["loss_first_10"]


def test_one_window_that_is_not_finite_leaves_its_document_unscored(stage, monkeypatch):
    real, batched = GradientPass.measure, _passes.make_batch
    group: list[EncodedRow] = []

    def make_batch(rows: list[EncodedRow], *given: Any, **named: Any) -> Any:
        group[:] = rows
        return batched(rows, *given, **named)

    def measure(self: GradientPass, *given: Any, **named: Any) -> Any:
        signals = real(self, *given, **named)
        for place, row in enumerate(group):
            if row.index == 3 and row.tokens[0] != group[0].tokens[0]:
                signals.dots[place] = np.nan
        return signals

    monkeypatch.setattr(_passes, "make_batch", make_batch)
    monkeypatch.setattr(GradientPass, "measure", measure)
    table = fresh(stage, windows=True, max_tokens=40)(DOCUMENTS).to_pylist()
    assert [row["status"] for row in table] == ["ok", "ok", "no_response", "not_finite"]
    assert np.isfinite(table[1]["loss_first_10"])
    # also what its first window has
    assert np.isnan([table[3][name] for name in ("squared_norm", "loss_first_10")]).all()
    assert np.isnan(table[2]["dot_harmful"])
    assert (table[2]["window_tokens"], table[2]["window_dot_harmful"]) == (None, None)


def test_batches_and_documents_that_fit_change_nothing(stage):
    told: list[int] = []
    usual = fresh(stage)(rows())
    cut = fresh(stage, windows=True, on_rows=told.append)(rows())
    assert sum(told) == 13
    for name in usual.column_names:
        if name.startswith(("dot_", "squared_norm", "loss")):
            np.testing.assert_allclose(cut[name].to_numpy(), usual[name].to_numpy(), rtol=1e-9, err_msg=name)
        else:
            assert cut[name].to_pylist() == usual[name].to_pylist(), name
    many, few = (fresh(stage, windows=True, max_tokens=40, token_budget=size)(DOCUMENTS) for size in (4000, 16))
    for name in ("dot_harmful", "squared_norm", "loss"):
        np.testing.assert_allclose(many[name].to_numpy(), few[name].to_numpy(), rtol=1e-4, atol=1e-4)


CUT = {"windows": True, "max_tokens": 40}


@pytest.mark.parametrize("changes", [{}, CUT, {"drop_refusals": True}, {**CUT, "drop_refusals": True}])
def test_shards_prepared_while_another_is_computed_have_the_same_signals(stage, tmp_path, changes):
    refusal = Row(4, "r", (), "I'm sorry, but I can't help with that. " * 20, {})
    dataset = [*DOCUMENTS, refusal, *rows(6)]
    told: list[int] = []
    folder, given = ShardFolder(tmp_path), fresh(stage, on_rows=told.append, **changes)
    reader = ShardReader(lambda start: dataset[start:], len(dataset))
    run_shards(shards_in(None, len(dataset), 4), folder, lambda waiting: score_shards(waiting, reader, given), print)
    assert sum(told) == len(dataset)
    tables = list(folder.tables(3))
    assert tables[1]["status"][0].as_py() == ("dropped_refusal" if "drop_refusals" in changes else "ok")
    for number, table in enumerate(tables):
        expected = fresh(stage, **changes)(dataset[4 * number : 4 * number + 4])
        assert table.schema.equals(expected.schema)
        # as text, since NaN equals nothing
        assert str(table.to_pylist()) == str(expected.to_pylist())


MOST = 96
"""Tokens in a window; the longest anchor has 95, and would be cut otherwise."""
SETS = ("harmful", "safe_1", "safe_2")
TEXTS = (
    *("", ""),
    ANSWERS[4] * 5,
    "",
    "A short one, and no more.",
    " ".join(f"boat {number} of seven" for number in range(24)),
    "",
    ANSWERS[2] + " " + ANSWERS[1] * 9,
)
"""Shards of two: none in the first, a gap in the second and the last, so that a row's number is not its place."""
COLUMNS = [
    *("row", "window", "first_token", "tokens", "gradient_harmful", "gradient_safe", "gradient_bidirectional"),
    *("gradient_balanced", "gradient_norm", "predicted_harmful_loss_change", "loss", "loss_first_10"),
    *("representation_harmful", "representation_safe", "representation_bidirectional"),
]
LARGEST = ("gradient_bidirectional", "gradient_balanced", "representation_bidirectional")


@pytest.fixture(scope="module")
def scanned(tmp_path_factory, exact) -> ScanRun:
    folder = tmp_path_factory.mktemp("windows")
    dataset = write_jsonl(folder / "documents.jsonl", [{"text": text} for text in TEXTS])
    return scan(dataset, folder / "out", windows=True, max_tokens=MOST, shard_rows=2, **exact)


@pytest.fixture(scope="module")
def expected(scanned, exact) -> list[dict[str, float]]:
    """Every window's row, in order."""
    one = write_jsonl(scanned.folder / "one.jsonl", good_rows(1))
    anchors = explicit(one, exact["model"], exact["anchors"])
    chat: Any = load_model(exact["model"], device="cpu", dtype="float32")
    means = {name: anchors.mean_unit_gradient(name) for name in SETS}
    norms = [inner(g, g) ** 0.5 for g, of in zip(anchors.anchor_gradients, anchors.sets, strict=True) if of == SETS[0]]
    rows: list[dict[str, float]] = []
    for number, text in enumerate(TEXTS):
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


def test_each_windows_row_equals_a_plain_loop(scanned, expected):
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


def test_the_largest_window_of_each_document(scanned, expected):
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
def test_parts_leave_what_one_process_leaves_also_within_a_budget(scanned, memory, tmp_path):
    for index in range(2):
        run = scan(scanned.manifest.dataset.path, tmp_path, scanned.options, part=Part(index, 2), memory=memory)
    assert run.status_counts() == scanned.status_counts()
    for name in ("scores.parquet", "windows.parquet"):
        if memory is None:
            assert (run.folder / name).read_bytes() == (scanned.folder / name).read_bytes()
        assert_same_table(run.folder / name, scanned.folder / name)
