"""Experiments: arms × seeds, their rows, what they answered, and tables that say what is significant."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.experiment._arms import BASE, expand_arms
    from ripcurrent.experiment._collect import collect_results
    from ripcurrent.experiment._config import ExperimentConfig
    from ripcurrent.experiment._experiment import KEYS, Experiment, run_experiment
    from ripcurrent.experiment._heldout import heldout_loss
    from ripcurrent.experiment._outcomes import HARMFUL, ArmRun, read_run
    from ripcurrent.experiment._prompts import PromptRecord, gather_prompts
    from ripcurrent.experiment._read import load_experiment, parse_experiment, read_experiment_file, ready_experiments
    from ripcurrent.experiment._results import (
        ArmComparison,
        ArmRates,
        ArmRecord,
        ArmRows,
        CategoryRate,
        ExperimentManifest,
        ExperimentResults,
        Sweep,
    )

_HOMES = {
    "_arms": ("BASE", "expand_arms"),
    "_collect": ("collect_results",),
    "_config": ("ExperimentConfig",),
    "_experiment": ("KEYS", "Experiment", "run_experiment"),
    "_heldout": ("heldout_loss",),
    "_outcomes": ("HARMFUL", "ArmRun", "read_run"),
    "_prompts": ("PromptRecord", "gather_prompts"),
    "_read": ("load_experiment", "parse_experiment", "read_experiment_file", "ready_experiments"),
    "_results": (
        *("ArmComparison", "ArmRates", "ArmRecord", "ArmRows", "CategoryRate"),
        *("ExperimentManifest", "ExperimentResults", "Sweep"),
    ),
}

__all__ = [
    "BASE", "HARMFUL", "KEYS", "ArmComparison", "ArmRates", "ArmRecord", "ArmRows", "ArmRun", "CategoryRate",
    "Experiment", "ExperimentConfig", "ExperimentManifest", "ExperimentResults", "PromptRecord", "Sweep",
    "collect_results", "expand_arms", "gather_prompts", "heldout_loss", "load_experiment", "parse_experiment",
    "read_experiment_file", "read_run", "ready_experiments", "run_experiment",
]  # fmt: skip

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _HOMES)
