"""An experiment's judges: checked before anything is computed; every finished run is judged by all of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import JudgeSettings, find_judges, judge_again, lacks_verdicts
from ripcurrent.experiment._config import ExperimentConfig
from ripcurrent.experiment._results import MARKER
from ripcurrent.experiment._tables import Scoring
from ripcurrent.progress import Progress

JUDGING = ("judges", "judge_endpoint", "judge_model")
"""Keys of an experiment that may change in its folder: answers that are there are judged again."""


def judge_settings(config: ExperimentConfig) -> JudgeSettings:
    """What an experiment's judges that are models need."""
    return JudgeSettings(
        endpoint=config.judge_endpoint,
        model=config.judge_model,
        key_env=config.judge_key_env,
        timeout=config.judge_timeout,
        concurrency=config.judge_concurrency,
        max_tokens=config.judge_max_tokens,
        device=config.device,
    )


def judges_of(config: ExperimentConfig) -> tuple[tuple[str, ...], Scoring]:
    """The names that an experiment's judges give to their verdicts, in order; and how those with scores are read."""
    try:
        judges = find_judges(config.judges, judge_settings(config))
    except RipcurrentError as error:
        hint = "Give judge_endpoint, judge_model and, where the key is elsewhere, judge_key_env in the file."
        hint = hint if "--judge" in error.hint else error.hint
        raise RipcurrentError(f"judges: {error.message}", hint, code=error.code) from error
    # a rubric's score is of harm, and what has little of it need not be a refusal
    scoring = {
        one.name: (one.scale[1], one.describe().get("reply") != "score") for one in judges if one.scale is not None
    }
    return tuple(one.name for one in judges), scoring


def judge_alike(folder: Path, config: ExperimentConfig, progress: Progress) -> None:
    """Judge answers of finished runs that lack the verdicts of a judge, or have another version's of it.

    So are answers that a judge's endpoint failed on. Answers are kept and models are not: nothing is trained or asked
    again.
    """
    judges = find_judges(config.judges, replace(judge_settings(config), on_judged=progress.rows))
    for marker in sorted((folder / "arms").glob(f"*/{MARKER}")):
        place = marker.parent / "evaluation"
        # without one, its training failed
        lacking = [judge for judge in judges if lacks_verdicts(place, judge)] if place.is_dir() else []
        if lacking:
            progress.step(f"{marker.parent.name}: judging by {', '.join(judge.name for judge in lacking)}")
            judge_again(place, lacking, progress)
