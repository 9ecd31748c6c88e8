"""Recipes and fine-tuning on exactly the tokens that are scored.

Options and recipes are light; the rest imports torch, transformers and TRL when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.finetune._finetune import finetune
    from ripcurrent.finetune._model import compute_dtype
    from ripcurrent.finetune._options import FinetuneOptions
    from ripcurrent.finetune._recipe import Recipe, as_trained, load_recipe
    from ripcurrent.finetune._run import FinetuneManifest, FinetuneRun, TrainedRows, TrainingFacts

__all__ = [
    "FinetuneManifest",
    "FinetuneOptions",
    "FinetuneRun",
    "Recipe",
    "TrainedRows",
    "TrainingFacts",
    "as_trained",
    "compute_dtype",
    "finetune",
    "load_recipe",
]

_HOMES = {
    "_finetune": ("finetune",),
    "_model": ("compute_dtype",),
    "_options": ("FinetuneOptions",),
    "_recipe": ("Recipe", "as_trained", "load_recipe"),
    "_run": ("FinetuneManifest", "FinetuneRun", "TrainedRows", "TrainingFacts"),
}

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _HOMES)
