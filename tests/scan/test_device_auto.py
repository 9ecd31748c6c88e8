"""``--device auto`` where one GPU is needed is refused before anything is computed; elsewhere it leaves room."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import finetune
from ripcurrent.models import load_model, reset_peak
from ripcurrent.scan import Execution, ScanOptions, doctor, load_scan_model, scan
from ripcurrent.scan._scan_model import MemoryPlan, memory_record
from tests.tiny_scan import good_rows, write_jsonl

PLAN = MemoryPlan(512, mapped_directions=False)


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading a model fails the test."""
    for module in ("ripcurrent.scan._scan_model", "ripcurrent.finetune._model"):
        monkeypatch.setattr(import_module(module), "load_model", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.mark.usefixtures("nothing_loads")
def test_what_runs_on_one_gpu_alone_is_refused(tmp_path: Path) -> None:
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(30))
    recipe = tmp_path / "short.yaml"
    recipe.write_text("method: full\nlearning_rate: 1.0e-3\nbatch: 4\nsteps: 1\n")
    auto: dict[str, Any] = {"device": "auto"}
    for refused, said in (
        (lambda: scan(rows, tmp_path / "out", memory="8GB", **auto), "--memory needs one"),
        (lambda: scan(rows, tmp_path / "out", execution=Execution(executor="ray", workers=2), **auto), "--device auto"),
        (lambda: doctor(rows, **auto), "spread over several GPUs fits"),
        (lambda: finetune(rows, tmp_path / "out", recipe=recipe, **auto), "Training runs on one GPU"),
    ):
        with pytest.raises(RipcurrentError, match=said):
            refused()
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("signals", "share"), [("all", 0.5), ("gradient", 0.5), ("representation", 0.9)])
def test_weights_leave_room_for_directions_where_there_are_any(
    signals: Any, share: float, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    for _ in range(2):
        record = memory_record(ScanOptions(), list(peaks), 0, PLAN)
        assert record == {"batches_halved": 0, "device_peak_bytes": 7 * 10**9}
        # measuring what a batch takes forgets what came before it; the scan does not
        for device in peaks:
            reset_peak(device)
    assert memory_record(ScanOptions(), [torch.device("cpu")], 0, PLAN) == {"batches_halved": 0}
