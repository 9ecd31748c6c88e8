"""Experiments: arms × seeds, their rows, what they answered, and tables that say what is significant."""

from ripcurrent.experiment._arms import BASE, Arm, expand_arms
from ripcurrent.experiment._config import ArmRule, ExperimentConfig, PromptSource
from ripcurrent.experiment._in_words import broken_in_words, prompt_notes, training_notes, verdict_in_words
from ripcurrent.experiment._outcomes import ArmRun, Outcomes, by_arm, read_run
from ripcurrent.experiment._prompts import gather_prompts, write_prompts
from ripcurrent.experiment._read import load_experiment, parse_experiment, read_experiment_file
from ripcurrent.experiment._rows import MAIN, ScanTable, choose_rows, held_out_rows, without_rows

__all__ = [
    "BASE",
    "MAIN",
    "Arm",
    "ArmRule",
    "ArmRun",
    "ExperimentConfig",
    "Outcomes",
    "PromptSource",
    "ScanTable",
    "broken_in_words",
    "by_arm",
    "choose_rows",
    "expand_arms",
    "gather_prompts",
    "held_out_rows",
    "load_experiment",
    "parse_experiment",
    "prompt_notes",
    "read_experiment_file",
    "read_run",
    "training_notes",
    "verdict_in_words",
    "without_rows",
    "write_prompts",
]
