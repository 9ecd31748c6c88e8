"""The mechanism table: its numbers by hand, several pools, what is not repeated, and what can be wrong."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from scipy.stats import rankdata

from ripcurrent.cli import run as command
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import _mechanism
from ripcurrent.experiment._instruments import parse_mechanism
from ripcurrent.experiment._mechanism import run
from ripcurrent.scan._scan import scan
from tests.experiment.conftest import read
from tests.tiny_scan import EXACT, good_rows, write_jsonl

ROOT = Path(__file__).parents[2]


def residual_correlation(first: Any, second: Any, given: Any) -> float:
    """Pearson's correlation of what a least-squares line on the ranks of ``given`` leaves of both ranks."""
    line = np.stack([np.ones(len(given)), rankdata(given)], axis=1)
    left = []
    for values in (first, second):
        ranks = rankdata(values)
        left.append(ranks - line @ np.linalg.lstsq(line, ranks, rcond=None)[0])
    return float(np.corrcoef(*left)[0, 1])


def test_every_representation_column_meets_every_gradient_column(scanned: Path, tmp_path: Path) -> None:
    found = run({"pools": [{"name": "small", "run": str(scanned)}]}, tmp_path / "out")
    assert read(tmp_path / "out" / "results.json") == found
    (pool,) = found["pools"]
    assert (pool["name"], pool["rows"], pool["left_out"]) == ("small", 40, 0)
    assert {(one["representation"], one["gradient"]) for one in pool["correlations"]} == {
        (f"representation_{left}", right)
        for left in ("harmful", "safe", "bidirectional")
        for right in (
            "gradient_harmful", "gradient_safe", "gradient_bidirectional", "gradient_balanced", "gradient_norm",
            "predicted_harmful_loss_change",
        )
    }  # fmt: skip
    table = pq.read_table(scanned / "scores.parquet").to_pydict()
    for one in pool["correlations"]:
        left, right = table[one["representation"]], table[one["gradient"]]
        assert one["spearman"] == pytest.approx(np.corrcoef(rankdata(left), rankdata(right))[0, 1], abs=1e-4)
        by_hand = residual_correlation(left, right, table["response_tokens"])
        assert one["given_length"] == pytest.approx(by_hand, abs=1e-4)
        assert one["low"] <= one["spearman"] <= one["high"]
        assert one["given_length_low"] < one["given_length_high"]
    by_pair = {(one["representation"], one["gradient"]): one for one in pool["correlations"]}
    assert by_pair["representation_safe", "gradient_safe"]["same_direction_of_risk"] is True
    assert by_pair["representation_harmful", "gradient_safe"]["same_direction_of_risk"] is False
    assert by_pair["representation_harmful", "gradient_norm"]["same_direction_of_risk"] is None
    for one in pool["length"]:
        by_hand = np.corrcoef(rankdata(table[one["column"]]), rankdata(table["response_tokens"]))[0, 1]
        assert one["spearman"] == pytest.approx(by_hand, abs=1e-4)
    saved = pq.read_table(tmp_path / "out" / "correlations.parquet").to_pylist()
    assert saved == [{"pool": "small", **one} for one in pool["correlations"]]
    assert any("gradient_bidirectional" in line and "representation_safe" in line for line in found["lines"])
    manifest = read(tmp_path / "out" / "manifest.json")
    assert manifest["pools"][0]["scan"]["scores_sha256"] == pool["scan"]["scores_sha256"]


def with_statuses(scanned: Path, folder: Path, broken: int) -> Path:
    """A copy of a scan in which the first rows are unusable, their scores left in place."""
    folder.mkdir()
    table = pq.read_table(scanned / "scores.parquet")
    statuses = ["too_long"] * broken + ["ok"] * (table.num_rows - broken)
    place = table.column_names.index("status")
    table = table.set_column(place, table.schema.field("status"), pa.array(statuses))
    pq.write_table(table, folder / "scores.parquet")
    (folder / "manifest.json").write_text((scanned / "manifest.json").read_text())
    return folder


def test_unusable_rows_take_no_part_and_too_few_are_an_error(scanned: Path, tmp_path: Path) -> None:
    some = with_statuses(scanned, tmp_path / "some", 15)
    found = run({"pools": [{"name": "some", "run": str(some)}]}, tmp_path / "out")["pools"][0]
    assert (found["rows"], found["left_out"]) == (25, 15)
    table = pq.read_table(some / "scores.parquet").to_pydict()
    one = found["correlations"][0]
    left, right = table[one["representation"]][15:], table[one["gradient"]][15:]
    assert one["spearman"] == pytest.approx(np.corrcoef(rankdata(left), rankdata(right))[0, 1], abs=1e-4)
    few = with_statuses(scanned, tmp_path / "few", 31)
    with pytest.raises(RipcurrentError, match="Pool few has 9 rows with all scores") as caught:
        run({"pools": [{"name": "few", "run": str(few)}]}, tmp_path / "none")
    assert caught.value.code == 2


def test_pools_are_scanned_added_and_never_repeated(
    scanned: Path, keys: dict[str, Any], anchors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._scan"), "build_report", lambda folder: folder / "report.html")
    first = {"name": "first", "run": str(scanned)}
    rows = write_jsonl(tmp_path / "others.jsonl", good_rows(60)[40:])
    second = {"name": "second", "data": str(rows), "scan": {"anchors": str(anchors_file)}}
    config = {
        **{key: keys[key] for key in ("model", "device", "dtype")},
        "scan": {"anchor_check": False},
        "pools": [first],
    }
    alone = run(config, tmp_path / "out")
    assert alone["agreement"][0]["pools"] == 1
    computed: list[str] = []
    real = _mechanism._correlations
    monkeypatch.setattr(_mechanism, "_correlations", lambda name, *rest: computed.append(name) or real(name, *rest))
    both = run({**config, "pools": [first, second]}, tmp_path / "out")
    assert computed == ["second"]
    assert both["pools"][0] == alone["pools"][0]
    assert both["pools"][1]["rows"] == 20
    assert (tmp_path / "out" / "scans" / "second" / "scores.parquet").exists()
    for one in both["agreement"]:
        pairs = [
            next(p for p in pool["correlations"] if p["representation"] == one["representation"]
                 and p["gradient"] == one["gradient"])
            for pool in both["pools"]
        ]  # fmt: skip
        values = [pair["given_length"] for pair in pairs]
        assert (one["lowest"], one["highest"]) == (min(values), max(values))
        if all(pair["given_length_low"] > 0 for pair in pairs):
            assert one["sign"] == "positive"
        elif all(pair["given_length_high"] < 0 for pair in pairs):
            assert one["sign"] == "negative"
        else:
            assert one["sign"] == "unclear"
    assert any("one clear sign in all pools" in line for line in both["lines"])
    # a second call reads both; one that is cut short is made again
    (tmp_path / "out" / "pools" / "first.json").write_text("{")
    assert run({**config, "pools": [first, second]}, tmp_path / "out") == both
    assert computed == ["second", "first"]
    with pytest.raises(RipcurrentError, match="its seed is 0, now 1"):
        run({**config, "pools": [first], "seed": 1}, tmp_path / "out")


def test_a_scan_of_one_signal_says_which_is_missing(
    tiny_folder: Path, anchors_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_module("ripcurrent.scan._scan"), "build_report", lambda folder: folder / "report.html")
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(12))
    for signals, missing in (("representation", "gradient"), ("gradient", "representation")):
        folder = tmp_path / signals
        scan(rows, folder, model=str(tiny_folder), anchors=str(anchors_file), signals=signals, **EXACT)
        with pytest.raises(RipcurrentError, match=f"its scan has no {missing} scores"):
            run({"pools": [{"name": "x", "run": str(folder)}]}, tmp_path / f"out-{signals}")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"poolz": []}, ("no key 'poolz'", "Did you mean pools?")),
        ({"pools": []}, ("give one pool or more",)),
        ({"pools": [{"name": "a", "run": "x"}, {"name": "a", "run": "y"}]}, ("a name of its own",)),
        ({"pools": [{"name": "a", "run": "nowhere"}]}, ("nowhere is not the folder of a finished scan",)),
        ({"pools": [{"name": "a", "rum": "x"}]}, ("pools", "no key 'rum'", "Did you mean run?")),
        ({"pools": [{"name": "a"}]}, ("either run", "or data")),
        ({"pools": [{"name": "a", "data": "nowhere.json"}]}, ("nowhere.json does not exist",)),
        ({"pools": [{"name": "a/b", "run": "x"}]}, ("name 'a/b' is not possible",)),
    ],
)
def test_what_can_be_wrong(change: dict[str, Any], says: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError) as caught:
        run({"pools": [{"name": "a", "run": "x"}], **change}, tmp_path / "out")
    assert len(str(caught.value).splitlines()) == 2
    assert all(part in str(caught.value) for part in says), str(caught.value)


def test_the_command_runs_it(scanned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "states.yaml"
    file.write_text(yaml.safe_dump({"kind": "mechanism", "pools": [{"name": "small", "run": str(scanned)}]}))
    assert command(["experiment", str(file), "--out", str(tmp_path / "out"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["name"] == "states"
    assert command(["experiment", str(file), "--out", str(tmp_path / "out")]) == 0
    assert "representation_bidirectional  gradient_balanced" in capsys.readouterr().out


def test_the_ready_file_is_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    from ripcurrent.experiment import read_experiment_file

    monkeypatch.setenv("RIPCURRENT_DATA", "data")
    values = read_experiment_file(ROOT / "experiments" / "mechanism.yaml")
    config = parse_mechanism(values, where="mechanism.yaml")
    assert [config.resolved(pool).scan for pool in config.pools] == [{"max_tokens": 512}] * 3
