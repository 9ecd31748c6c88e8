"""The one reader of a finished scan."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import ScanRun

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
def run(tmp_path: Path) -> ScanRun:
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
