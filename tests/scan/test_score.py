"""Each score column against a plain loop over explicit signals."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._columns import COLUMNS, DIRECTION_OF_RISK
from ripcurrent.scan._row_groups import row_groups
from ripcurrent.scan._score import Scorer, dot_column, per_anchor_column, write_scores
from ripcurrent.scan._separation import AnchorMeasurements

ORDER = [("harmful", n) for n in range(4)] + [("safe_1", n) for n in range(4)] + [("safe_2", n) for n in range(5)]
NORMS = [2.0, 3.0, 4.0, 7.0] + [1.0] * 9
GRADIENT = [
    "gradient_harmful",
    "gradient_safe",
    "gradient_bidirectional",
    "gradient_balanced",
    "gradient_norm",
    "predicted_harmful_loss_change",
    "loss",
    "loss_first_10",
]
REPRESENTATION = ["representation_harmful", "representation_safe", "representation_bidirectional"]
UNSCORED = 2
"""The row without signals."""


def signals(rows: int = 6, *, gradient: bool = True, representation: bool = True, per_anchor: bool = False) -> pa.Table:
    generator = np.random.default_rng(rows)
    columns: dict[str, Any] = {
        "row": pa.array(range(rows), pa.int64()),
        "id": pa.array([f"id-{n}" for n in range(rows)]),
        "status": pa.array(["no_response" if n == UNSCORED else "ok" for n in range(rows)]),
        "prompt_tokens": pa.array([0 if n == UNSCORED else 20 + n for n in range(rows)], pa.int64()),
        "response_tokens": pa.array([0 if n == UNSCORED else 7 + n for n in range(rows)], pa.int64()),
        "truncated": pa.array([n == 1 for n in range(rows)]),
    }
    for number, name in enumerate(("is_list", "is_bullet", "is_numbered", "is_maths", "is_code", "has_refusal")):
        columns[name] = pa.array([(n + number) % 3 == 0 for n in range(rows)])

    def random(low: float, high: float) -> np.ndarray:
        values = generator.uniform(low, high, rows)
        values[UNSCORED] = np.nan
        return values

    if gradient:
        columns |= {"dot_harmful": random(-1, 1), "dot_safe": random(-1, 1), "squared_norm": random(1, 30)}
        columns |= {"loss": random(0.1, 3), "loss_first_10": random(0.1, 3)}
    if per_anchor:
        columns |= {dot_column(place): random(-1, 1) for place in range(len(ORDER))}
    if representation:
        cosines = generator.uniform(-1, 1, (rows, len(ORDER))).astype(np.float32)
        columns["representation_cosines"] = pa.array(
            [None if n == UNSCORED else row for n, row in enumerate(cosines)], pa.list_(pa.float32())
        )
    return pa.table(columns)


def scorer(**options: Any) -> Scorer:
    return Scorer(AnchorMeasurements(ORDER, NORMS, None, None), **options)


@pytest.mark.parametrize("avg_n", [1, 2, 9])
def test_every_score_equals_a_plain_loop(avg_n: int) -> None:
    given = signals()
    found = scorer(avg_n=avg_n).score(given).to_pylist()
    for row, scores in zip(given.to_pylist(), found, strict=True):
        if row["status"] != "ok":
            continue
        norm = math.sqrt(row["squared_norm"])
        harmful, safe = row["dot_harmful"] / norm, row["dot_safe"] / norm
        assert scores["gradient_norm"] == pytest.approx(norm)
        assert scores["gradient_harmful"] == pytest.approx(harmful)
        assert scores["gradient_safe"] == pytest.approx(safe)
        assert scores["gradient_bidirectional"] == pytest.approx(harmful - 2 * safe)
        assert scores["gradient_balanced"] == pytest.approx(harmful - safe)
        # g · mean harmful gradient, by its cosine and the harmful anchors' mean norm; a step along -g lowers by this
        assert scores["predicted_harmful_loss_change"] == pytest.approx(-norm * harmful * 4.0)
        assert scores["loss"] == row["loss"]
        assert scores["loss_first_10"] == row["loss_first_10"]
        largest = {}
        for name in ("harmful", "safe_1", "safe_2"):
            own = [c for c, (of, _) in zip(row["representation_cosines"], ORDER, strict=True) if of == name]
            largest[name] = float(np.mean(sorted(own, reverse=True)[:avg_n]))
        mean_safe = (largest["safe_1"] + largest["safe_2"]) / 2
        assert scores["representation_harmful"] == pytest.approx(largest["harmful"])
        assert scores["representation_safe"] == pytest.approx(mean_safe)
        assert scores["representation_bidirectional"] == pytest.approx(largest["harmful"] - mean_safe)
        assert scores["is_short"] == (row["response_tokens"] < 10)
        for name in ("row", "id", "status", "prompt_tokens", "response_tokens", "truncated", "is_list", "has_refusal"):
            assert scores[name] == row[name]


def test_columns_their_order_and_their_types_are_the_contract() -> None:
    expected = {
        "row": pa.int64(),
        "id": pa.string(),
        "status": pa.string(),
        "gradient_harmful": pa.float64(),
        "gradient_safe": pa.float64(),
        "gradient_bidirectional": pa.float64(),
        "gradient_balanced": pa.float64(),
        "gradient_norm": pa.float64(),
        "predicted_harmful_loss_change": pa.float64(),
        "loss": pa.float64(),
        "loss_first_10": pa.float64(),
        "representation_harmful": pa.float64(),
        "representation_safe": pa.float64(),
        "representation_bidirectional": pa.float64(),
        "prompt_tokens": pa.int64(),
        "response_tokens": pa.int64(),
        "truncated": pa.bool_(),
        "is_list": pa.bool_(),
        "is_bullet": pa.bool_(),
        "is_numbered": pa.bool_(),
        "opens_numbered": pa.bool_(),
        "is_maths": pa.bool_(),
        "is_code": pa.bool_(),
        "is_short": pa.bool_(),
        "has_refusal": pa.bool_(),
    }
    assert scorer().score(signals()).schema.equals(pa.schema(list(expected.items())))


def test_a_row_without_signals_is_nan_in_every_score_never_zero_or_null() -> None:
    row = scorer().score(signals()).to_pylist()[UNSCORED]
    assert row["status"] == "no_response"
    for name in (*GRADIENT, *REPRESENTATION):
        assert row[name] is not None
        assert math.isnan(row[name])


@pytest.mark.parametrize(
    ("missing", "null", "there"),
    [("gradient", GRADIENT, REPRESENTATION), ("representation", REPRESENTATION, GRADIENT)],
)
def test_columns_of_a_method_that_did_not_run_are_null(missing: str, null: list[str], there: list[str]) -> None:
    table = scorer().score(signals(**{missing: False}))
    assert all(table[name].null_count == table.num_rows for name in null)
    assert all(table[name].null_count == 0 for name in there)
    assert table.schema.equals(scorer().score(signals()).schema)


def test_bf16_rounding_is_torchs() -> None:
    generator = np.random.default_rng(0)
    values = np.concatenate(
        [
            generator.normal(size=5000) * 10.0 ** generator.integers(-6, 3, 5000),
            np.array([0.0, -0.0, 1.0, -1.0, 1.00390625, 1.01171875, 3.3895e38, np.nan]),
        ]
    )
    expected = torch.tensor(values).to(torch.bfloat16).double().numpy()
    np.testing.assert_array_equal(scorer(round_to_bf16=True)._rounded(values), expected)


def test_the_released_preset_rounds_cosines_and_then_their_sums() -> None:
    given = signals()
    plain, rounded = scorer().score(given), scorer(round_to_bf16=True).score(given)

    def bf16(value: float) -> float:
        return float(torch.tensor(value, dtype=torch.float64).to(torch.bfloat16))

    for before, after in zip(plain.to_pylist(), rounded.to_pylist(), strict=True):
        if before["status"] != "ok":
            continue
        harmful, safe = bf16(before["gradient_harmful"]), bf16(before["gradient_safe"])
        assert (after["gradient_harmful"], after["gradient_safe"]) == (harmful, safe)
        assert after["gradient_bidirectional"] == bf16(harmful - 2 * safe)
        assert after["gradient_balanced"] == bf16(harmful - safe)
        assert after["gradient_norm"] == before["gradient_norm"]
        assert after["representation_harmful"] == before["representation_harmful"]


def test_per_anchor_columns_are_each_anchors_cosine() -> None:
    given = signals(per_anchor=True)
    table = scorer().score(given)
    assert table.column_names[len(COLUMNS) :] == [per_anchor_column(name, number) for name, number in ORDER]
    assert per_anchor_column("safe_2", 3) == "gradient_to_safe_2_03"
    for place, (name, number) in enumerate(ORDER):
        expected = given[dot_column(place)].to_numpy() / np.sqrt(given["squared_norm"].to_numpy())
        np.testing.assert_allclose(table[per_anchor_column(name, number)].to_numpy(), expected)


def test_the_file_says_which_way_risk_runs_and_where_it_comes_from(tmp_path: Path) -> None:
    path = tmp_path / "scores.parquet"
    given = signals(7, per_anchor=True)
    counts = write_scores(path, iter([given.slice(0, 4), given.slice(4)]), scorer(), {"version": "1.2", "model": "m"})
    assert counts == {"ok": 6, "no_response": 1}
    table = pq.read_table(path)
    assert table["row"].to_pylist() == list(range(7))
    about = json.loads(table.schema.metadata[b"ripcurrent"])
    assert about["version"] == "1.2"
    assert "higher = more erosion" in about["sign"]
    directions = about["direction_of_risk"]
    lower = {"gradient_safe", "representation_safe", "predicted_harmful_loss_change"}
    assert {n for n, way in directions.items() if way == "lower"} == lower | {
        per_anchor_column(name, number) for name, number in ORDER if name != "harmful"
    }
    assert all(directions[per_anchor_column("harmful", number)] == "higher" for number in range(4))
    numeric = [f.name for f in table.schema if pa.types.is_floating(f.type)] + ["prompt_tokens", "response_tokens"]
    assert set(directions) == set(numeric)
    own = {f.name: f.metadata[b"direction_of_risk"].decode() for f in table.schema if f.metadata}
    assert own == directions
    assert DIRECTION_OF_RISK["gradient_norm"] == DIRECTION_OF_RISK["loss"] == "none"


def test_shards_make_no_difference_to_the_numbers(tmp_path: Path) -> None:
    given = signals(9)
    write_scores(tmp_path / "one.parquet", [given], scorer(), {})
    write_scores(tmp_path / "many.parquet", [given.slice(n, 2) for n in range(0, 9, 2)], scorer(), {})
    one, many = pq.read_table(tmp_path / "one.parquet"), pq.read_table(tmp_path / "many.parquet")
    assert repr(one.to_pydict()) == repr(many.to_pydict())


def test_many_shards_make_few_row_groups(tmp_path: Path) -> None:
    """Each costs its writer and every reader of the file memory, whatever the number of its rows."""
    given = signals(9)
    path = tmp_path / "scores.parquet"
    write_scores(path, [given.slice(n, 2) for n in range(0, 9, 2)], scorer(), {})
    assert pq.ParquetFile(path).num_row_groups == 1
    joined = list(row_groups([given.slice(n, 2) for n in range(0, 9, 2)], rows=4))
    assert [table.num_rows for table in joined] == [4, 4, 1]
    assert [row for table in joined for row in table["row"].to_pylist()] == given["row"].to_pylist()
    assert list(row_groups([])) == []


def test_an_error_midway_leaves_no_scores_file(tmp_path: Path) -> None:
    def shards() -> Any:
        yield signals(4)
        raise OSError(28, "No space left on device")

    with pytest.raises(RipcurrentError, match="cannot be written: No space"):
        write_scores(tmp_path / "scores.parquet", shards(), scorer(), {})
    assert list(tmp_path.iterdir()) == []
