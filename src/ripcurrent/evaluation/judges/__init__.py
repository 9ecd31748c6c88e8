"""Judges: each says of an answer whether it refuses; they stand side by side and are never averaged."""

from __future__ import annotations

import difflib

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluation.judges._degenerate import degeneration
from ripcurrent.evaluation.judges._keyword import KEYWORD, KEYWORDS
from ripcurrent.evaluation.judges._prefix import PREFIX, opening
from ripcurrent.evaluation.judges._rule import RuleJudge
from ripcurrent.evaluation.judges._text import strip_thoughts
from ripcurrent.evaluation.judges._types import LABELS, Answer, Judge, Label, Verdict

JUDGES: tuple[Judge, ...] = (KEYWORD, PREFIX)
"""The judges that need nothing but the answer, in the order of tables."""

__all__ = [
    "JUDGES",
    "KEYWORD",
    "KEYWORDS",
    "LABELS",
    "PREFIX",
    "Answer",
    "Judge",
    "Label",
    "RuleJudge",
    "Verdict",
    "degeneration",
    "find_judge",
    "opening",
    "strip_thoughts",
]


def find_judge(name: str) -> Judge:
    """The judge of that name; raises `RipcurrentError` with the nearest one."""
    names = [judge.name for judge in JUDGES]
    for judge in JUDGES:
        if judge.name == name:
            return judge
    near = difflib.get_close_matches(name, names, n=1)
    raise RipcurrentError(
        f"No judge is named {name!r}.{f' Did you mean {near[0]!r}?' if near else ''}", f"Judges: {', '.join(names)}"
    )
