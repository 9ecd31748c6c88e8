"""``--device auto`` where one GPU is needed is refused before anything is computed; elsewhere it leaves room."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import finetune
from ripcurrent.forecast._calibrate_data import calibrate_data
from ripcurrent.models import reset_peak
from ripcurrent.scan import scan
from ripcurrent.scan._doctor import diagnose
from ripcurrent.scan._execution import Execution
from ripcurrent.scan._memory import memory_record
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan_model import load_scan_model
from tests.tiny_scan import good_rows, write_jsonl

RECIPE = "method: full\nlearning_rate: 1.0e-3\nbatch: 4\nsteps: 1\n"


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""
    places = (
        (import_module("ripcurrent.scan._scan_model"), "load_model"),
        (import_module("ripcurrent.finetune._model"), "load_model"),
    )
    for place in places:
        monkeypatch.setattr(*place, lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "rows.jsonl", good_rows(30))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "short.yaml"
    path.write_text(RECIPE)
    return path


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"memory": "8GB"}, "--memory is a budget of one GPU"),
        ({"execution": Execution("ray", workers=2)}, "--device auto does not go with --executor ray"),
    ],
)
def test_what_a_scan_does_on_one_gpu_alone_is_refused(
    how: dict[str, Any], said: str, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(RipcurrentError, match=said) as caught:
        scan(rows, tmp_path / "out", device="auto", **how)
    assert "ne GPU is needed" in f"{caught.value.message} {caught.value.hint}"
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("nothing_loads")
def test_doctor_refuses_since_it_would_measure_one_gpu(rows: Path) -> None:
    with pytest.raises(RipcurrentError, match="does not know whether a model spread over several GPUs fits"):
        diagnose(rows, device="auto")


@pytest.mark.usefixtures("nothing_loads")
def test_training_is_refused(rows: Path, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="Training runs on one GPU") as caught:
        finetune(rows, tmp_path / "out", recipe=recipe, device="auto")
    assert "One GPU is needed" in caught.value.hint


@pytest.mark.usefixtures("nothing_loads")
def test_a_ladder_of_trained_sets_is_refused(rows: Path, recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(RipcurrentError, match="Training runs on one GPU"):
        calibrate_data(rows, tmp_path / "mine.json", tmp_path / "work", recipe=recipe, sizes=(3, 6), device="auto")


@pytest.mark.parametrize(("signals", "share"), [("all", 0.5), ("gradient", 0.5), ("representation", 0.9)])
def test_weights_leave_room_for_directions_where_there_are_any(
    signals: str, share: float, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ripcurrent.models import load_model

    asked: dict[str, Any] = {}

    def keep(**options: Any) -> Any:
        asked.update(options)
        return load_model(**options)

    monkeypatch.setattr(import_module("ripcurrent.scan._scan_model"), "load_model", keep)
    load_scan_model(ScanOptions(model=str(tiny_folder), device="cpu", dtype="float32", signals=signals))
    assert asked["weights_share"] == share


def test_the_manifest_keeps_the_peak_of_the_fullest_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = {torch.device("cuda:0"): 3 * 10**9, torch.device("cuda:1"): 7 * 10**9}
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peaks.__getitem__)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peaks.update({device: 10**9}))
    monkeypatch.setattr("ripcurrent.models._memory._HIGHEST_ON", {})
    for _ in range(2):
        record = memory_record(ScanOptions(), list(peaks), None, 0)
        assert record == {"batches_halved": 0, "device_peak_bytes": 7 * 10**9}
        # a probe of what batches take forgets what came before it; the scan does not
        for device in peaks:
            reset_peak(device)
    assert memory_record(ScanOptions(), [torch.device("cpu")], None, 0) == {"batches_halved": 0}
