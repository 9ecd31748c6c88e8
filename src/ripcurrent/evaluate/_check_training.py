"""The training that a check makes of rows: how long it takes, and its runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ripcurrent.data import TokenOptions
from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import FinetuneOptions, Recipe, finetune, load_recipe
from ripcurrent.progress import Progress

if TYPE_CHECKING:
    from ripcurrent.evaluate._options import CheckOptions
    from ripcurrent.models import ChatModel

PROBED = 512
"""Tokens of the forward pass that is timed."""
PASSES = 3.0
"""A training step takes about as long as so many forward passes; with recomputed activations one more."""


@dataclass(frozen=True, slots=True)
class Training:
    """Rows that the base model is trained on, and how."""

    dataset: str | Path
    model: str
    recipe: Recipe
    reading: TokenOptions

    @classmethod
    def of(cls, dataset: str | Path, model: str, reading: TokenOptions, options: CheckOptions) -> Training:
        """The training that options name; RipcurrentError without a recipe, or for a base that is not here."""
        if options.recipe is None:
            hint = "Add --recipe lora, paper, embedded or a YAML file: what your training does."
            raise RipcurrentError("Rows are to be trained, and no recipe says how.", hint)
        if options.base_endpoint or options.endpoint:
            raise RipcurrentError("An endpoint cannot be trained.", "Leave it out: the base is loaded here.")
        return cls(dataset, model, load_recipe(options.recipe), reading)

    def options(self, check: CheckOptions, seed: int) -> FinetuneOptions:
        """Those of one run."""
        of_run = {"model": self.model, "device": check.device, "dtype": check.dtype, "seed": seed}
        return FinetuneOptions.resolve(None, self.reading.model_dump(exclude_unset=True) | of_run)

    def measure(self, base: str | ChatModel, check: CheckOptions, progress: Progress) -> str:
        """Tell how long the runs take and what memory their weights need, from one timed forward pass; a note."""
        import torch

        from ripcurrent.data import encode_rows

        if isinstance(base, str):
            raise RipcurrentError("An endpoint cannot be trained.", "Leave it out: the base is loaded here.")
        rows = self.options(check, 0).open(self.dataset)
        encoded = encode_rows(rows, base.tokenizer, max_tokens=self.reading.max_tokens, trained=self.reading.trained)
        trained = [one.tokens for one in encoded if one.status == "ok"]
        if not trained:
            hint = "`ripcurrent doctor FILE --trainer NAME` shows why."
            raise RipcurrentError(f"No row of {self.dataset} can be trained.", hint)
        lengths = [len(tokens) for tokens in trained]
        ids = torch.tensor(max(trained, key=len)[None, :PROBED], dtype=torch.long, device=base.device)
        with torch.inference_mode():
            base.model(ids)
            began = time.perf_counter()
            base.model(ids)
            seconds = (time.perf_counter() - began) / ids.shape[1]
        passes = self.recipe.steps and self.recipe.steps * self.recipe.batch / len(lengths)
        tokens = sum(lengths) * (passes or self.recipe.epochs or 1)
        hours = check.runs * tokens * seconds * (PASSES + self.recipe.gradient_checkpointing) / 3600
        parameters = sum(one.numel() for one in base.model.parameters())
        # trained weights, gradients and AdamW's two moments are float32; frozen weights keep their type
        size = parameters * (16 if self.recipe.method == "full" else base.dtype.itemsize) / 1e9
        took = f"{60 * hours:.0f} min" if hours < 2 else f"{hours:.1f} h"
        needs = f"about {took}, predicted from one forward pass, and {size:.1f} GB for weights, besides activations"
        note = f"{check.runs} training{'s' * (check.runs > 1)} of {len(lengths)} rows: {needs}"
        progress.step(note)
        return f"{note}."

    def run(self, check: CheckOptions, folder: Path, progress: Progress) -> Iterator[tuple[str, str | None, Path]]:
        """Train each run where that is not done: its model, its adapter if that is what came of it, its folder."""
        for number in range(1, check.runs + 1):
            place = folder / f"run-{number}"
            trained = finetune(
                self.dataset, place / "finetune", self.recipe, self.options(check, number - 1), progress=progress
            )
            adapter = str(trained.result) if trained.kind == "adapter" else None
            yield self.model if adapter else str(trained.result), adapter, place / "evaluation"
