"""Each score column against a plain loop over explicit signals."""

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import AnchorMeasurements, _score
from ripcurrent.scan._score import score_signals, write_scores

ORDER = [("harmful", n) for n in range(4)] + [("safe_1", n) for n in range(4)] + [("safe_2", n) for n in range(5)]
NORMS = [2.0, 3.0, 4.0, 7.0] + [1.0] * 9
UNSCORED = 2
"""The row without signals."""


def signals(rows: int = 6) -> pa.Table:
    generator = np.random.default_rng(rows)
    numbers = np.arange(rows)
    scored = numbers != UNSCORED
    traits = ("is_list", "is_bullet", "is_numbered", "is_maths", "is_code", "has_refusal")
    ranges = {"dot_harmful": (-1, 1), "dot_safe": (-1, 1), "squared_norm": (1, 30)}
    ranges |= {"loss": (0.1, 3), "loss_first_10": (0.1, 3)}
    cosines = generator.uniform(-1, 1, (rows, len(ORDER))).astype(np.float32)
    lists = [row if fine else None for row, fine in zip(cosines, scored, strict=True)]
    return pa.table(
        {
            "row": numbers,
            "id": [f"id-{number}" for number in numbers],
            "status": np.where(scored, "ok", "no_response").tolist(),
            "prompt_tokens": np.where(scored, 20 + numbers, 0),
            "response_tokens": np.where(scored, 7 + numbers, 0),
            "truncated": numbers == 1,
            "unread": numbers == 3,
            **{name: (numbers + shift) % 3 == 0 for shift, name in enumerate(traits)},
            **{name: np.where(scored, generator.uniform(*ends, rows), np.nan) for name, ends in ranges.items()},
            "representation_cosines": pa.array(lists, pa.list_(pa.float32())),
        }
    )


ANCHORS = AnchorMeasurements(ORDER, NORMS, None, None)


@pytest.mark.parametrize("avg_n", [1, 2, 9])
def test_every_score_equals_a_plain_loop(avg_n):
    given = signals()
    found = score_signals(given, ANCHORS, avg_n).to_pylist()
    for row, scores in zip(given.to_pylist(), found, strict=True):
        if row["row"] == UNSCORED:
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
        largest = {}
        for name in ("harmful", "safe_1", "safe_2"):
            own = [c for c, (of, _) in zip(row["representation_cosines"], ORDER, strict=True) if of == name]
            largest[name] = float(np.mean(sorted(own, reverse=True)[:avg_n]))
        mean_safe = (largest["safe_1"] + largest["safe_2"]) / 2
        assert scores["representation_harmful"] == pytest.approx(largest["harmful"])
        assert scores["representation_safe"] == pytest.approx(mean_safe)
        assert scores["representation_bidirectional"] == pytest.approx(largest["harmful"] - mean_safe)
        assert scores["is_short"] == (row["response_tokens"] < 10)
        for name in ("row", "id", "status", "prompt_tokens", "response_tokens", "truncated", "loss", "loss_first_10"):
            assert scores[name] == row[name]
        assert (scores["is_list"], scores["has_refusal"]) == (row["is_list"], row["has_refusal"])


def test_columns_their_order_and_their_types_are_the_contract():
    kinds = {
        pa.int64(): "row prompt_tokens response_tokens",
        pa.string(): "id status",
        pa.float64(): "gradient_harmful gradient_safe gradient_bidirectional gradient_balanced gradient_norm "
        "predicted_harmful_loss_change loss loss_first_10 "
        "representation_harmful representation_safe representation_bidirectional",
        pa.bool_(): "truncated is_list is_bullet is_numbered opens_numbered is_maths is_code is_short has_refusal",
    }
    ints, texts, floats, flags = ([(name, kind) for name in names.split()] for kind, names in kinds.items())
    schema = score_signals(signals(), ANCHORS).schema
    assert schema.equals(pa.schema([ints[0], *texts, *floats, *ints[1:], *flags]))


def test_the_file_says_which_way_risk_runs_and_where_it_comes_from(tmp_path):
    given = signals(7)
    counts = write_scores(tmp_path, iter([given.slice(0, 4), given.slice(4)]), ANCHORS, 1, {"version": "1.2"})
    assert (counts.statuses, counts.unread, counts.first_mismatch) == ({"ok": 6, "no_response": 1}, 1, None)
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table["row"].to_pylist() == list(range(7))
    about = json.loads(table.schema.metadata[b"ripcurrent"])
    assert about["version"] == "1.2"
    assert "higher = more erosion" in about["sign"]
    directions = about["direction_of_risk"]
    lower = {"gradient_safe", "representation_safe", "predicted_harmful_loss_change"}
    assert {name for name, way in directions.items() if way == "lower"} == lower
    assert directions["gradient_norm"] == directions["loss"] == "none"
    numeric = [f.name for f in table.schema if pa.types.is_floating(f.type)] + ["prompt_tokens", "response_tokens"]
    assert set(directions) == set(numeric)
    assert {f.name: f.metadata[b"direction_of_risk"].decode() for f in table.schema if f.metadata} == directions


@pytest.mark.parametrize(("rows", "groups"), [(4, [4, 4, 1]), (32_768, [9])])
def test_shards_change_no_number_and_make_few_row_groups(tmp_path, monkeypatch, rows, groups):
    """Each group costs its writer and every reader of the file memory, whatever the number of its rows."""
    monkeypatch.setattr(_score, "GROUP_ROWS", rows)
    given = signals(9)
    write_scores(tmp_path / "one", [given], ANCHORS, 1, {})
    write_scores(tmp_path / "many", [given.slice(n, 2) for n in range(0, 9, 2)], ANCHORS, 1, {})
    one, many = (pq.ParquetFile(tmp_path / name / "scores.parquet") for name in ("one", "many"))
    assert repr(one.read().to_pydict()) == repr(many.read().to_pydict())
    assert [many.metadata.row_group(n).num_rows for n in range(many.num_row_groups)] == groups


def test_an_error_midway_leaves_no_scores_file(tmp_path):
    def shards() -> Any:
        yield signals(4)
        raise OSError(28, "No space left on device")

    with pytest.raises(RipcurrentError, match="cannot be written: No space"):
        write_scores(tmp_path, shards(), ANCHORS, 1, {})
    assert list(tmp_path.iterdir()) == []
