"""What a model answers and what that is worth: prompt sets, answers, judges, people's ratings."""

from typing import TYPE_CHECKING

from ripcurrent.lazy import lazily

if TYPE_CHECKING:
    from ripcurrent.evaluate._agree import PeopleResult, agree
    from ripcurrent.evaluate._batches import in_batches
    from ripcurrent.evaluate._decode import decode_greedily, read_prefix
    from ripcurrent.evaluate._endpoint import without_secrets
    from ripcurrent.evaluate._evaluate import DEFAULT_JUDGES, evaluate
    from ripcurrent.evaluate._generate import answer_locally
    from ripcurrent.evaluate._options import AXES, Axis, EvaluateOptions
    from ripcurrent.evaluate._prompts import Prompt, load_prompts, unmeasured_axes
    from ripcurrent.evaluate._rates import AxisRate, notes_on_lists, summarise_scores
    from ripcurrent.evaluate._ratings import (
        CANNOT_SAY,
        GUIDANCE,
        RUBRIC_VERSION,
        SCALE,
        RatingDraw,
        RatingItem,
        RatingKey,
        draw_ratings,
    )
    from ripcurrent.evaluate._responses import Response, lacks_verdicts
    from ripcurrent.evaluate._run import EvaluationRun, judge_again
    from ripcurrent.evaluate._validate import (
        JudgeValidation,
        MeasuredAgreement,
        kappas_of,
        measured_agreement,
        validate_judges,
    )
    from ripcurrent.evaluate.judges import JUDGES, Answer, Judge, JudgeSettings, Verdict, find_judge, find_judges

__all__ = [
    "AXES", "CANNOT_SAY", "DEFAULT_JUDGES", "GUIDANCE", "JUDGES", "RUBRIC_VERSION", "SCALE", "Answer", "Axis",
    "AxisRate", "EvaluateOptions", "EvaluationRun", "Judge", "JudgeSettings", "JudgeValidation", "MeasuredAgreement",
    "PeopleResult", "Prompt", "RatingDraw", "RatingItem", "RatingKey", "Response", "Verdict", "agree",
    "answer_locally", "decode_greedily", "draw_ratings", "evaluate", "find_judge", "find_judges", "in_batches",
    "judge_again", "kappas_of", "lacks_verdicts", "load_prompts", "measured_agreement", "notes_on_lists",
    "read_prefix", "summarise_scores", "unmeasured_axes", "validate_judges", "without_secrets",
]  # fmt: skip

_HOMES = {
    "_agree": ("PeopleResult", "agree"),
    "_batches": ("in_batches",),
    "_decode": ("decode_greedily", "read_prefix"),
    "_endpoint": ("without_secrets",),
    "_evaluate": ("DEFAULT_JUDGES", "evaluate"),
    "_generate": ("answer_locally",),
    "_options": ("AXES", "Axis", "EvaluateOptions"),
    "_prompts": ("Prompt", "load_prompts", "unmeasured_axes"),
    "_rates": ("AxisRate", "notes_on_lists", "summarise_scores"),
    "_ratings": (
        *("CANNOT_SAY", "GUIDANCE", "RUBRIC_VERSION", "SCALE"),
        *("RatingDraw", "RatingItem", "RatingKey", "draw_ratings"),
    ),
    "_responses": ("Response", "lacks_verdicts"),
    "_run": ("EvaluationRun", "judge_again"),
    "_validate": (
        "JudgeValidation", "MeasuredAgreement", "kappas_of", "measured_agreement", "validate_judges",
    ),
    "judges": ("JUDGES", "Answer", "Judge", "JudgeSettings", "Verdict", "find_judge", "find_judges"),
}  # fmt: skip

# hidden from type checkers, which would otherwise let every misspelt name pass
if not TYPE_CHECKING:
    __getattr__ = lazily(__name__, _HOMES)
