"""Scans that an experiment makes: anchor sets put together and cut, and how the dataset is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ripcurrent.anchors import load_anchors
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import _experiment_scans as scans
from ripcurrent.experiment import expand_arms, parse_experiment
from ripcurrent.experiment._config import Scan
from ripcurrent.experiment._experiment import _scans_of
from ripcurrent.experiment._experiment_scans import _write_anchors
from ripcurrent.progress import SilentProgress


def texts(path: Path | str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for anchor in load_anchors(path).anchors:
        found.setdefault(anchor.set, []).append(anchor.messages[0].content)
    return found


def test_a_part_of_each_set_is_of_the_same_places(tmp_path: Path) -> None:
    whole = texts("builtin")
    part = texts(_write_anchors(Scan(anchors_per_set=5), tmp_path / "a.jsonl"))
    places = {name: [whole[name].index(text) for text in chosen] for name, chosen in part.items()}
    assert set(places) == set(whole)
    assert len(set(map(tuple, places.values()))) == 1
    assert len(places["harmful"]) == 5


def test_sets_of_one_name_are_put_together(tmp_path: Path) -> None:
    path = _write_anchors(Scan(anchors=("builtin", "second_family")), tmp_path / "both.jsonl")
    one, other, both = texts("builtin"), texts("second_family"), texts(path)
    assert set(both["harmful"]) == set(one["harmful"]) | set(other["harmful"])
    with pytest.raises(RipcurrentError, match="anchors_per_set: 500 anchors are wanted of each set"):
        _write_anchors(Scan(anchors_per_set=500), tmp_path / "many.jsonl")


def test_each_scan_gets_its_own_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, tuple[str, dict[str, Any]]] = {}

    class Made:
        folder = tmp_path

    def noted(data: str, folder: Path, *, progress: Any, **options: Any) -> type[Made]:
        asked[folder.name] = (str(data), options)
        return Made

    monkeypatch.setattr(scans, "scan", noted)
    config = parse_experiment(
        {"name": "x", "data": "rows.txt", "format": "plain", "model": "m", "control": None, "arms": {"a": "top"}},
        where="x",
    )
    told = SilentProgress()
    scans._scanned(config, Scan(data=config.data, options={"layer": 2}), tmp_path / "main", told)
    scans._scanned(config, Scan(options={"layer": 3}, anchors_per_set=4), tmp_path / "new" / "few", told)
    scans._scanned(config, Scan(data="other.jsonl"), tmp_path / "other", told)
    assert asked["main"][0] == asked["few"][0] == "rows.txt"
    assert (asked["main"][1]["format"], asked["main"][1]["layer"], asked["main"][1]["model"]) == ("plain", 2, "m")
    assert (asked["few"][1]["format"], asked["few"][1]["layer"]) == ("plain", 3)
    assert asked["few"][1]["anchors"] == str(tmp_path / "new" / "few-anchors.jsonl")
    assert "format" not in asked["other"][1]
    scans._scanned(
        parse_experiment({"name": "x", "data": "demo", "control": None, "arms": {"a": "top"}}, where="x"),
        Scan(data="demo"),
        tmp_path / "shown",
        told,
    )
    assert Path(asked["shown"][0]).is_file()


def test_a_scan_to_be_made_beside_a_finished_one_reads_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    class Made:
        folder = tmp_path

    def noted(data: str, folder: Path, *, progress: Any, **options: Any) -> type[Made]:
        asked.update(options, data=str(data))
        return Made

    monkeypatch.setattr(scans, "scan", noted)
    keys = {"name": "x", "run": "runs/first", "model": "m", "scans": {"other": {"options": {"anchors": "mine"}}}}
    config = parse_experiment({**keys, "arms": {"a": {"select": "top", "scan": "other"}}, "control": None}, where="x")
    dataset = {"path": "/data/rows.jsonl", "format": "alpaca", "mapping": {"output": "reply"}, "sha256": "d"}
    manifest = {"dataset": dataset, "options": {"limit": 50}}
    main: Any = scans.Pool(None, None, manifest)  # type: ignore[arg-type]
    scans._scanned(config, config.scans["other"], tmp_path / "other", SilentProgress(), main)
    wanted = {"data": "/data/rows.jsonl", "format": "alpaca", "mapping": {"output": "reply"}, "limit": 50}
    assert wanted.items() <= asked.items()
    assert asked["anchors"] == "mine"
    # a scan of another dataset takes nothing from it
    asked.clear()
    scans._scanned(config, Scan(data="other.csv"), tmp_path / "third", SilentProgress(), main)
    assert asked["data"] == "other.csv"
    assert not {"format", "mapping", "limit"} & set(asked)


def test_a_further_scan_of_the_same_rows_reads_them_alike_and_takes_no_others_adapter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, dict[str, Any]] = {}

    class Made:
        folder = tmp_path

    def noted(data: str, folder: Path, *, progress: Any, **options: Any) -> type[Made]:
        asked[folder.name] = options
        return Made

    monkeypatch.setattr(scans, "scan", noted)
    keys = {"name": "x", "data": "rows.csv", "scan": {"limit": 500, "mapping": {"prompt": "ask"}, "layer": 2}}
    own = {"model": "bare", "adapter": "weak", "arms": {"a": "top"}, "control": None}
    config = parse_experiment({**keys, **own}, where="x")
    told = SilentProgress()
    scans._scanned(config, Scan(options={"anchors": "second_family"}), tmp_path / "second", told)
    kept = {"limit": 500, "mapping": {"prompt": "ask"}, "anchors": "second_family", "adapter": "weak"}
    assert kept.items() <= asked["second"].items()
    assert "layer" not in asked["second"], "what is scored is each scan's own"
    scans._scanned(config, Scan(data="other.csv"), tmp_path / "other", told)
    assert not {"limit", "mapping"} & set(asked["other"])
    scans._scanned(config, Scan(options={"model": "embedded"}), tmp_path / "strong", told)
    assert (asked["strong"]["model"], asked["strong"]["adapter"]) == ("embedded", None)


def test_a_scan_that_no_wanted_arm_uses_is_not_made() -> None:
    arms = {
        "random": "random",
        "plain": "top",
        "other": {"select": "top", "scan": "b"},
        "matched": {"length_matched": "other"},
    }
    keys = {"name": "x", "data": "rows.txt", "arms": arms, "scans": {"a": "runs/a", "b": "runs/b"}}
    every = {arm.name: arm for arm in expand_arms(parse_experiment(keys, where="x"))}
    assert _scans_of([every["random"], every["plain"]], every) == set()
    assert _scans_of([every["matched"]], every) == _scans_of(every.values(), every) == {"b"}
