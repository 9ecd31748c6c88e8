"""What a peer is given and what it hands back; runs in every peer's environment, on torch and safetensors alone."""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

Row = dict[str, list[int]]
"""``ids`` and ``labels`` of one row, equally long; a label is -100 where no loss is taken."""

DIRECTIONS = ("harmful", "safe")


class Task:
    """The task file, and the result file that a peer fills."""

    def __init__(self, path: Path) -> None:
        given: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        self.path, self.work, self.out = path, path.parent, Path(given["out"])
        self.model: str = given["model"]
        self.dtype: str = given["dtype"]
        self.scope: str = given["scope"]
        self.sets: dict[str, list[Row]] = given["sets"]
        self.anchors: dict[str, list[Row]] = given["anchors"]
        self.directions = Path(given["directions"])
        self.batch: int | None = given["batch"]
        """Rows at once; None for those that are not told."""
        self.torch_dtype: torch.dtype = getattr(torch, self.dtype)
        self.result: dict[str, Any] = {"seconds": {}, "peak_bytes": {}, "scores": {}}
        torch.set_num_threads(given["threads"])

    def read_directions(self) -> dict[str, Tensor]:
        """Parameter name to both directions, shape ``(2, *shape)``."""
        with safe_open(self.directions, framework="pt") as file:
            names = sorted({key.split("/", 1)[1] for key in file.keys()})  # noqa: SIM118
            return {
                name: torch.stack([file.get_tensor(f"{each}/{name}") for each in DIRECTIONS]).to(self.torch_dtype)
                for name in names
            }

    def time(self, name: str, function: Callable[[list[Row]], Any]) -> Any:
        """Run ``function`` on a set of rows and keep how long that took, and the peak memory so far."""
        began = time.perf_counter()
        found = function(self.sets[name])
        self.result["seconds"][name] = time.perf_counter() - began
        self.result["peak_bytes"][name] = peak_bytes()
        return found

    def keep(self, name: str, scores: Any) -> None:
        """Keep a set's scores, shape ``(rows, 2)``."""
        self.result["scores"][name] = torch.as_tensor(scores).double().tolist()

    def write(self, settings: str, *, left_out: str = "", cosine: bool = True, unit_directions: bool = False) -> None:
        """Write the result.

        ``cosine`` is False where scores are plain dots; with ``unit_directions`` they are cosines with the directions,
        and not products of normalised gradients with the directions as they are.
        """
        said = {"settings": settings, "left_out": left_out, "cosine": cosine, "unit_directions": unit_directions}
        self.out.write_text(json.dumps(self.result | said), encoding="utf-8")


def given_task() -> Task:
    """The task named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    return Task(parser.parse_known_args()[0].task)


def load_causal_model(task: Task, **options: Any) -> Any:
    """The task's model as transformers loads it, in evaluation mode; no code of the folder runs."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        task.model, dtype=task.torch_dtype, local_files_only=True, use_safetensors=True, **options
    ).eval()


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows padded on the right to the longest."""
    width = max(len(row["ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["ids"] + [0] * (width - len(row["ids"])) for row in rows]),
        "labels": torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]),
    }


def batch_loss(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """``Σ_i ℓ_i``, each row's loss a mean over its own response tokens."""
    wanted = batch["labels"][:, 1:]
    logits = model(input_ids=batch["input_ids"], use_cache=False).logits[:, :-1].float()
    losses = torch.nn.functional.cross_entropy(logits.mT, wanted, reduction="none", ignore_index=-100)
    return (losses.sum(dim=1) / (wanted != -100).sum(dim=1)).sum()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
