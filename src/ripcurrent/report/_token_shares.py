"""Token shares of the shown rows, packed for the page: which characters of a text carry how much of its score."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ripcurrent.report._page import Data
from ripcurrent.report._rows import Clip, Texts
from ripcurrent.report._summary import Floats, Indices
from ripcurrent.scan import ScanRun, load_tokens

TOKEN_BUDGET = 250_000
"""Tokens of all shown rows together that the page colours, at about ten bytes each."""

PARTS = ("prompt", "template", "response")
"""Parts of a row, in the order of a row's sums."""

LEVELS = 999
"""A row's largest share in whole numbers."""


def read_page_shares(run: ScanRun, indices: Indices, norms: Sequence[float | None], texts: Texts) -> Data | None:
    """What the script reads of the shown rows' shares, which add up to a row's scores; None where the run kept none.

    Args:
        run: The run.
        indices: Numbers of the shown rows, ascending.
        norms: Gradient norm of each.
        texts: Prompt and response of a row as the page shows them, by its number.

    Raises:
        RipcurrentError: ``tokens.parquet`` is damaged.
    """
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
    packed: Data = {"sums": [_short(shares[:, parts == part].sum(axis=1)) for part in PARTS]}
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
        packed["beyond"] = _short(shares[:, parts != "template"].sum(axis=1) - held)
    largest = max(float(np.abs(values).max(initial=0.0)) for _, values in segments.values())
    packed["unit"] = float(f"{(largest or 1.0) / LEVELS:.6g}")
    for part, (lengths, values) in segments.items():
        levels = np.clip(np.rint(values / packed["unit"]), -LEVELS, LEVELS).astype(int)
        packed[part] = np.column_stack([lengths, *levels]).ravel().tolist()
    return packed


def _segments(spans: Any, shares: Floats, tokens: Indices, shown: int, limit: int) -> tuple[list[int], Floats, bool]:
    """Lengths in characters that follow one another from a text's beginning, and shares of shape ``(2, segments)``.

    Characters of no token have none. A token within characters that an earlier one holds, such as the second half of
    an emoji, adds to that one. A token beyond the shown text, or beyond the limit, is left out: then the last is False.
    """
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


def _short(values: Floats) -> list[float]:
    return [float(f"{value:.6g}") for value in values]
