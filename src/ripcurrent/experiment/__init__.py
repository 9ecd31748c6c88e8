"""Experiments: arms × seeds, their rows, what they answered, and tables that say what is significant."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ripcurrent.experiment._arms import BASE, MAIN, Arm, expand_arms
from ripcurrent.experiment._config import ArmRule, ExperimentConfig, PromptSource
from ripcurrent.experiment._prompts import gather_prompts
from ripcurrent.experiment._read import load_experiment, parse_experiment, read_experiment_file, ready_experiments
from ripcurrent.experiment._results import ArmComparison, ArmRates, ArmRecord, ExperimentResults, Sweep

if TYPE_CHECKING:
    from ripcurrent.experiment._experiment import KEYS, Experiment, run_experiment
    from ripcurrent.experiment._heldout import heldout_loss
    from ripcurrent.experiment._outcomes import HARMFUL, ArmRun, read_run
    from ripcurrent.experiment._scans import DEMO

_LATER = {
    "DEMO": "_scans",
    "HARMFUL": "_outcomes",
    "KEYS": "_experiment",
    "ArmRun": "_outcomes",
    "Experiment": "_experiment",
    "heldout_loss": "_heldout",
    "read_run": "_outcomes",
    "run_experiment": "_experiment",
}
"""Names whose modules are loaded when they are first used."""

__all__ = [
    "BASE",
    "DEMO",
    "HARMFUL",
    "KEYS",
    "MAIN",
    "Arm",
    "ArmComparison",
    "ArmRates",
    "ArmRecord",
    "ArmRule",
    "ArmRun",
    "Experiment",
    "ExperimentConfig",
    "ExperimentResults",
    "PromptSource",
    "Sweep",
    "expand_arms",
    "gather_prompts",
    "heldout_loss",
    "load_experiment",
    "parse_experiment",
    "read_experiment_file",
    "read_run",
    "ready_experiments",
    "run_experiment",
]

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)
