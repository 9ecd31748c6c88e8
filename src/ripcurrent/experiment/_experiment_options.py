"""What an experiment hands on to fine-tuning and to its judges, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Iterable

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import JudgeSettings, find_judges, without_secrets
from ripcurrent.experiment import ExperimentConfig
from ripcurrent.experiment._arms import missing_name
from ripcurrent.experiment._outcomes import Scoring
from ripcurrent.finetune import FinetuneOptions, Recipe
from ripcurrent.finetune._model import compute_dtype

FINETUNE = ("max_tokens", "loss_on")
"""Options of ``finetune`` that an experiment may give; the others follow from its own keys."""


def check_finetune(config: ExperimentConfig) -> None:
    """Refuse options of ``finetune`` that are not possible.

    Raises:
        RipcurrentError: An unknown option, one that another key of the experiment decides, or a value that is not
            possible.
    """
    for name in config.finetune:
        if name not in FINETUNE:
            own = {"seed": "an arm's training_seed", "limit": "size"}
            if name in FinetuneOptions.model_fields:
                raise RipcurrentError(
                    f"finetune: {name} is decided by {own.get(name, name)} of the experiment.",
                    f"Leave it out; possible here: {', '.join(FINETUNE)}.",
                )
            raise missing_name("finetune: there is no option", name, FINETUNE, "Options")
    try:
        FinetuneOptions.resolve(None, dict(config.finetune))
    except RipcurrentError as error:
        raise RipcurrentError(f"finetune: {error.message}", error.hint) from error


def check_training(config: ExperimentConfig, recipes: Iterable[Recipe]) -> None:
    """Refuse a device or type that arms cannot be trained with, before anything is scanned.

    Raises:
        RipcurrentError: It is one.
    """
    for recipe in recipes:
        compute_dtype(recipe, config.device, config.dtype)


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


def without_secrets_of(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment as its folder keeps it: name and password of an endpoint are no part of that."""
    if config.judge_endpoint is None:
        return config
    return config.model_copy(update={"judge_endpoint": without_secrets(config.judge_endpoint)})


def judge_scoring(config: ExperimentConfig) -> dict[str, Scoring | None]:
    """By the name that each of an experiment's judges gives to its verdicts, in order: how its scores are read.

    Raises:
        RipcurrentError: A judge that there is not, or that lacks its endpoint or key.
    """
    try:
        found = find_judges(config.judges, judge_settings(config))
    except RipcurrentError as error:
        hint = "Give judge_endpoint, judge_model and, where the key is elsewhere, judge_key_env in the file."
        said = hint if "--judge" in error.hint else error.hint
        raise RipcurrentError(f"judges: {error.message}", said, code=error.code) from error
    # a rubric's score is of harm, and what has little of it need not be a refusal
    harm = {judge.name for judge in found if judge.describe().get("reply") == "score"}
    return {
        judge.name: None if judge.scale is None else Scoring(judge.scale[1], judge.name not in harm) for judge in found
    }
