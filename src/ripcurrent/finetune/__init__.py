"""Recipes and fine-tuning on exactly the tokens that are scored.

Options and recipes are light; the rest imports torch, transformers and TRL when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.finetune._finetune import finetune
    from ripcurrent.finetune._model import compute_dtype, load_for_training
    from ripcurrent.finetune._options import FinetuneOptions
    from ripcurrent.finetune._recipe import RECIPES, Recipe, as_trained, load_recipe, parse_recipe
    from ripcurrent.finetune._rows import TrainingSet, build_training_set
    from ripcurrent.finetune._run import FinetuneManifest, FinetuneRun, TrainedRows, TrainingFacts
    from ripcurrent.finetune._train import TrainingRecord, forget_checkpoints, train

__all__ = [
    "RECIPES",
    "FinetuneManifest",
    "FinetuneOptions",
    "FinetuneRun",
    "Recipe",
    "TrainedRows",
    "TrainingFacts",
    "TrainingRecord",
    "TrainingSet",
    "as_trained",
    "build_training_set",
    "compute_dtype",
    "finetune",
    "forget_checkpoints",
    "load_for_training",
    "load_recipe",
    "parse_recipe",
    "train",
]

_HOMES = {
    "_finetune": ("finetune",),
    "_model": ("compute_dtype", "load_for_training"),
    "_options": ("FinetuneOptions",),
    "_recipe": ("RECIPES", "Recipe", "as_trained", "load_recipe", "parse_recipe"),
    "_rows": ("TrainingSet", "build_training_set"),
    "_run": ("FinetuneManifest", "FinetuneRun", "TrainedRows", "TrainingFacts"),
    "_train": ("TrainingRecord", "forget_checkpoints", "train"),
}

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _HOMES)
