"""From the signals of a document's windows to those of the document, and where the windows' own are kept.

A document's loss is the mean over all its loss-bearing tokens, so its gradient is ``G = Σ_w p_w g_w`` with ``p_w`` the
window's share of these tokens. Dots with a direction and losses add up the same way, exactly. The norm of ``G`` would
need every pair of windows at once; what is kept is ``Σ_w p_w ‖g_w‖``, which is never smaller and equal where windows
pull the same way. So a document's cosine is the mean of its windows' cosines weighted by ``p_w ‖g_w‖``: never further
from zero than that of ``G``, and not larger for being longer. Representation cosines are averaged by ``p_w``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ripcurrent.data import EncodedRow, window_starts

WINDOW_PREFIX = "window_"
"""Before the name of a column that lists a document's windows' values."""

Columns = dict[str, npt.NDArray[Any]]


def document_columns(columns: Mapping[str, npt.NDArray[Any]], pieces: Sequence[Sequence[EncodedRow]]) -> Columns:
    """Documents' columns from those of all their windows in order; NaN where a window has none."""
    combined: Columns = {
        name: np.full((len(pieces), *values.shape[1:]), np.nan, dtype=values.dtype) for name, values in columns.items()
    }
    start = 0
    for place, windows in enumerate(pieces):
        stop = start + len(windows)
        tokens = np.asarray([window.response_tokens for window in windows], dtype=np.float64)
        if tokens.sum() > 0:
            share = tokens / tokens.sum()
            for name, values in columns.items():
                combined[name][place] = _combined(name, values[start:stop], share)
        start = stop
    return combined


def _combined(name: str, values: npt.NDArray[Any], share: npt.NDArray[np.float64]) -> Any:
    if name == "squared_norm":
        return (share @ np.sqrt(values)) ** 2
    if name == "loss_first_10":
        return values[0] if np.isfinite(values).all() else np.nan
    return share @ values


def document_row(windows: Sequence[EncodedRow]) -> EncodedRow:
    """The document's counts: all loss-bearing tokens, and the tokens before the first of them."""
    first = windows[0]
    return first if len(windows) == 1 else replace(first, response_tokens=sum(w.response_tokens for w in windows))


def window_columns(
    columns: Mapping[str, npt.NDArray[Any]],
    pieces: Sequence[Sequence[EncodedRow]],
    batches: Sequence[int | None],
    statuses: Sequence[str],
) -> dict[str, pa.Array]:
    """Columns that list each document's windows: tokens, first token, batch, and every signal; null without scores."""
    bounds = np.cumsum([0, *(len(windows) for windows in pieces)])
    scored = [status == "ok" for status in statuses]

    def listed(values: Sequence[Any] | npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
        spans = zip(bounds, bounds[1:], scored, strict=False)
        return pa.array([list(values[a:b]) if fine else None for a, b, fine in spans], pa.list_(kind))

    flat = [window for windows in pieces for window in windows]
    starts = [start for windows in pieces for start in window_starts(windows)]
    arrays = {
        "tokens": listed([window.response_tokens for window in flat], pa.int64()),
        "first_token": listed(starts, pa.int64()),
        "batch": listed(batches, pa.int32()),
    }
    for name, values in columns.items():
        arrays[name] = listed(values, pa.float64() if values.ndim == 1 else pa.list_(pa.float32()))
    return {WINDOW_PREFIX + name: array for name, array in arrays.items()}
