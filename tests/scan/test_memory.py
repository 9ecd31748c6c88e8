"""A scan's memory: the plan by one measured batch, directions in files, what one GPU is needed for, what is refused."""

import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import Directions, MappedStore
from ripcurrent.models import peak_bytes, process_peak, reset_peak
from ripcurrent.scan import ScanOptions, scan
from ripcurrent.scan._passes import SignalStage
from ripcurrent.scan._scan_model import MARGIN, MemoryPlan, fitting_stage, require_room_for_directions
from tests.scan.test_scan_resume import Counting
from tests.scan.tiny_stage import assert_same, fresh, make_stage, rows
from tests.scan_fixtures import good_rows, table_of, write_jsonl

CPU = torch.device("cpu")
MODEL = import_module("ripcurrent.scan._scan_model")
on_linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peaks are reset on Linux alone")


@pytest.fixture(scope="module")
def stage() -> SignalStage:
    return make_stage()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        *{"8GB": 8 * 10**9, "6GiB": 6 * 2**30, "500 mb": 5 * 10**8, "1.5GB": 15 * 10**8, "2000000": 2 * 10**6}.items(),
        *((text, None) for text in ("", "GB", "8 gigs", "-1GB", "0", "1e9", "8", 0)),
    ],
)
def test_sizes(text, expected):
    if expected:
        assert ScanOptions.resolve(None, {"memory": text}).memory == expected
    else:
        with pytest.raises(RipcurrentError, match=rf"--memory {text} is not possible\.\nWrite a size such as 8GB"):
            ScanOptions.resolve(None, {"memory": text})


@pytest.fixture
def plan(stage, monkeypatch) -> Callable[..., tuple[MemoryPlan, list[bool]]]:
    """The plan for made-up costs of a model, directions and each token, and where directions lay in each stage."""

    def planned(
        memory: int | None, directions: int = 500, token: int = 1, refused: bool = False, **options: Any
    ) -> tuple[MemoryPlan, list[bool]]:
        made, computed = list[bool](), list[int]()

        def held(_: object = None) -> int:
            return 1000 + (directions if made and not made[-1] else 0)

        class Watched(SignalStage):
            def compute(self, prepared: Any) -> Any:
                lengths = [len(row.encoded.tokens) for row in prepared]
                computed.append(max(lengths) * len(lengths))

        def make(mapped: bool) -> SignalStage:
            if refused and not mapped:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            made.append(mapped)
            return Watched(stage.chat_model, 512, stage.gradient_pass, stage.directions)

        monkeypatch.setattr(MODEL, "memory_in_use", held)
        monkeypatch.setattr(MODEL, "peak_bytes", lambda device: held() + token * computed[-1])
        chosen = ScanOptions(memory=memory, **options).decided("cpu")
        fitting, found = fitting_stage(make, chosen, lambda _, decide: decide(), rows(), directions, CPU)
        assert fitting.token_budget == found.token_budget
        assert made[-1] is found.mapped_directions
        # the batch that is measured is no larger than a quarter of the usual
        assert max(computed, default=0) <= 512 // 4
        return found, made

    return planned


def test_smaller_batches_come_first_then_directions_go_to_files(plan):
    assert plan(10_000)[0] == MemoryPlan(512, False)
    assert plan(3000, token=10)[0] == MemoryPlan(int((3000 * MARGIN - 1500) / 10), False)
    assert plan(3000, token=40) == (MemoryPlan(int((3000 * MARGIN - 1000) / 40), True), [False, True])
    # directions that alone pass the cap are never in memory
    assert plan(3000, directions=2000)[1] == [True, True]
    # without a cap they go to files where memory runs out
    assert plan(None)[0] == MemoryPlan(512, False)
    assert plan(None, refused=True)[0] == MemoryPlan(512, True)


@pytest.mark.parametrize(
    ("costs", "said"),
    [
        ({"memory": 3000, "token": 60}, r"beside the model, with directions in files\.\n.*--max-tokens 28\."),
        ({"memory": 1000}, r"--memory 0 MB cannot be kept.*\nUse --signals representation or --scope lora or"),
        ({"memory": 1000, "signals": "representation"}, r"does not fit beside the model\.\nUse a smaller model\."),
    ],
)
def test_a_cap_that_no_row_keeps_to_says_what_would_fit(plan, costs, said):
    with pytest.raises(RipcurrentError, match=said) as caught:
        plan(**costs)
    assert caught.value.code == 2


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_shard_that_runs_out_has_the_signals_of_one_that_had_the_room(where):
    told: list[int] = []
    # usual batches keep to the budget
    assert len(set(fresh(make_stage(), token_budget=40)(rows())["batch"].to_pylist())) > 3
    stage = fresh(make_stage(), on_rows=told.append)
    whole, passes = stage(rows()), []

    def hook(module: torch.nn.Module, given: Any, output: torch.Tensor) -> None:
        def refuse(_: object = None) -> None:
            if output.shape[:2].numel() > 70:
                raise torch.OutOfMemoryError("CUDA out of memory.")

        passes.append(module)
        if where == "forward":
            refuse()
        else:
            output.register_hook(refuse)

    stage.chat_model.model.model.layers[0].mlp.register_forward_hook(hook)
    halves = stage(rows())
    assert_same(whole, halves)
    assert sum(told) == 2 * 13
    assert set(whole["batch"].to_pylist()) == {0}
    assert sorted(set(halves["batch"].to_pylist())) == list(range(len(passes) - stage.halving.batches_halved))
    assert stage.halving.batches_halved > 1


@on_linux
def test_mapped_directions_stay_out_of_memory(tmp_path):
    store = MappedStore(tmp_path)
    tensors = {number: store.empty(8, 2**20, dtype=torch.float32, device=CPU) for number in range(6)}
    for tensor in tensors.values():
        tensor.fill_(1.0)
        store.let_go()
    mapped = store.directions(Directions(1, tensors, {}), CPU).linear
    reset_peak(CPU)
    before = peak_bytes(CPU)
    assert sum(float(mapped[number].sum()) for number in mapped) == 6 * 8 * 2**20
    # one tensor of 34 MB at a time, and not all 200 MB
    assert peak_bytes(CPU) - before < 80e6


@on_linux
def test_a_peak_is_not_that_of_who_started_the_process_and_survives_a_reset():
    held = bytearray(b"x") * 1_500_000_000
    code = "from ripcurrent.models import process_peak; print(process_peak())"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert 50e6 < int(found) < len(held)
    del held
    whole = process_peak()
    reset_peak(CPU)
    assert peak_bytes(CPU) < whole <= process_peak()


def test_what_has_no_room_is_an_error_with_a_way_out(stage, tmp_path, monkeypatch):
    def full(descriptor: int, start: int, size: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full, raising=False)
    with pytest.raises(RipcurrentError, match=r"no room for 0\.0 GB of directions: No space left"):
        MappedStore(tmp_path).empty(4, 4, dtype=torch.float32, device=CPU)
    for memory in (None, 10**12):
        require_room_for_directions(100, stage.chat_model, ScanOptions(memory=memory))
    with pytest.raises(RipcurrentError, match=r"directions takes 8\d\.\d GB, more than --memory 50\.0 GB") as caught:
        require_room_for_directions(10**10, stage.chat_model, ScanOptions(memory=50 * 10**9))
    assert "RIPCURRENT_CACHE" in caught.value.hint


def test_a_scan_keeps_to_its_first_plan_and_says_whether_the_cap_was_kept(tmp_path, small_options, monkeypatch):
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(30))
    usual = scan(dataset, tmp_path / "usual", **small_options)
    assert usual.manifest.memory == {"batches_halved": 0}
    # what is free now makes batches small
    monkeypatch.setattr(MODEL, "peak_bytes", lambda device: 40 * 10**9)
    with pytest.raises(KeyboardInterrupt):
        scan(dataset, tmp_path / "kept", memory="64GB", progress=Counting(stop_after=9), **small_options)
    monkeypatch.undo()
    planned = yaml.safe_load((tmp_path / "kept" / "config.yaml").read_text())["decided"]["memory 64000000000"]
    assert planned["token_budget"] < 512
    resumed = scan(dataset, tmp_path / "kept", memory="64GB", **small_options)
    assert resumed.manifest.memory == {"batches_halved": 0, **planned, "memory": 64 * 10**9, "kept": True}
    monkeypatch.setattr(MODEL, "device_peak", lambda device: 33 * 10**9)
    (tmp_path / "kept" / "signals" / "shard-00000.done").unlink()
    # another cap may go on in the folder, with a plan of its own
    other = scan(dataset, tmp_path / "kept", memory="32GB", **small_options)
    assert (other.manifest.memory["token_budget"], other.manifest.memory["kept"]) == (512, False)
    for name in ("gradient_bidirectional", "representation_bidirectional"):
        difference = np.abs(table_of(usual)[name].to_numpy() - table_of(other)[name].to_numpy())
        assert difference.max() < 2e-5


def test_a_scan_whose_directions_are_in_files_scores_the_same(tmp_path, small_options, monkeypatch):
    dataset = write_jsonl(tmp_path / "rows.jsonl", good_rows(20))
    usual = scan(dataset, tmp_path / "usual", **small_options)
    monkeypatch.setattr(MODEL, "_plan", lambda *_: MemoryPlan(512, True))
    mapped = scan(dataset, tmp_path / "mapped", memory="64GB", **small_options)
    assert mapped.manifest.memory["mapped_directions"]
    assert {path.suffix for path in mapped.folder.iterdir()} <= {".json", ".parquet", ".yaml", ".lock", ""}
    for name in ("gradient_bidirectional", "gradient_norm"):
        np.testing.assert_allclose(table_of(usual)[name], table_of(mapped)[name], rtol=1e-5, atol=2e-5)
