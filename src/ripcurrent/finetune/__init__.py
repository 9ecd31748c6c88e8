"""Recipes and fine-tuning on exactly the tokens that are scored.

Recipes are light; :func:`train` and what it needs import torch, transformers and TRL when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from ripcurrent.finetune._recipe import RECIPES, Recipe, as_trained, load_recipe, parse_recipe

if TYPE_CHECKING:
    from ripcurrent.finetune._model import ResultKind, compute_dtype, load_for_training, result_kind
    from ripcurrent.finetune._rows import TrainingSet, build_training_set
    from ripcurrent.finetune._train import LOSSES, TrainingRecord, forget_checkpoints, train

__all__ = [
    "LOSSES",
    "RECIPES",
    "Recipe",
    "ResultKind",
    "TrainingRecord",
    "TrainingSet",
    "as_trained",
    "build_training_set",
    "compute_dtype",
    "forget_checkpoints",
    "load_for_training",
    "load_recipe",
    "parse_recipe",
    "result_kind",
    "train",
]

_HOMES = {
    "LOSSES": "_train",
    "ResultKind": "_model",
    "TrainingRecord": "_train",
    "TrainingSet": "_rows",
    "build_training_set": "_rows",
    "compute_dtype": "_model",
    "forget_checkpoints": "_train",
    "load_for_training": "_model",
    "result_kind": "_model",
    "train": "_train",
}

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
