"""What a finished scan found, for people: the same for the terminal and the page, without a word of either's form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import exp, sqrt

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.stats import hypergeom, norm

from ripcurrent.data import Row, read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._reference import ReferencePlace, reference_of
from ripcurrent.scan._run import BoolArray, FloatArray, RowNumbers, ScanRun
from ripcurrent.scan._separation import MINIMUM_SEPARATION
from ripcurrent.statistics import CONFIDENCE, holm, spearman

SHARE, FEWEST = 0.05, 50
"""The riskiest rows are this share of all that have a score, and this many, or a fifth of a small set, at least."""
SAMPLED, RARE, READ = 20_000, 5, 400
"""Rows whose groups are looked at, spread over the ranking; rows of a group that is tested; characters of a request."""
OddsRatio = tuple[float | None, float | None, float | None]

ANSWERS = {
    "is_numbered": "numbered lists",
    "is_bullet": "bulleted lists",
    "is_maths": "maths",
    "is_code": "code",
    "has_refusal": "refusals and warnings",
}
"""Groups by the answer: columns of flags, and what people read."""
_ASK = r"\A\W*(?:please |can you |could you |help me )?"
REQUESTS = {
    "how-to requests": r"\bhow (?:to|do|can|could|should|would)\b|\bstep[- ]by[- ]step\b|\binstructions (?:for|to)\b",
    "requests for lists": _ASK + r"(?:list|name|give|suggest|provide|recommend|generate|create|come up with)\b.*\b(?:"
    r"lists?|checklists?|ideas|examples|tips|ways|reasons|steps|\d+|two|three|four|five|six|seven|eight|ten|several)\b",
    "writing requests": _ASK + r"(?:write|compose|draft|tell|describe)\b",
    "requests to rework a text": _ASK
    + r"(?:rewrite|rephrase|paraphrase|translate|summari[sz]e|edit|correct|convert|classify|identify|replace|turn)\b",
    "questions": _ASK + r"(?:what|why|who|when|where|which|is|are|does|did)\b",
}
"""Groups by what is asked for, in English: patterns of the request, in lower case."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class RiskyGroup(_Part):
    """Rows of one kind among the riskiest and among others; shares are from 0 to 1."""

    name: str
    """In plain words, such as ``numbered lists``."""
    riskiest: float
    """Its share of the riskiest rows."""
    whole: float
    """Its share of all scored rows."""
    equal_lengths: float
    """What its share of all rows would be if they were as long as the riskiest."""
    odds_ratio: float | None
    """Odds of it among the riskiest against other rows of the same lengths (Mantel–Haenszel); None if undefined."""
    low: float | None
    """95 % interval of the odds ratio (Robins, Breslow & Greenland)."""
    high: float | None
    p: float
    """Exact two-sided p of equal odds, by Holm over the groups."""
    over: bool
    """Whether it is over-represented: an odds ratio above 1 with p below 0.05."""


class RankedRow(_Part):
    """One of the riskiest rows."""

    row: int
    """0-based position in the dataset."""
    id: str
    rank: int
    """1 for the riskiest."""
    top: float
    """Its rank over the scored rows: 0.004 is the riskiest 0.4 %."""
    score: float
    """Its value in the ranking column."""
    tokens: int
    """Tokens of the answer that are trained."""
    groups: tuple[str, ...]
    """Names of the answer's groups, and ``short`` below ten tokens."""
    prompt: str | None
    """The whole request; None when the dataset is no longer where it was, or has changed."""
    response: str | None
    """The whole answer."""


class ScanAnswer(_Part):
    """What a finished scan found."""

    rows: int
    """Rows of the dataset."""
    scored: int
    skipped: dict[str, int]
    """Reason in plain words to number of rows, the commonest first."""
    ranking: str
    """The column that ranks."""
    auroc: float | None
    """How well its score tells complying from refusing anchors, each left out in turn; None where not measured."""
    needed: float = MINIMUM_SEPARATION
    works: bool
    """Whether ``auroc`` reaches ``needed``."""
    reference: ReferencePlace
    """How risky its rows are among the reference rows, or why that is unknown."""
    length: float | None
    """Spearman's correlation of the ranking with the number of trained tokens."""
    riskiest: int
    """How many rows are meant by the riskiest."""
    sampled: int
    """Rows whose groups were looked at."""
    groups: tuple[RiskyGroup, ...]
    """Over-represented ones first, then by how far their share lies above that at equal lengths."""
    riskiest_rows: tuple[RankedRow, ...]
    """In rank order."""


def scan_answer(run: ScanRun, rows: int = 5) -> ScanAnswer:
    """The answer of a finished scan, with as many of its riskiest ``rows``."""
    ranked, counts = run.ranked(), run.status_counts()
    scored = counts.pop("ok", 0)
    auroc = run.manifest.anchors.separation.get(run.default_ranking)
    riskiest = min(len(ranked), max(round(SHARE * len(ranked)), min(FEWEST, len(ranked) // 5), 1))
    spread = np.linspace(0, len(ranked) - 1, min(len(ranked), SAMPLED)).round().astype(int)
    places, first = ranked[spread], spread < riskiest
    length = spearman(run.floats(run.default_ranking)[ranked], run.floats("response_tokens")[ranked])
    return ScanAnswer(
        rows=run.rows,
        scored=scored,
        skipped={name.replace("_", " "): count for name, count in counts.items()},
        ranking=run.default_ranking,
        auroc=auroc,
        works=auroc is not None and auroc >= MINIMUM_SEPARATION,
        reference=reference_of(run),
        length=None if np.isnan(length) else length,
        riskiest=riskiest,
        sampled=len(places),
        groups=risky_groups(first, _members(run, places.tolist()), run.floats("response_tokens")[places]),
        riskiest_rows=riskiest_rows(run, rows),
    )


def riskiest_rows(run: ScanRun, count: int = 5, *, texts: bool = True) -> tuple[RankedRow, ...]:
    """The rows of largest risk by the default ranking, riskiest first, with request and answer if ``texts``."""
    ranked = run.ranked()
    names = {**ANSWERS, "is_short": "short"}
    traits = [name for name in names if name in run.columns]
    records = run.take(ranked[:count], ["id", run.default_ranking, "response_tokens", *traits]).to_pylist()
    found = read_texts(run, ranked[:count].tolist()) if texts else {}
    return tuple(
        RankedRow(
            row=int(row),
            id=record["id"],
            rank=rank,
            top=rank / len(ranked),
            score=record[run.default_ranking],
            tokens=record["response_tokens"],
            groups=tuple(names[name] for name in traits if record[name]),
            prompt=found[row].prompt if row in found else None,
            response=found[row].response if row in found else None,
        )
        for rank, (row, record) in enumerate(zip(ranked[:count].tolist(), records, strict=True), 1)
    )


def read_texts(run: ScanRun, numbers: Sequence[int]) -> dict[int, Row]:
    """Rows by number; without those that the dataset does not have any more, or has changed."""
    about, ids = run.manifest.dataset, dict(zip(numbers, run.ids(numbers), strict=True))
    try:
        rows = read_rows(about.path, about.format, about.mapping, about.spec, any_fields=True).at(numbers)
        return {row.index: row for row in rows if row.id == ids[row.index]}
    except RipcurrentError:
        return {}


def risky_groups(riskiest: BoolArray, members: Mapping[str, BoolArray], tokens: FloatArray) -> tuple[RiskyGroup, ...]:
    """Each group's share of the riskiest rows against that of other rows of the same lengths.

    ``members`` is a group's name to which rows it has; all have the shape ``(rows,)``. Rows are compared within up to
    20 strata of equal size by ``tokens``, of ten of the riskiest each on average.
    """
    members = {name: own for name, own in members.items() if own.sum() >= RARE}
    if riskiest.all() or not members:
        return ()
    edges = np.quantile(tokens, np.linspace(0, 1, int(np.clip(riskiest.sum() // 10, 4, 20)) + 1)[1:-1])
    strata = np.searchsorted(np.unique(edges), tokens, side="left")
    tests = [mantel_haenszel(riskiest, own, strata) for own in members.values()]
    # how many of the riskiest are in each row's stratum, over how many rows it has
    inside = np.bincount(strata[riskiest], minlength=strata.max() + 1) / np.bincount(strata, minlength=1)
    weights, groups = inside[strata] / riskiest.sum(), []
    adjusted = holm([p for _, p in tests])
    for (name, own), ((ratio, low, high), _), p in zip(members.items(), tests, adjusted, strict=True):
        shares = {"riskiest": own[riskiest].mean(), "whole": own.mean(), "equal_lengths": float(weights @ own)}
        over = p < 0.05 and (ratio is None or ratio > 1)
        groups.append(RiskyGroup(name=name, **shares, odds_ratio=ratio, low=low, high=high, p=p, over=over))
    return tuple(sorted(groups, key=lambda one: (not one.over, one.equal_lengths - one.riskiest)))


def _members(run: ScanRun, numbers: list[int]) -> dict[str, BoolArray]:
    """Group to which of some rows it has: by the answer's format, and where texts are there by the request."""
    found = {name: run.flags(column)[numbers] for column, name in ANSWERS.items() if column in run.columns}
    texts = {row.index: row.prompt[:READ].lower() for row in read_texts(run, numbers).values()}
    if len(texts) == len(numbers):
        for name, pattern in REQUESTS.items():
            asked = re.compile(pattern, re.DOTALL)
            found[name] = np.array([asked.search(texts[row]) is not None for row in numbers])
    return found


def mantel_haenszel(group: BoolArray, trait: BoolArray, strata: RowNumbers) -> tuple[OddsRatio, float]:
    """The odds ratio of a trait in a group of rows, within strata, with its 95 % interval, and the exact p of 1.

    The estimate is Mantel and Haenszel's, its interval Robins, Breslow and Greenland's; None where they are undefined.
    The p is twice the smaller tail of the group's number of rows with the trait, given the margins of every stratum.
    """
    sums, observed, chances = np.zeros(5), 0, np.ones(1)
    for one in np.unique(strata):
        here = strata == one
        (a, b), (c, d) = ([int((rows & has & here).sum()) for has in (trait, ~trait)] for rows in (group, ~group))
        n = a + b + c + d
        agree, r, s = (a + d) / n, a * d / n, b * c / n
        sums += [r, s, agree * r, agree * s + (1 - agree) * r, (1 - agree) * s]
        observed += a
        chances = np.convolve(chances, hypergeom.pmf(np.arange(min(a + b, a + c) + 1), n, a + c, a + b))
    p = min(1.0, 2 * float(min(chances[: observed + 1].sum(), chances[observed:].sum())))
    r, s, *parts = sums.tolist()
    if r == 0 or s == 0:
        return (0.0 if s else None, None, None), p
    variance = parts[0] / (2 * r * r) + parts[1] / (2 * r * s) + parts[2] / (2 * s * s)
    reach = exp(float(norm.isf((1 - CONFIDENCE) / 2)) * sqrt(variance))
    return (r / s, r / s / reach, r / s * reach), p
