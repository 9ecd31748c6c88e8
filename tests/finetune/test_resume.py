"""A run that was stopped, at any step and in any way, ends with the same weights to the bit as one that was not."""

import signal
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import FinetuneManifest, finetune
from ripcurrent.finetune._train import MARK, latest
from ripcurrent.finetune._trainer import RowTrainer
from ripcurrent.progress import SilentProgress
from tests.finetune.runs import recipe, run, same
from tests.models.tiny import save_tiny
from tests.tiny_scan import good_rows, write_jsonl

# ten rows, three steps an epoch: stops fall into epochs and between them
RECIPE = "method: full\nlearning_rate: 1.0e-3\nbatch: 4\naccumulation: 2\nepochs: 2\nschedule: linear\nwarmup: 0.2\n"
CHILD = """
import os, signal, sys
from ripcurrent.finetune import finetune
from ripcurrent.finetune import _train

where, when, rows, model, recipe, out = sys.argv[1:]
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
seal, require = _train.seal, _train.require_converging
if where == "checkpoint":
    _train.seal = lambda folder: die() if folder.name == f"checkpoint-{when}" else seal(folder)
else:
    _train.require_converging = lambda losses, batch: die() if len(losses) == int(when) else require(losses, batch)
finetune(rows, out, recipe, model=model, device="cpu", dtype="float32", max_tokens=256, checkpoint_minutes=0)
"""


def test_killed_while_writing_a_checkpoint_and_again_between_two(tmp_path: Path) -> None:
    # GPT-2 has dropout, so that the state of the random numbers matters too
    model = save_tiny(tmp_path / "model", "gpt2")
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(10))
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    out = tmp_path / "killed"
    for where, when, kept in (("checkpoint", 3, 2), ("step", 4, 3)):
        arguments = [where, str(when), str(rows), str(model), str(tmp_path / "recipe.yaml"), str(out)]
        child = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert not (out / "manifest.json").exists()
        whole = [folder.name for folder in out.glob("checkpoints/*") if (folder / MARK).exists()]
        assert whole == [f"checkpoint-{kept}"]
    common: dict[str, Any] = {"model": str(model), "device": "cpu", "dtype": "float32", "max_tokens": 256}
    resumed = finetune(rows, out, tmp_path / "recipe.yaml", **common)
    straight = finetune(rows, tmp_path / "straight", tmp_path / "recipe.yaml", **common)
    assert resumed.manifest.training.resumed_from == 3
    assert straight.manifest.training.resumed_from == 0
    for name in ("model/model.safetensors", "loss.jsonl", "rows.jsonl"):
        assert (out / name).read_bytes() == (straight.folder / name).read_bytes(), name
    assert {path.name for path in out.iterdir()} == {path.name for path in straight.folder.iterdir()}


@pytest.mark.parametrize("method", ["full", "lora\nr: 2"], ids=["full", "lora"])
def test_stopped_between_the_model_and_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    model = save_tiny(tmp_path / "model", "llama_tied")
    rows = write_jsonl(tmp_path / "rows.jsonl", good_rows(4))
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("full", method))
    common: dict[str, Any] = {"model": str(model), "device": "cpu", "dtype": "float32", "max_tokens": 256}

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(FinetuneManifest, "write", stop)
    with pytest.raises(Stop):
        finetune(rows, tmp_path / "out", tmp_path / "recipe.yaml", **common)
    monkeypatch.undo()
    stale = next((tmp_path / "out").glob("*/*.safetensors"))
    expected = stale.read_bytes()
    stale.write_bytes(b"stale")
    (stale.parent / "left_over").touch()
    done = finetune(rows, tmp_path / "out", tmp_path / "recipe.yaml", **common)
    assert stale.read_bytes() == expected
    assert not (done.result / "left_over").exists()


def test_stopped_by_memory_before_its_first_step_it_goes_on_with_another_recipe(
    rows_file: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_much(*_: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    common: dict[str, Any] = {"model": str(tiny_folder), "device": "cpu", "dtype": "float32"}
    monkeypatch.setattr(RowTrainer, "training_step", too_much)
    with pytest.raises(RipcurrentError, match="A batch of 4 rows does not fit"):
        finetune(rows_file, tmp_path / "out", recipe(epochs=None, steps=2), **common)
    monkeypatch.undo()
    assert (tmp_path / "out" / "rows.jsonl").is_file()
    done = finetune(rows_file, tmp_path / "out", recipe(epochs=None, steps=2, accumulation=2), **common)
    assert done.manifest.recipe.accumulation == 2


class Stop(BaseException):
    """The user's Ctrl-C."""


class StopAt(SilentProgress):
    """Stops when so many steps are done."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def skipped(self, count: int) -> None:
        self._left -= count

    def rows(self, count: int) -> None:
        self._left -= count
        if self._left == 0:
            raise Stop


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", [recipe(), recipe(method="lora", r=2, learning_rate=1e-2)], ids=["full", "lora"])
def test_stopped_at_every_step(tmp_path: Path, how: Any, compute: torch.dtype) -> None:
    straight = run(tmp_path / "straight", how, compute=compute)

    for step in range(2, 7):
        with pytest.raises(Stop):
            run(tmp_path / "stopped", how, compute=compute, checkpoint_minutes=0, progress=StopAt(step))
        checkpoint = latest(tmp_path / "stopped" / "checkpoints")
        assert checkpoint is not None
        assert checkpoint.name == f"checkpoint-{step - 1}"
    resumed = run(tmp_path / "stopped", how, compute=compute)
    assert resumed.record.resumed_from == 5
    assert resumed.record.steps == straight.record.steps == 6
    assert same(resumed.weights, straight.weights)
    name = "loss.jsonl"
    assert (tmp_path / "stopped" / name).read_text() == (tmp_path / "straight" / name).read_text()


def test_a_short_run_writes_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("a checkpoint was written")

    monkeypatch.setattr(import_module("ripcurrent.finetune._train"), "seal", never)
    run(tmp_path, recipe())


def test_only_whole_checkpoints_count(tmp_path: Path) -> None:
    assert latest(tmp_path / "nothing") is None
    for number in (2, 10, 11):
        folder = tmp_path / f"checkpoint-{number}"
        folder.mkdir()
        (folder / "weights").touch()
        if number != 11:
            (folder / MARK).touch()
    assert latest(tmp_path) == tmp_path / "checkpoint-10"
    assert not (tmp_path / "checkpoint-11").exists()
