"""What a model answers and what that is worth: prompt sets, generation, judges, statistics."""

from ripcurrent.evaluate._comparison import Comparison, Finding, compare_arms
from ripcurrent.evaluate._prompts import AXES, Axis, Prompt, PromptSet, load_prompts
from ripcurrent.evaluate._published import PUBLISHED, PublishedList
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
from ripcurrent.statistics import (
    Discrimination,
    Flips,
    Interval,
    Trend,
    bootstrap_rate,
    discrimination,
    mcnemar,
    trend_test,
    wilson_interval,
)

__all__ = [
    "AXES",
    "JUDGES",
    "PUBLISHED",
    "UNJUDGED",
    "Agreement",
    "Answer",
    "Axis",
    "Comparison",
    "Discrimination",
    "Finding",
    "Flips",
    "Interval",
    "Judge",
    "JudgeSettings",
    "JudgeValidation",
    "Prompt",
    "PromptSet",
    "PublishedList",
    "ScoreSummary",
    "Trend",
    "Verdict",
    "bootstrap_rate",
    "compare_arms",
    "discrimination",
    "find_judge",
    "find_judges",
    "load_prompts",
    "mcnemar",
    "read_labelled",
    "summarise_scores",
    "trend_test",
    "validate",
    "wilson_interval",
]
