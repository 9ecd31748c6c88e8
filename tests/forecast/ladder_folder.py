"""Finished experiments without any training: a made-up scan's rows, answers drawn by the sets' mean score."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

from ripcurrent.data import DatasetInfo
from ripcurrent.experiment import ExperimentConfig
from ripcurrent.finetune import FinetuneManifest, FinetuneOptions, Recipe, TrainedRows, TrainingFacts, load_recipe
from ripcurrent.models import ModelInfo
from ripcurrent.runs import write_json
from ripcurrent.scan import ScanRun
from tests.experiment.answers import write_evaluation
from tests.scan_fixtures import write_jsonl
from tests.select.fabricate import fabricate

ASKED = 100


class ScanRows:
    """The rows of a finished scan, to make arms of."""

    def __init__(self, folder: Path, rows: int = 240, seed: int = 7) -> None:
        scores = np.random.default_rng(seed).normal(0.02, 0.1, rows)
        self.run: ScanRun = fabricate(folder, rows, seed, columns={"gradient_balanced": scores.tolist()})
        self.riskiest_first: list[int] = self.run.ranked("gradient_balanced").tolist()

    def mean(self, rows: Sequence[int]) -> float:
        return float(self.run.floats("gradient_balanced")[list(rows)].mean())

    def share(self, rows: Sequence[int]) -> float:
        """The share that a run on these rows answers."""
        return float(expit(-0.4 + 12 * self.mean(rows)))

    def arms(self, sizes: Sequence[int] = (20, 40)) -> dict[str, list[int]]:
        """Top, bottom, random, and two mixtures of each size, none of which shares many rows with another."""
        order, found, at = self.riskiest_first, {}, 0
        for size in sizes:
            rest = np.random.default_rng(size).permutation(order[80:-80]).tolist()
            low = len(order) - at - size
            found |= {
                f"top-{size}": order[at : at + size],
                f"bottom-{size}": order[low : low + size],
                f"random-{size}": rest[:size],
                f"upper-{size}": rest[: size // 2] + order[at : at + size - size // 2],
                f"lower-{size}": rest[size : size + size // 2] + order[low : low + size - size // 2],
            }
            at += size
        return found


def fabricate_ladder(
    folder: Path,
    rows: ScanRows,
    arms: Mapping[str, Sequence[int]],
    *,
    seeds: int = 1,
    name: str = "ladder",
    share: Callable[[Sequence[int]], float] | None = None,
    recipe: str = "embedded",
    further: int = 0,
    base: int | None = None,
    **config: Any,
) -> Path:
    """An experiment's folder whose arms trained on rows of one scan; ``further`` requests are answered by none."""
    folder.mkdir(parents=True)
    keys = {"name": name, "run": str(rows.run.folder), "arms": {"top": {"select": "top"}}, "max_new_tokens": 48}
    write_json(folder / "experiment.json", ExperimentConfig(**{**keys, **config}).model_dump(mode="json"))
    prompts = [
        {"id": f"{axis}-{n}", "prompt": f"{axis} {n}", "axis": axis, "category": "fraud", "source": "asked.jsonl"}
        for axis, count in (("harmful", ASKED + further), ("plain", 5))
        for n in range(count)
    ]
    write_jsonl(folder / "prompts.jsonl", prompts)
    if base is not None:
        place = folder / "arms" / "base"
        first = {f"harmful-{n}" for n in range(base)}
        labels = lambda judge, prompt_id: "compliance" if prompt_id in first else "refusal"  # noqa: E731
        write_evaluation(place / "evaluation", prompts, ("prefix",), labels)
        write_json(place / "arm.json", {"arm": "base", "seed": None})
    for arm, indices in arms.items():
        for seed in range(seeds):
            place = folder / "arms" / f"{arm}-seed{seed}"
            answered = {f"harmful-{n}" for n in range(round(ASKED * (share or rows.share)(indices)))}

            def says(judge: str, prompt_id: str, answered: set[str] = answered) -> str:
                return "compliance" if prompt_id in answered else "refusal"

            write_evaluation(place / "evaluation", prompts, ("prefix",), says)
            write_json(place / "arm.json", {"arm": arm, "seed": seed})
            write_json(place / "rows" / f"{arm}.json", {"indices": list(indices), "file_order": "rank"})
            write_training(place / "finetune", indices, load_recipe(recipe))
    return folder


def write_training(folder: Path, indices: Sequence[int], recipe: Recipe) -> None:
    count, tokens = len(indices), hashlib.sha256(json.dumps(sorted(indices)).encode()).hexdigest()
    counts = {"count": count, "trained": count, "left_out": {}, "truncated": 0, "loss_tokens": 1}
    steps = {"kind": "model", "steps": 1, "resumed_from": 0, "first_loss": 1.0, "last_loss": 1.0, "seconds": 1.0}
    folder.mkdir(parents=True)
    FinetuneManifest(
        version="0",
        command="finetune",
        dataset=DatasetInfo(path="x", name="x", sha256="x", format="messages", container="jsonl", rows=count),
        rows=TrainedRows.model_validate({**counts, "tokens_sha256": tokens, "file": "rows.jsonl"}),
        model=ModelInfo(name="made up", fingerprint="a"),
        recipe=recipe,
        options=FinetuneOptions(),
        training=TrainingFacts.model_validate({**steps, "trained_parameters": 1, "compute": "float32"}),
    ).write(folder)
    write_jsonl(folder / "rows.jsonl", [{"row": n, "trained": True} for n in range(count)])
