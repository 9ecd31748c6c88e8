"""Experiments: arms × seeds, their rows, what they answered, and tables that say what is significant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.experiment._arms import BASE, expand_arms
    from ripcurrent.experiment._collect import collect_results
    from ripcurrent.experiment._config import ExperimentConfig
    from ripcurrent.experiment._experiment import KEYS, Experiment
    from ripcurrent.experiment._outcomes import HARMFUL, read_run
    from ripcurrent.experiment._prompts import PromptRecord, gather_prompts
    from ripcurrent.experiment._read import parse_experiment, read_experiment_file, ready_experiments
    from ripcurrent.experiment._results import (
        ArmComparison,
        ArmRates,
        ArmRecord,
        CategoryRate,
        ExperimentManifest,
        ExperimentResults,
        Sweep,
    )

_HOMES = {
    "_arms": ("BASE", "expand_arms"),
    "_collect": ("collect_results",),
    "_config": ("ExperimentConfig",),
    "_experiment": ("KEYS", "Experiment"),
    "_outcomes": ("HARMFUL", "read_run"),
    "_prompts": ("PromptRecord", "gather_prompts"),
    "_read": ("parse_experiment", "read_experiment_file", "ready_experiments"),
    "_results": (
        *("ArmComparison", "ArmRates", "ArmRecord", "CategoryRate", "ExperimentManifest", "ExperimentResults", "Sweep"),
    ),
}

__all__ = [
    "BASE", "HARMFUL", "KEYS", "ArmComparison", "ArmRates", "ArmRecord", "CategoryRate", "Experiment",
    "ExperimentConfig", "ExperimentManifest", "ExperimentResults", "PromptRecord", "Sweep", "collect_results",
    "expand_arms", "gather_prompts", "parse_experiment", "read_experiment_file", "read_run", "ready_experiments",
]  # fmt: skip

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _HOMES)
