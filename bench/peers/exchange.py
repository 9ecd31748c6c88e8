"""What a peer is given and what it hands back; runs in every peer's environment, on torch and safetensors alone."""

from __future__ import annotations

import argparse
import json
import re
import resource
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
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
        self.path = path
        self.model: str = given["model"]
        self.dtype: str = given["dtype"]
        self.scope: str = given["scope"]
        self.sets: dict[str, list[Row]] = given["sets"]
        self.anchors: dict[str, list[Row]] = given["anchors"]
        self.directions: Path = Path(given["directions"])
        self.batch: int | None = given["batch"]
        """Rows at once; None for those that are not told."""
        self.work = path.parent
        self.out = Path(given["out"])
        self.result: dict[str, Any] = {
            "seconds": {},
            # the most memory that the process has held by the end of each set
            "peak_bytes": {},
            "scores": {},
            "settings": "",
            "left_out": "",
            # whether scores are cosines with the directions, and not products with them as they are
            "unit_directions": False,
        }
        torch.set_num_threads(given["threads"])

    @property
    def torch_dtype(self) -> torch.dtype:
        """What to compute in."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    def direction_names(self) -> list[str]:
        """Parameters that the directions cover, as the model names them."""
        with safe_open(self.directions, framework="pt") as file:
            return sorted({key.split("/", 1)[1] for key in file.keys()})  # noqa: SIM118

    def read_directions(self, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
        """Parameter name to both directions, shape ``(2, *shape)``."""
        with safe_open(self.directions, framework="pt") as file:
            return {
                name: torch.stack([file.get_tensor(f"{each}/{name}") for each in DIRECTIONS]).to(
                    dtype or self.torch_dtype
                )
                for name in self.direction_names()
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

    def write(self, *packages: str) -> None:
        """Write the result with the versions of ``packages``."""
        self.result["versions"] = {name: _version(name) for name in ("torch", "transformers", *packages)}
        self.out.write_text(json.dumps(self.result), encoding="utf-8")


def given_task() -> Task:
    """The task named on the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("task", type=Path)
    return Task(parser.parse_known_args()[0].task)


def load_causal_model(task: Task, **options: Any) -> Any:
    """The task's model as transformers loads it: frozen, in evaluation mode, and no code of the folder run."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        task.model, dtype=task.torch_dtype, local_files_only=True, use_safetensors=True, **options
    )
    return model.eval()


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """Rows padded on the right to the longest."""
    width = max(len(row["ids"]) for row in rows)
    return {
        "input_ids": torch.tensor([row["ids"] + [0] * (width - len(row["ids"])) for row in rows]),
        "labels": torch.tensor([row["labels"] + [-100] * (width - len(row["labels"])) for row in rows]),
    }


def sum_of_row_means(logits: Tensor, labels: Tensor) -> Tensor:
    """``Σ_i ℓ_i``, each row's loss a mean over its own response tokens."""
    wanted = labels[:, 1:]
    losses = torch.nn.functional.cross_entropy(
        logits[:, :-1].float().flatten(0, 1), wanted.flatten(), reduction="none", ignore_index=-100
    ).view(wanted.shape)
    return (losses.sum(dim=1) / (wanted != -100).sum(dim=1)).sum()


def peak_bytes() -> int:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
