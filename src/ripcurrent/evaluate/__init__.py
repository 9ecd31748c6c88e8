"""What a model answers and what that is worth: prompt sets, answers, judges, people's ratings."""

from typing import TYPE_CHECKING

from ripcurrent.evaluate._address import without_secrets
from ripcurrent.evaluate._agree import PeopleResult, agree
from ripcurrent.evaluate._comparison import ALPHA, Comparison, Finding, compare_arms, difference_interval, in_words
from ripcurrent.evaluate._evaluate import DEFAULT_JUDGES, EvaluateOptions, evaluate
from ripcurrent.evaluate._prompts import AXES, Axis, Prompt, PromptSet, load_prompts, unmeasured_axes
from ripcurrent.evaluate._rates import AxisRate, bounds, judgement, notes_on_lists, summarise_scores
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
from ripcurrent.evaluate._responses import Response, lacks_verdicts, read_responses
from ripcurrent.evaluate._run import EvaluationManifest, EvaluationRun, judge_again
from ripcurrent.evaluate._validate import (
    RULES,
    Agreement,
    JudgeValidation,
    MeasuredAgreement,
    agreement_of,
    kappas_of,
    measured_agreement,
    validate_judges,
)
from ripcurrent.evaluate.judges import (
    JUDGES,
    UNJUDGED,
    Answer,
    Judge,
    JudgeSettings,
    Verdict,
    find_judge,
    find_judges,
)

if TYPE_CHECKING:
    from ripcurrent.evaluate._batches import in_batches
    from ripcurrent.evaluate._decode import decode_greedily, read_prefix
    from ripcurrent.evaluate._generate import answer_locally

__all__ = [
    "ALPHA", "AXES", "CANNOT_SAY", "DEFAULT_JUDGES", "GUIDANCE", "JUDGES", "RUBRIC_VERSION", "RULES", "SCALE",
    "UNJUDGED", "Agreement", "Answer", "Axis", "AxisRate", "Comparison", "EvaluateOptions", "EvaluationManifest",
    "EvaluationRun", "Finding", "Judge", "JudgeSettings", "JudgeValidation", "MeasuredAgreement", "PeopleResult",
    "Prompt", "PromptSet", "RatingDraw", "RatingItem", "RatingKey", "Response", "Verdict", "agree",
    "agreement_of", "answer_locally", "bounds", "compare_arms", "decode_greedily", "difference_interval",
    "draw_ratings", "evaluate", "find_judge", "find_judges", "in_batches", "in_words", "judge_again", "judgement",
    "kappas_of", "lacks_verdicts", "load_prompts", "measured_agreement", "notes_on_lists", "read_prefix",
    "read_responses", "summarise_scores", "unmeasured_axes", "validate_judges", "without_secrets",
]  # fmt: skip

_HEAVY = dict(answer_locally="_generate", decode_greedily="_decode", in_batches="_batches", read_prefix="_decode")
"""Names whose modules load PyTorch: looked up when they are used."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HEAVY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HEAVY[name]}"), name)
