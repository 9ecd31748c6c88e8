"""An experiment's judges: every finished run is judged by all of them, also by one that came later."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ripcurrent.evaluate import find_judges, judge_again, lacks_verdicts
from ripcurrent.experiment import ExperimentConfig
from ripcurrent.experiment._experiment_arms import MARKER
from ripcurrent.experiment._experiment_options import judge_settings
from ripcurrent.progress import Progress

JUDGING = ("judges", "judge_endpoint", "judge_model")
"""Keys of an experiment that may change in its folder: answers that are there are judged anew."""


def judge_alike(folder: Path, config: ExperimentConfig, told: Progress) -> None:
    """Judge answers of runs finished by now that lack the verdicts of a judge, or have another version's of it.

    So are answers that a judge's endpoint failed on; what it replied to others is kept. Answers are kept and models
    are not, so nothing is trained or asked again.

    Raises:
        RipcurrentError: Answers that cannot be read, or a judge's endpoint that fails; what is done is kept.
    """
    judges = find_judges(config.judges, replace(judge_settings(config), on_judged=told.rows))
    for marker in sorted((folder / "arms").glob(f"*/{MARKER}")):
        place = marker.parent / "evaluation"
        if not place.is_dir():
            # its training failed
            continue
        lacking = [judge for judge in judges if lacks_verdicts(place, judge)]
        if lacking:
            told.step(f"{marker.parent.name}: judging by {', '.join(judge.name for judge in lacking)}")
            judge_again(place, lacking, told)
