"""Documents scored in windows against the sum of their windows' gradients, formed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ripcurrent.data import EncodedRow, Row, encode_windows
from ripcurrent.gradients import GradientPass
from ripcurrent.scan import _passes
from ripcurrent.scan._parts import shards_in
from ripcurrent.scan._passes import SignalStage
from ripcurrent.scan._shards import ShardFolder, ShardReader, run_shards, score_shards
from tests.gradients.oracle import inner, random_directions, row_gradient, row_loss
from tests.scan.tiny_stage import fresh, make_stage, rows

DOCUMENTS = [
    Row(0, "a", (), "the old mill turned slowly while children counted boats and bread was baked " * 3, {}),
    Row(1, "b", (), "a short one", {}),
    Row(2, "c", (), "", {}, problem="no_response"),
    Row(3, "d", (), " ".join(f"boat {number} of seven" for number in range(40)), {}),
]


@pytest.fixture(scope="module")
def stage() -> SignalStage:
    return make_stage()


def test_a_documents_signals_are_those_of_the_sum_of_its_windows_gradients(stage: SignalStage) -> None:
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


def test_one_window_that_is_not_finite_leaves_its_document_unscored(
    stage: SignalStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, batched = GradientPass.measure, _passes.make_batch
    group: list[EncodedRow] = []

    def make_batch(rows: list[EncodedRow], *given: Any, **named: Any) -> Any:
        group[:] = rows
        return batched(rows, *given, **named)

    def measure(self: GradientPass, *given: Any) -> Any:
        signals = real(self, *given)
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


def test_batches_and_documents_that_fit_change_nothing(stage: SignalStage) -> None:
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
def test_shards_prepared_while_another_is_computed_have_the_same_signals(
    stage: SignalStage, tmp_path: Path, changes: dict[str, Any]
) -> None:
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
