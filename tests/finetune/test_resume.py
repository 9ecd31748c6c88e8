"""A run that was stopped, at any step and in any way, ends with the same weights to the bit as one that was not."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import FinetuneManifest, FinetuneRun, finetune
from ripcurrent.finetune._train import MARK, latest
from ripcurrent.finetune._trainer import RowTrainer
from ripcurrent.progress import SilentProgress
from tests.finetune.runs import recipe, run, same
from tests.models.tiny import save_tiny
from tests.scan_fixtures import good_rows, write_jsonl

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


COMMON: dict[str, Any] = {"device": "cpu", "dtype": "float32", "max_tokens": 256}


@pytest.fixture
def rows(tmp_path) -> Path:
    """Ten rows, with a recipe beside them."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return write_jsonl(tmp_path / "rows.jsonl", good_rows(10))


def test_killed_while_writing_a_checkpoint_and_again_between_two(rows, tmp_path):
    # GPT-2 has dropout, so that the state of the random numbers matters too
    model, out = save_tiny(tmp_path / "model", "gpt2"), tmp_path / "killed"
    for where, when, kept in (("checkpoint", 3, 2), ("step", 4, 3)):
        arguments = [where, str(when), str(rows), str(model), str(tmp_path / "recipe.yaml"), str(out)]
        child = subprocess.run([sys.executable, "-c", CHILD, *arguments], capture_output=True, text=True, check=False)
        assert child.returncode == -signal.SIGKILL, child.stderr
        assert not (out / "manifest.json").exists()
        whole = [folder.name for folder in out.glob("checkpoints/*") if (folder / MARK).exists()]
        assert whole == [f"checkpoint-{kept}"]
    resumed, straight = (
        finetune(rows, folder, tmp_path / "recipe.yaml", model=str(model), **COMMON)
        for folder in (out, tmp_path / "straight")
    )
    assert resumed.manifest.training.resumed_from == 3
    assert straight.manifest.training.resumed_from == 0
    for name in ("model/model.safetensors", "loss.jsonl", "rows.jsonl"):
        assert (out / name).read_bytes() == (straight.folder / name).read_bytes(), name
    assert {path.name for path in out.iterdir()} == {path.name for path in straight.folder.iterdir()}


@pytest.mark.parametrize("method", ["full", "lora\nr: 2"], ids=["full", "lora"])
def test_stopped_between_the_model_and_its_manifest(rows, tiny_folder, tmp_path, monkeypatch, method):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("full", method).replace("epochs: 2", "steps: 2"))

    def train() -> FinetuneRun:
        return finetune(rows, tmp_path / "out", tmp_path / "recipe.yaml", model=str(tiny_folder), **COMMON)

    def stop(*_: object) -> None:
        raise Stop

    monkeypatch.setattr(FinetuneManifest, "write", stop)
    with pytest.raises(Stop):
        train()
    monkeypatch.undo()
    stale = next((tmp_path / "out").glob("*/*.safetensors"))
    expected = stale.read_bytes()
    stale.write_bytes(b"stale")
    (stale.parent / "left_over").touch()
    done = train()
    assert stale.read_bytes() == expected
    assert not (done.result / "left_over").exists()


def test_stopped_by_memory_before_its_first_step_it_goes_on_with_another_recipe(
    rows, tiny_folder, tmp_path, monkeypatch
):
    def too_much(*_: object, **named: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    model, how = str(tiny_folder), {"epochs": None, "steps": 2}
    monkeypatch.setattr(RowTrainer, "training_step", too_much)
    with pytest.raises(RipcurrentError, match="A batch of 4 rows does not fit"):
        finetune(rows, tmp_path / "out", recipe(**how), model=model, **COMMON)
    monkeypatch.undo()
    assert (tmp_path / "out" / "rows.jsonl").is_file()
    done = finetune(rows, tmp_path / "out", recipe(**how, accumulation=2), model=model, **COMMON)
    assert done.manifest.recipe.accumulation == 2


class Stop(BaseException):
    """The user's Ctrl-C."""


class StopAt(SilentProgress):
    """Stops when so many steps are done."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def skipped(self, count: int) -> None:
        self._left -= count

    def rows(self, count: float) -> None:
        self._left -= count
        if self._left == 0:
            raise Stop


@pytest.mark.parametrize(
    ("how", "compute"),
    [(recipe(), torch.float32), (recipe(method="lora", r=2, learning_rate=1e-2), torch.bfloat16)],
    ids=["full", "lora"],
)
def test_stopped_at_every_step(tmp_path, how, compute):
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
    curves = [(tmp_path / name / "loss.jsonl").read_text() for name in ("stopped", "straight")]
    assert curves[0] == curves[1]
