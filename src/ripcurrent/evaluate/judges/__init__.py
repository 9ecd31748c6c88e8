"""Judges: each says of an answer whether it refuses; they stand side by side and are never averaged."""

from ripcurrent.evaluate.judges._find import JUDGES, JudgeSettings, find_judge, find_judges
from ripcurrent.evaluate.judges._rubric import BUILTIN_RUBRICS, UNREADABLE, Rubric, read_reply, read_rubric
from ripcurrent.evaluate.judges._rules import KEYWORD, KEYWORDS, PREFIX, opening
from ripcurrent.evaluate.judges._types import LABELS, UNJUDGED, Answer, Facts, Judge, Label, Verdict, degeneration
from ripcurrent.evaluate.judges._wording import WORDING, features, wording_judge

__all__ = [
    "BUILTIN_RUBRICS", "JUDGES", "KEYWORD", "KEYWORDS", "LABELS", "PREFIX", "UNJUDGED", "UNREADABLE", "WORDING",
    "Answer", "Facts", "Judge", "JudgeSettings", "Label", "Rubric", "Verdict", "degeneration", "features",
    "find_judge", "find_judges", "opening", "read_reply", "read_rubric", "wording_judge",
]  # fmt: skip
