"""The table of scores: its columns, what it says of them, how it is written, and the one reader of a finished scan."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import AnchorMeasurements, ScanRun, _score
from ripcurrent.scan._score import score_signals, write_scores

DIRECTIONS = {"gradient_bidirectional": "higher", "gradient_safe": "lower", "loss": "none", "response_tokens": "none"}
MANIFEST = {
    "version": "1",
    "command": "scan",
    "finished": "2026-12-02T00:00:00+00:00",
    "dataset": {"path": "gone.jsonl", "name": "gone", "sha256": "0", "format": "text", "container": "jsonl", "rows": 6},
    "model": {"name": "tiny", "fingerprint": "0"},
    "anchors": {"name": "builtin", "sha256": "0"},
    # an option of an earlier version is passed over
    "options": {"signals": "gradient", "preset": "intended"},
    "status_counts": {"too_long": 1, "ok": 5},
}


@pytest.fixture
def run(tmp_path) -> ScanRun:
    """Six rows in groups of four: equal scores, a missing one, and a row that was not scored."""
    table = pa.table(
        {
            "row": range(6),
            "id": [f"r{row}" for row in range(6)],
            "status": ["ok", "ok", "too_long", "ok", "ok", "ok"],
            "gradient_bidirectional": [0.1, 0.3, 9.0, 0.3, float("nan"), float("inf")],
            "gradient_safe": [0.5, 0.2, 0.1, 0.4, 0.3, 0.6],
            "loss": pa.nulls(6, pa.float64()),
            "response_tokens": range(6),
            "is_list": [True, None, False, True, False, False],
        }
    )
    about = {"direction_of_risk": DIRECTIONS, "default_ranking": "gradient_bidirectional"}
    path = tmp_path / "scores.parquet"
    pq.write_table(table.replace_schema_metadata({"ripcurrent": json.dumps(about)}), path, row_group_size=4)
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    return ScanRun.open(tmp_path)


def test_columns_are_arrays_in_row_order(run):
    assert (run.rows, run.default_ranking, run.options.signals) == (6, "gradient_bidirectional", "gradient")
    assert run.scored.tolist() == [True, True, False, True, True, True]
    np.testing.assert_array_equal(run.floats("gradient_bidirectional"), [0.1, 0.3, 9.0, 0.3, np.nan, np.nan])
    assert run.flags("is_list").tolist() == [True, False, False, True, False, False]
    assert run.status_counts() == {"ok": 5, "too_long": 1}
    assert run.floats("gradient_safe") is run.floats("gradient_safe")


def test_the_riskiest_row_comes_first_and_equal_scores_keep_the_rows_order(run):
    assert run.ranked().tolist() == [1, 3, 0]
    assert run.ranked("gradient_safe").tolist() == [1, 4, 3, 0, 5]
    assert run.ranked("response_tokens").tolist() == [5, 4, 3, 1, 0]


def test_rows_are_taken_in_the_order_given_and_missed_by_name(run):
    assert run.ids([5, 0, 5]) == ["r5", "r0", "r5"]
    assert run.take([], ["id"]).num_rows == 0
    with pytest.raises(RipcurrentError, match="Row 6 is not in these scores"):
        run.ids([6])
    with pytest.raises(RipcurrentError, match=r"gone\.jsonl"):
        run.dataset()


@pytest.mark.parametrize(
    ("column", "said"),
    [
        ("gradient_saef", "is not in these scores.*\n.*Did you mean 'gradient_safe'"),
        ("id", "is not a number to rank by"),
        ("loss", "there is nothing to rank.*\n.*gradient_bidirectional, gradient_safe;"),
    ],
)
def test_a_column_that_cannot_rank_is_named_with_those_that_can(run, column, said):
    with pytest.raises(RipcurrentError, match=said) as caught:
        run.ranked(column)
    assert caught.value.code == (ExitCode.NOT_MEASURED if column == "loss" else ExitCode.USAGE)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda folder: (folder / "scores.parquet").unlink(), "no finished scan"),
        (lambda folder: (folder / "manifest.json").unlink(), "no finished scan"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "damaged"),
        (lambda folder: (folder / "scores.parquet").write_bytes(b"PAR1 nonsense"), "damaged"),
        (lambda folder: pq.write_table(pa.table({"row": [0]}), folder / "scores.parquet"), "does not say which way"),
        (lambda folder: (folder / "config.yaml").write_text("command: evaluate\n"), "not of scan"),
    ],
)
def test_what_is_no_finished_scan_is_said(run, spoil, said):
    spoil(run.folder)  # type: ignore[operator]
    with pytest.raises(RipcurrentError, match=said):
        ScanRun.open(run.folder).ranked()


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
    given = signals()
    found = score_signals(given, ANCHORS)
    for name in ("row", "id", "status", "prompt_tokens", "truncated", "is_list", "has_refusal"):
        assert found[name].to_pylist() == given[name].to_pylist()
    assert found["is_short"].to_pylist() == [0 < tokens < 10 for tokens in given["response_tokens"].to_pylist()]
    assert found.schema.equals(pa.schema([ints[0], *texts, *floats, *ints[1:], *flags]))


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
