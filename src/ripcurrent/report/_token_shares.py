"""Token shares of the shown rows, packed for the page: which characters of a text carry how much of its score."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.report._row_texts import Clip
from ripcurrent.scan._scan_run import BATCH_ROWS, Floats, Indices, ScanRun

TOKEN_BUDGET = 350_000
"""Tokens of all shown rows together that the page colours, at eight bytes each."""

PARTS = ("prompt", "template", "response")
"""Parts of a row, in the order of a row's sums."""

LEVELS = 2047
"""A row's largest share in whole numbers: what two characters hold."""

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

_COLUMNS = ("row", "part", "text_start", "text_end", "share_harmful", "share_safe")


@dataclass(frozen=True, slots=True)
class PageShares:
    """What the page holds of a run's token shares."""

    rows: int
    """How many of the shown rows have them."""
    safe_sets: int
    """K, by which the safe part enters the bidirectional score."""
    data: Sequence[Mapping[str, Any] | None]
    """For each shown row what the script reads, None without shares; the shares add up to the row's scores."""


def read_page_shares(
    run: ScanRun, indices: Indices, norms: Sequence[float | None], texts: Mapping[int, tuple[Clip, Clip]]
) -> PageShares | None:
    """Shares of the shown rows, divided by the row's gradient norm; None where the run kept none.

    Args:
        run: The run.
        indices: Positions of the shown rows, ascending.
        norms: Gradient norm of each.
        texts: Prompt and response of a row as the page shows them, by its position.

    Raises:
        RipcurrentError: ``tokens.parquet`` is damaged.
    """
    path = run.folder / "tokens.parquet"
    if not path.is_file():
        return None
    by_row: dict[int, list[pa.RecordBatch]] = {}
    try:
        with pq.ParquetFile(path) as table:
            record = json.loads((table.schema_arrow.metadata or {})[b"ripcurrent"])
            for batch in table.iter_batches(batch_size=BATCH_ROWS, columns=list(_COLUMNS)):
                numbers = batch.column("row").to_numpy()
                for row in np.intersect1d(numbers, indices).tolist():
                    first, last = np.searchsorted(numbers, [row, row + 1])
                    by_row.setdefault(row, []).append(batch.slice(first, last - first))
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise RipcurrentError(
            f"{path} is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
            "Delete this file and give the scan's command again with its --tokens: nothing is computed anew.",
        ) from error
    limit = TOKEN_BUDGET // max(1, len(by_row))
    data = [
        _pack(pa.Table.from_batches(by_row[row]), norm, texts.get(row), limit) if row in by_row and norm else None
        for row, norm in zip(indices.tolist(), norms, strict=True)
    ]
    return PageShares(sum(entry is not None for entry in data), int(record["safe_sets"]), data)


def _pack(table: pa.Table, norm: float, texts: tuple[Clip, Clip] | None, limit: int) -> dict[str, Any]:
    """One row: sums of its parts, and the shown characters of its texts with the shares of the tokens in them.

    A shown text is shorter than the 4,096 characters that two characters can count.
    """
    parts = np.array(table["part"].to_pylist(), dtype=object)
    shares = np.stack([table[f"share_{side}"].to_numpy() for side in ("harmful", "safe")]) / norm
    packed: dict[str, Any] = {
        "sums": [[float(f"{value:.6g}") for value in shares[:, parts == part].sum(axis=1)] for part in PARTS]
    }
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
    held = sum(values.sum(axis=1) for _, values in segments.values())
    if cut:
        packed["beyond"] = [float(f"{value:.6g}") for value in shares[:, parts != "template"].sum(axis=1) - held]
    largest = max((float(np.abs(values).max(initial=0.0)) for _, values in segments.values()), default=0.0)
    packed["unit"] = float(f"{(largest or 1.0) / LEVELS:.6g}")
    for part, (lengths, values) in segments.items():
        levels = np.clip(np.rint(values / packed["unit"]), -LEVELS, LEVELS).astype(int) + LEVELS + 1
        packed[part] = "".join(
            _two(length) + _two(harmful) + _two(safe)
            for length, harmful, safe in zip(lengths, *levels.tolist(), strict=True)
        )
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


def _two(value: int) -> str:
    """A whole number from 0 to 4,095 in two characters."""
    return ALPHABET[value >> 6] + ALPHABET[value & 63]
