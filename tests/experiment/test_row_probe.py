"""The probe of a scanned run: its lines, its table, and how it goes on."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._probe import RowProbe
from ripcurrent.experiment._row_probe import SEPARATES, append_line, read_lines, run
from ripcurrent.statistics import partial_spearman, spearman


@pytest.fixture
def probe(scanned: Path, asked: Path) -> dict[str, Any]:
    """Keys of a small probe."""
    return {
        "kind": "probe",
        "name": "probe",
        "run": str(scanned),
        "rows": 12,
        "strata": 4,
        "learning_rate": 1e-3,
        "prompts": {"source": str(asked), "axis": "harmful", "limit": 5},
    }


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "probe" / "rows.jsonl").read_text().splitlines()]


def test_every_score_column_is_correlated_with_the_drop(probe: dict[str, Any], scanned: Path, tmp_path: Path) -> None:
    found = run(probe, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "results.json").read_text()) == found
    table = pq.read_table(scanned / "scores.parquet").to_pydict()
    measured = lines(tmp_path / "out")
    rows = [line["row"] for line in measured]
    assert len(set(rows)) == 12
    assert [table["id"][row] for row in rows] == [line["id"] for line in measured]
    # three rows of each quarter by the default ranking
    ranks = np.argsort(np.argsort(table["gradient_bidirectional"]))
    assert np.bincount(ranks[rows] // 10, minlength=4).tolist() == [3, 3, 3, 3]
    drops = [line["drop"] for line in measured]
    for line in measured:
        assert line["drop"] == pytest.approx(np.mean(line["drops"]), abs=1e-4)
        assert (len(line["drops"]), len(line["losses"])) == (5, 3)
    length = [table["response_tokens"][row] for row in rows]
    by_name = {one["column"]: one for one in found["columns"]}
    assert {"gradient_bidirectional", "representation_harmful", "loss", "response_tokens"} <= set(by_name)
    for name, one in by_name.items():
        column = [table[name][row] for row in rows]
        assert one["spearman"] == pytest.approx(spearman(column, drops), abs=1e-4)
        expected = partial_spearman(column, drops, length)
        assert (one["given_length"] is None) == np.isnan(expected)
        assert one["given_length"] is None or one["given_length"] == pytest.approx(expected, abs=1e-4)
        assert one["low"] is None or one["low"] <= one["spearman"] <= one["high"]
    assert by_name["gradient_safe"]["direction_of_risk"] == "lower"
    assert (found["rows"], found["measured"]) == (12, 12)
    assert found["instrument"]["requests"] == 5
    assert any("gradient_bidirectional" in line for line in found["lines"])
    assert any("openings" in note for note in found["notes"]) == (found["instrument"]["auroc"] < SEPARATES)


def test_a_model_that_never_learned_to_refuse_is_told(
    probe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # an untrained model tells the two sets of requests apart by accident, never perfectly in the wrong direction
    monkeypatch.setattr(import_module("ripcurrent.experiment._row_probe"), "SEPARATES", 1.1)
    found = run(probe, tmp_path / "out")
    (note,) = (note for note in found["notes"] if "openings" in note)
    assert f"AUROC {found['instrument']['auroc']}" in note
    assert found["lines"][-1] == note


def test_it_goes_on_row_by_row_and_ends_the_same(
    probe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(probe, tmp_path / "whole")
    asked: list[int] = []
    real = RowProbe.__call__

    def stopping(self: RowProbe, row: Any) -> Any:
        asked.append(row.index)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return real(self, row)

    monkeypatch.setattr(RowProbe, "__call__", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(probe, tmp_path / "cut")
    path = tmp_path / "cut" / "probe" / "rows.jsonl"
    assert len(lines(tmp_path / "cut")) == 5
    # the last line was being written when the power went
    path.write_bytes(path.read_bytes()[:-9])
    resumed = run(probe, tmp_path / "cut")
    assert len(asked) == 6 + 8
    first, second = lines(tmp_path / "whole"), lines(tmp_path / "cut")
    assert [(line["row"], line["drop"], line["losses"]) for line in first] == [
        (line["row"], line["drop"], line["losses"]) for line in second
    ]
    assert resumed["columns"] == whole["columns"]
    # a finished one is not repeated
    run(probe, tmp_path / "cut")
    assert len(asked) == 6 + 8
    with pytest.raises(RipcurrentError, match="another run"):
        run({**probe, "steps": 2}, tmp_path / "cut")


def test_a_row_whose_id_holds_another_line_end_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [{"id": f"a{end}b", "drop": 1.0} for end in ("\u2028", "\u2029", "\x85", "\n")]
    for line in lines:
        append_line(path, line)
    assert list(read_lines(path)) == lines


def test_a_dataset_is_scanned_first(probe: dict[str, Any], scanned: Path, keys: dict[str, Any], tmp_path: Path,
                                    anchors_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.setattr(import_module("ripcurrent.scan._scan"), "build_report", lambda folder: folder / "report.html")
    own = {key: keys[key] for key in ("model", "device", "dtype")}
    scan = {"anchors": str(anchors_file), "anchor_check": False}
    made = {**probe, **own, "data": str(scanned.parent / "rows.jsonl"), "scan": scan}
    del made["run"]
    found = run(made, tmp_path / "out")
    assert (tmp_path / "out" / "scan" / "scores.parquet").exists()
    assert found["columns"] == run(probe, tmp_path / "other")["columns"]


def test_its_requests_are_found_before_anything_is_scanned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*given: Any) -> Any:
        raise AssertionError("scanned")

    monkeypatch.setattr(import_module("ripcurrent.experiment._row_probe"), "open_scan", never)
    keys = {"name": "probe", "data": "rows.jsonl", "prompts": {"source": "builtin:harmful", "without": ["guard"]}}
    with pytest.raises(RipcurrentError, match="guard"):
        run(keys, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"learning_rte": 1}, ("no key 'learning_rte'", "Did you mean learning_rate?")),
        ({"rows": 2}, ("rows 2 is not possible", "greater than or equal to 4")),
        ({"by": "gradient_bidirectoinal"}, ("'gradient_bidirectoinal'", "gradient_bidirectional")),
        ({"run": None}, ("either run", "or data")),
        ({"model": "embedded"}, ("leave model out",)),
        ({"prompts": {"source": "builtin", "limt": 3}}, ("prompts", "no key 'limt'", "Did you mean limit?")),
        ({"prompts": "nowhere.json"}, ("nowhere.json does not exist",)),
        ({"openings": []}, ("openings", "one opening or more")),
        ({"dtype": "float16"}, ("float16", "bfloat16")),
        ({"run": "nowhere"}, ("nowhere is not the folder of a finished scan",)),
    ],
)
def test_what_can_be_wrong(
    probe: dict[str, Any], change: dict[str, Any], says: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(RipcurrentError) as caught:
        run({**probe, **change}, tmp_path / "out")
    assert all(part in str(caught.value) for part in says), str(caught.value)


def test_a_rate_that_breaks_the_model_is_told(probe: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="Only 0 of 12 rows could be measured") as caught:
        run({**probe, "learning_rate": 1e38}, tmp_path / "out")
    assert caught.value.code == 2
