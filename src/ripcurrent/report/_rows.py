"""The rows that a scan's page holds in full: which ones, their texts and token shares."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ripcurrent.errors import RipcurrentError
from ripcurrent.report._page import Data
from ripcurrent.scan import ScanRun, load_tokens

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
