"""Scans that an experiment makes: how the dataset is read, with which model, and which ones are needed."""

from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

from ripcurrent.data import DatasetInfo
from ripcurrent.experiment import parse_experiment
from ripcurrent.experiment._config import ScanSource
from ripcurrent.experiment._rows import _to_scan, with_model_of_run
from ripcurrent.scan import ScanOptions

NONE: dict[str, Any] = {"name": "x", "arms": {"a": "top"}, "control": None}


def test_each_scan_gets_its_own_options() -> None:
    config = parse_experiment({**NONE, "data": "rows.txt", "format": "text", "model": "m"}, where="x")
    data, options = _to_scan(config, ScanSource(data=config.data, options={"layer": 2}), None)
    assert (data, options.format, options.layer, options.model) == ("rows.txt", "text", 2, "m")
    data, options = _to_scan(config, ScanSource(options={"layer": 3}), None)
    assert (data, options.format, options.layer) == ("rows.txt", "text", 3)
    data, options = _to_scan(config, ScanSource(data="other.jsonl"), None)
    assert (data, options.format) == ("other.jsonl", None)


def test_a_scan_to_be_made_beside_a_finished_one_reads_its_rows() -> None:
    config = parse_experiment({**NONE, "run": "runs/first", "model": "m"}, where="x")
    mapping = {"output": "reply"}
    info = DatasetInfo(
        path="/d/rows.jsonl", name="rows", sha256="d", format="alpaca", mapping=mapping, container="jsonl", rows=9
    )
    run = SimpleNamespace(manifest=SimpleNamespace(dataset=info), options=ScanOptions(limit=50))
    main: Any = SimpleNamespace(run=run)
    data, options = _to_scan(config, ScanSource(options={"anchors": "mine"}), main)
    assert (data, options.format, options.mapping, options.limit) == ("/d/rows.jsonl", "alpaca", mapping, 50)
    assert options.anchors == "mine"
    # a scan of another dataset takes nothing from it
    data, options = _to_scan(config, ScanSource(data="other.csv"), main)
    assert (data, options.format, options.mapping, options.limit) == ("other.csv", None, None, None)


def test_a_further_scan_of_the_same_rows_reads_them_alike_and_takes_no_others_adapter() -> None:
    keys = {**NONE, "data": "rows.csv", "scan": {"limit": 500, "mapping": {"prompt": "ask"}, "layer": 2}}
    config = parse_experiment({**keys, "model": "bare", "adapter": "weak"}, where="x")
    _, options = _to_scan(config, ScanSource(options={"anchors": "second_family"}), None)
    assert (options.limit, options.mapping, options.adapter) == (500, {"prompt": "ask"}, "weak")
    assert options.layer is None, "what is scored is each scan's own"
    _, options = _to_scan(config, ScanSource(data="other.csv"), None)
    assert (options.limit, options.mapping) == (None, None)
    _, options = _to_scan(config, ScanSource(options={"model": "embedded"}), None)
    assert (options.model, options.adapter, options.anchor_check) == ("embedded", None, True)
    unchecked = parse_experiment({**keys, "anchor_check": False}, where="x")
    assert not _to_scan(unchecked, ScanSource(options={"layer": 2}), None)[1].anchor_check


def test_the_model_of_a_finished_scan_is_trained_unless_another_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(options=ScanOptions(model="their/model", adapter="runs/a"))
    monkeypatch.setattr(import_module("ripcurrent.experiment._rows"), "ScanRun", SimpleNamespace(open=lambda _: run))

    def trained(**keys: Any) -> tuple[str, str | None]:
        config = with_model_of_run(parse_experiment({**NONE, "run": "runs/scan", **keys}, where="x"))
        return config.model, config.adapter

    assert trained() == ("their/model", "runs/a")
    assert trained(model="mine") == ("mine", None)
    assert trained(adapter="runs/b") == ("their/model", "runs/b")
