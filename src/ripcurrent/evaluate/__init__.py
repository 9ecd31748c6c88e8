"""What a model answers and what that is worth: prompt sets, answers, judges, people's ratings."""

from typing import TYPE_CHECKING

from ripcurrent.evaluate._address import without_secrets
from ripcurrent.evaluate._agree import PeopleResult, agree
from ripcurrent.evaluate._comparison import ALPHA, Comparison, Finding, compare_arms, difference_interval, in_words
from ripcurrent.evaluate._evaluate import DEFAULT_JUDGES, EvaluationResult, evaluate, load_evaluation
from ripcurrent.evaluate._judge_agreement import MeasuredAgreement, agreement_of, kappas_of, measured_agreement
from ripcurrent.evaluate._judgement import bounds, judgement
from ripcurrent.evaluate._judges import RULES, validate_judges
from ripcurrent.evaluate._judging import judge_again
from ripcurrent.evaluate._prompt_notes import notes_on_lists, unmeasured_axes
from ripcurrent.evaluate._prompts import AXES, Axis, Prompt, PromptSet, load_prompts
from ripcurrent.evaluate._published import PUBLISHED, PublishedList
from ripcurrent.evaluate._rate import RatingPage, rate
from ripcurrent.evaluate._ratings import CANNOT_SAY, GUIDANCE, RUBRIC_VERSION, SCALE
from ripcurrent.evaluate._responses import Response, lacks_verdicts, read_responses
from ripcurrent.evaluate._scores import ScoreSummary, summarise_scores
from ripcurrent.evaluate._validate import Agreement, JudgeValidation, read_labelled, validate
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
    "ALPHA",
    "AXES",
    "CANNOT_SAY",
    "DEFAULT_JUDGES",
    "GUIDANCE",
    "JUDGES",
    "PUBLISHED",
    "RUBRIC_VERSION",
    "RULES",
    "SCALE",
    "UNJUDGED",
    "Agreement",
    "Answer",
    "Axis",
    "Comparison",
    "EvaluationResult",
    "Finding",
    "Judge",
    "JudgeSettings",
    "JudgeValidation",
    "MeasuredAgreement",
    "PeopleResult",
    "Prompt",
    "PromptSet",
    "PublishedList",
    "RatingPage",
    "Response",
    "ScoreSummary",
    "Verdict",
    "agree",
    "agreement_of",
    "answer_locally",
    "bounds",
    "compare_arms",
    "decode_greedily",
    "difference_interval",
    "evaluate",
    "find_judge",
    "find_judges",
    "in_batches",
    "in_words",
    "judge_again",
    "judgement",
    "kappas_of",
    "lacks_verdicts",
    "load_evaluation",
    "load_prompts",
    "measured_agreement",
    "notes_on_lists",
    "rate",
    "read_labelled",
    "read_prefix",
    "read_responses",
    "summarise_scores",
    "unmeasured_axes",
    "validate",
    "validate_judges",
    "without_secrets",
]

_HEAVY = {
    "answer_locally": "ripcurrent.evaluate._generate",
    "decode_greedily": "ripcurrent.evaluate._decode",
    "in_batches": "ripcurrent.evaluate._batches",
    "read_prefix": "ripcurrent.evaluate._decode",
}
"""Names whose modules load PyTorch, or that tests replace: looked up when they are used."""

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name not in _HEAVY:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(_HEAVY[name]), name)
