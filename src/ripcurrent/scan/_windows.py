"""Windows that long documents are cut into: from their signals to the document's, and their own scores.

A document's loss is the mean over all its loss-bearing tokens, so its gradient is ``G = Σ_w p_w g_w`` with ``p_w`` the
window's share of these tokens. Dots with a direction and losses add up the same way, exactly. In place of the norm of
``G``, which needs every pair of windows at once, is ``Σ_w p_w ‖g_w‖``: never smaller, and equal where windows pull the
same way. So a document's cosine is never further from zero than that of ``G``, and not larger for being longer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from ripcurrent.data import EncodedRow, window_starts

PREFIX = "window_"
"""Before the name of a signal that lists a document's windows."""
LARGEST_OF = ("gradient_bidirectional", "gradient_balanced", "representation_bidirectional")
"""Scores whose largest window is kept beside the document's, with ``_window_max`` after their name."""

SignalColumns = dict[str, npt.NDArray[Any]]
"""Signal to its values, shape ``(rows,)`` or ``(rows, anchors)``."""


def document_columns(columns: SignalColumns, pieces: Sequence[Sequence[EncodedRow]]) -> SignalColumns:
    """Documents' columns from those of all their windows in order; NaN where a window has none."""
    combined: SignalColumns = {
        name: np.full((len(pieces), *values.shape[1:]), np.nan, dtype=values.dtype) for name, values in columns.items()
    }
    bounds = np.cumsum([0, *map(len, pieces)])
    for place, windows in enumerate(pieces):
        tokens = np.asarray([window.response_tokens for window in windows], dtype=np.float64)
        if tokens.sum() > 0:
            for name, values in columns.items():
                own = values[bounds[place] : bounds[place + 1]]
                combined[name][place] = _combined(name, own, tokens / tokens.sum())
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

    arrays = {
        "tokens": listed([window.response_tokens for windows in pieces for window in windows], pa.int64()),
        "first_token": listed([start for windows in pieces for start in window_starts(windows)], pa.int64()),
        "batch": listed(batches, pa.int32()),
    }
    for name, values in columns.items():
        arrays[name] = listed(values, pa.float64() if values.ndim == 1 else pa.list_(pa.float32()))
    return {PREFIX + name: array for name, array in arrays.items()}


def window_signals(signals: pa.Table) -> pa.Table:
    """A shard's windows as rows, in order, with the signals that documents have; ``id`` is ``document#window``."""
    names = [name for name in signals.column_names if name.startswith(PREFIX)]
    document = pc.list_parent_indices(signals[f"{PREFIX}tokens"].combine_chunks()).to_numpy()
    number = np.arange(len(document)) - np.searchsorted(document, document, side="left")
    flat = {name.removeprefix(PREFIX): _flat(signals[name].combine_chunks(), document) for name in names}
    of_document = signals.select(["row", "id"]).combine_chunks().take(pa.array(document))
    ids = [f"{own}#{window}" for own, window in zip(of_document["id"].to_pylist(), number.tolist(), strict=True)]
    return pa.table(
        {
            "row": of_document["row"],
            "id": pa.array(ids, pa.string()),
            "window": pa.array(number, pa.int64()),
            "status": pa.array(["ok"] * len(ids), pa.string()),
            "response_tokens": flat["tokens"],
            **flat,
        }
    )


def _flat(lists: pa.Array, document: npt.NDArray[np.int64]) -> pa.Array:
    """One value per window; null for the windows of a document that has no list here."""
    present = lists.is_valid().to_numpy(zero_copy_only=False)[document]
    return pc.list_flatten(lists).take(pa.array(np.cumsum(present) - 1, mask=~present))


def largest_windows(signals: pa.Table, windows: pa.Table) -> dict[str, pa.Array]:
    """For each document of a shard its number of windows and its largest scores; null and NaN without any."""
    arrays = {"windows": pc.list_value_length(signals[f"{PREFIX}tokens"])}
    place = np.searchsorted(signals["row"].to_numpy(), windows["row"].to_numpy())
    for name in LARGEST_OF:
        signal = "representation_cosines" if name.startswith("representation") else "dot_harmful"
        if f"{PREFIX}{signal}" not in signals.column_names:
            continue
        largest = np.full(signals.num_rows, -np.inf)
        # a window without the score takes no part
        np.fmax.at(largest, place, windows[name].cast(pa.float64()).to_numpy())
        arrays[f"{name}_window_max"] = pa.array(np.where(np.isneginf(largest), np.nan, largest), pa.float64())
    return arrays
