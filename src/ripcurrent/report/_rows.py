"""What a scan's page says of rows: of all together, and of those that it holds in full with texts and shares."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ripcurrent.errors import RipcurrentError
from ripcurrent.report._page import Data
from ripcurrent.scan import ScanRun, load_tokens
from ripcurrent.statistics import spearman

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

WHOLE_TABLE_ROWS = 1_500
END_GROUP_ROWS = 500
SAMPLE_ROWS = 300
UNSCORED_ROWS = 200
SAMPLE_SEED = 0
TEXT_BUDGET_BYTES = 1_300_000
ROW_BUDGET_BYTES = 2_400
TOKEN_BUDGET = 250_000
"""Tokens of all shown rows together that the page colours, at about ten bytes each."""
PARTS = ("prompt", "template", "response")
"""Parts of a row, in the order of a row's sums."""
LEVELS = 999
"""A row's largest share in whole numbers."""


class ShownRows(NamedTuple):
    """The rows that the page holds, in input order."""

    indices: Indices
    """Their numbers, ascending."""
    groups: tuple[str, ...]
    """Why each is there: ``riskiest``, ``safest``, ``sample``, ``unscored``; ``all`` where every row is."""
    ranks: tuple[int | None, ...]
    """1-based rank of each among the rows that the ranking has, riskiest first; None for others."""
    whole: bool
    """Whether every row of the table is shown."""


class Clip(NamedTuple):
    """The head of a text, and the length of the whole in characters."""

    text: str
    characters: int


Texts = Mapping[int, tuple[Clip, Clip]]
"""Prompt and response of a row, by its number."""


def choose_shown_rows(ranked: Indices, scored: Bools) -> ShownRows:
    """The rows for the page: all of a small table; of a large one both ends, a sample and unscored rows."""
    rank = np.zeros(len(scored), dtype=np.int64)
    rank[ranked] = np.arange(1, len(ranked) + 1)
    if len(scored) <= WHOLE_TABLE_ROWS:
        chosen = dict.fromkeys(range(len(scored)), "all")
    else:
        end = min(END_GROUP_ROWS, len(ranked) // 2)
        riskiest, safest = ranked[:end].tolist(), ranked[len(ranked) - end :].tolist()
        middle = np.concatenate([ranked[end : len(ranked) - end], np.flatnonzero(scored & (rank == 0))])
        sample = np.random.default_rng(SAMPLE_SEED).choice(middle, min(SAMPLE_ROWS, len(middle)), replace=False)
        chosen = dict.fromkeys(np.flatnonzero(~scored)[:UNSCORED_ROWS].tolist(), "unscored")
        chosen |= dict.fromkeys(sample.tolist(), "sample")
        chosen |= dict.fromkeys(safest, "safest") | dict.fromkeys(riskiest, "riskiest")
    indices = sorted(chosen)
    return ShownRows(
        np.array(indices, dtype=np.int64),
        tuple(chosen[index] for index in indices),
        tuple(int(rank[index]) or None for index in indices),
        len(indices) == len(scored),
    )


def read_row_texts(run: ScanRun, indices: Indices) -> tuple[Texts, str]:
    """Prompt and response of the rows, clipped so that the page stays small, and why there are none."""
    budget = min(ROW_BUDGET_BYTES, TEXT_BUDGET_BYTES // max(1, len(indices)))
    texts: dict[int, tuple[Clip, Clip]] = {}
    try:
        for row in run.dataset().at(indices.tolist()):
            prompt = clip_text(row.prompt, budget // 3)
            texts[row.index] = prompt, clip_text(row.response, budget - _cost(prompt.text))
    except RipcurrentError as error:
        return {}, f"Rows are shown by number and id, without their text. {error.message}"
    return texts, ""


def clip_text(text: str, budget: int) -> Clip:
    """The head of a text that takes at most ``budget`` bytes in the page; what is not valid Unicode becomes ``?``."""
    head = text[:budget].encode("utf-8", "replace").decode()
    while (cost := _cost(head)) > budget:
        head = head[: min(len(head) - 1, len(head) * budget // cost)]
    return Clip(head, len(text))


def _cost(text: str) -> int:
    escaped = json.dumps(text, ensure_ascii=False)
    return len(escaped.encode()) - 2 + 5 * escaped.count("<")


def read_page_shares(run: ScanRun, indices: Indices, norms: Sequence[float | None], texts: Texts) -> Data | None:
    """What the script reads of the shown rows' shares, which add up to a row's scores; None where the run kept none."""
    if run.manifest.tokens is None:
        return None
    table = load_tokens(run.folder, indices.tolist())
    rows, starts = np.unique(table["row"].to_numpy(), return_index=True)
    by_row = dict(zip(rows.tolist(), zip(starts, [*starts[1:], len(table)], strict=True), strict=True))
    limit = TOKEN_BUDGET // max(1, len(by_row))
    packed: list[Data | None] = []
    for row, norm in zip(indices.tolist(), norms, strict=True):
        start, stop = by_row.get(row, (0, 0))
        own = table.slice(start, stop - start)
        packed.append(_pack(own, norm, texts.get(row), limit) if stop and norm else None)
    return {"safe_sets": run.manifest.tokens["safe_sets"], "rows": packed}


def _pack(table: pa.Table, norm: float, texts: tuple[Clip, Clip] | None, limit: int) -> Data:
    """One row: sums of its parts; for each shown text length, harmful and safe share of its stretches, in ``unit``."""
    parts = np.array(table["part"].to_pylist(), dtype=object)
    shares = np.stack([table[f"share_{side}"].to_numpy() for side in ("harmful", "safe")]) / norm
    packed: Data = {"sums": [_digits(shares[:, parts == part].sum(axis=1)) for part in PARTS]}
    if texts is None:
        return packed
    segments: dict[str, tuple[list[int], Floats]] = {}
    cut = False
    spans = np.stack([table[f"text_{end}"].to_numpy() for end in ("start", "end")])
    for part, clip in zip(("prompt", "response"), texts, strict=True):
        lengths, values, all_taken = _segments(spans, shares, np.flatnonzero(parts == part), len(clip.text), limit)
        segments[part] = (lengths, values)
        cut |= not all_taken
        limit -= len(lengths)
    if cut:
        held = sum(values.sum(axis=1) for _, values in segments.values())
        packed["beyond"] = _digits(shares[:, parts != "template"].sum(axis=1) - held)
    largest = max(float(np.abs(values).max(initial=0.0)) for _, values in segments.values())
    packed["unit"] = float(f"{(largest or 1.0) / LEVELS:.6g}")
    for part, (lengths, values) in segments.items():
        levels = np.clip(np.rint(values / packed["unit"]), -LEVELS, LEVELS).astype(int)
        packed[part] = np.column_stack([lengths, *levels]).ravel().tolist()
    return packed


def _segments(spans: Any, shares: Floats, tokens: Indices, shown: int, limit: int) -> tuple[list[int], Floats, bool]:
    """Lengths in characters from a text's beginning on, their shares, and whether all tokens were taken."""
    lengths: list[int] = []
    values: list[Any] = []
    at, all_taken = 0, True
    for index in tokens.tolist():
        start, end = max(int(spans[0, index]), at), min(int(spans[1, index]), shown)
        if start >= shown or len(lengths) >= limit - 1:
            all_taken = False
            break
        if end <= start:
            if values:
                values[-1] = values[-1] + shares[:, index]
            continue
        if start > at:
            lengths.append(start - at)
            values.append(np.zeros(2))
        lengths.append(end - start)
        values.append(shares[:, index])
        at = end
    return lengths, np.array(values).T if values else np.zeros((2, 0)), all_taken


def _digits(values: Floats) -> list[float]:
    return [float(f"{value:.6g}") for value in values]


QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
END_ROWS = 100
BINS = 44
LENGTH_BANDS = 14


@dataclass(frozen=True, slots=True)
class ScoreSummary:
    """One score over all rows."""

    name: str
    direction: str
    """Which end is riskier: ``higher`` or ``lower``."""
    scored: int
    """Rows that have it."""
    quantiles: tuple[float, ...]
    """At ``QUANTILES``, exact."""
    correlation: float | None
    """Spearman's, with ``response_tokens``; None where it is undefined."""
    ends: int
    """How many rows ``riskiest`` and ``safest`` mean here: 100, or half of the rows if those are fewer."""
    cuts: tuple[float, float, float]
    """Score of the last of the safest rows, the median, score of the last of the riskiest."""
    bins: Data
    """Its histogram."""
    bands: Sequence[Data]
    """The score by response length."""
    shares: Sequence[Data]
    """Share of rows with each format trait, 0 to 1: riskiest, safest, all that have the score."""


def summarise_score(
    name: str, direction: str, values: Floats, ranked: Indices, lengths: Floats, traits: Mapping[str, Bools]
) -> ScoreSummary:
    """Sum up one score that at least one row has: its ``values`` (NaN without), the rows ``ranked``, riskiest first."""
    ends = max(1, min(END_ROWS, len(ranked) // 2))
    groups = {"riskiest": ranked[:ends], "safest": ranked[len(ranked) - ends :], "all": ranked}
    quantiles = tuple(np.quantile(values[ranked], QUANTILES).tolist())
    correlation = spearman(values, lengths)
    return ScoreSummary(
        name=name,
        direction=direction,
        scored=len(ranked),
        quantiles=quantiles,
        correlation=None if math.isnan(correlation) else correlation,
        ends=ends,
        cuts=(values[groups["safest"][0]].item(), quantiles[3], values[groups["riskiest"][-1]].item()),
        bins=histogram(values[ranked]),
        bands=length_bands(values, lengths),
        shares=[
            {"trait": trait, **{name: float(has[rows].mean()) for name, rows in groups.items()}}
            for trait, has in traits.items()
        ],
    )


def histogram(values: Floats) -> Data:
    """Edges of equal bins over the range, or its middle 99 % where a few rows would squeeze the rest, and counts."""
    low, inner_low, inner_high, high = np.quantile(values, [0.0, 0.005, 0.995, 1.0])
    if high - low > 3 * (inner_high - inner_low) > 0:
        low, high = inner_low, inner_high
    if low == high:
        margin = abs(low) * 0.05 or 0.5
        low, high = low - margin, high + margin
    counts, edges = np.histogram(np.clip(values, low, high), bins=np.linspace(low, high, BINS + 1))
    beyond = int(((values < low) | (values > high)).sum())
    return {"edges": edges.tolist(), "counts": counts.tolist(), "beyond": beyond}


def length_bands(values: Floats, lengths: Floats) -> list[Data]:
    """Median and middle 80 % of a score in stretches of length that are equal on a log scale, five rows at least."""
    usable = np.isfinite(values) & (lengths >= 1)
    values, logs = values[usable], np.log(lengths[usable])
    if len(values) == 0 or np.ptp(logs) == 0:
        return []
    edges = np.linspace(logs.min(), logs.max(), LENGTH_BANDS + 1)
    stretch = np.clip(np.digitize(logs, edges) - 1, 0, LENGTH_BANDS - 1)
    bands: list[Data] = []
    segment = 0
    for place in range(LENGTH_BANDS):
        inside = values[stretch == place]
        if len(inside) < 5:
            segment += 1
            continue
        low, median, high = np.quantile(inside, [0.1, 0.5, 0.9]).tolist()
        middle = math.exp((edges[place] + edges[place + 1]) / 2)
        bands.append(
            {"length": middle, "low": low, "median": median, "high": high, "rows": len(inside), "segment": segment}
        )
    return bands
