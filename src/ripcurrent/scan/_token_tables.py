"""The table of token shares: its columns, reading it, and a summary of what carries the scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import written_whole

TOKENS_FILE = "tokens.parquet"

TOKEN_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
        ("group", pa.string()),
        ("position", pa.int32()),
        ("token_id", pa.int32()),
        ("part", pa.string()),
        ("text_start", pa.int32()),
        ("text_end", pa.int32()),
        ("kind", pa.string()),
        ("is_prompt", pa.bool_()),
        ("in_loss", pa.bool_()),
        ("share_harmful", pa.float64()),
        ("share_safe", pa.float64()),
    ]
)
"""Columns of ``tokens.parquet``; what each means: ``docs/tokens.md``."""

GROUPS = ("riskiest", "protective")
"""The two ends of the ranking."""

PARTS = ("prompt", "template", "opening", "answer")
"""What a summary tells apart: of a response, its opening and the rest of it."""

KINDS = ("word", "digit", "punctuation", "list_marker", "line_break", "space", "special")
"""Kinds of token, in a summary's order."""

Floats = npt.NDArray[np.float64]


def load_tokens(run_folder: str | Path) -> pa.Table:
    """The token shares of a run, one row per token, by row and position; columns and units in ``docs/tokens.md``.

    Raises:
        RipcurrentError: The run kept none, or the file is damaged.
    """
    path = Path(run_folder) / TOKENS_FILE
    if not path.is_file():
        raise RipcurrentError(
            f"{run_folder} holds no token shares (there is no {TOKENS_FILE}).",
            "Give the scan's command again with --tokens top:100; rows that are scored are not scored again.",
        )
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error


def read_token_record(run_folder: Path) -> dict[str, Any] | None:
    """What ``tokens.parquet`` says of itself, with the summary; None where a run has none.

    Raises:
        RipcurrentError: The file is damaged.
    """
    path = run_folder / TOKENS_FILE
    if not path.is_file():
        return None
    try:
        record: dict[str, Any] = json.loads((pq.read_schema(path).metadata or {})[b"ripcurrent"])
    except (OSError, KeyError, ValueError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error
    return record


def _damaged(path: Path, error: Exception) -> RipcurrentError:
    return RipcurrentError(
        f"{path} is damaged: {str(error).splitlines()[0] if str(error) else type(error).__name__}.",
        "Delete this file and give the scan's command again with its --tokens: nothing is computed anew.",
    )


def write_tokens(run_folder: Path, table: pa.Table, record: Mapping[str, Any]) -> None:
    """Write the table whole, sorted by row and position, with its record in the metadata."""
    ordered = table.sort_by([("row", "ascending"), ("position", "ascending")]).cast(TOKEN_SCHEMA)
    with written_whole(run_folder / TOKENS_FILE) as part:
        described = ordered.replace_schema_metadata({"ripcurrent": json.dumps(record)})
        pq.write_table(described, part, compression="zstd")


def summarise_tokens(
    table: pa.Table, norms: Mapping[int, float], *, safe_sets: int, opening_tokens: int
) -> dict[str, Any]:
    """What carries the scores of each group, by part of the row and by kind of token.

    Shares are divided by the row's gradient norm, so that they add up to its scores, summed over a row's tokens of a
    class and averaged over the group's rows: over all classes they add up to the group's mean ``gradient_harmful``,
    ``gradient_safe`` and ``gradient_bidirectional``.

    Args:
        table: As :func:`write_tokens` takes it, each row's positions together and rising.
        norms: Gradient norm of each row in it.
        safe_sets: K, by which the safe part enters the score.
        opening_tokens: How many of each answer's first tokens are its opening.
    """
    rows = table["row"].to_numpy()
    groups, kinds = _texts(table["group"]), _texts(table["kind"])
    parts = _refined_parts(_texts(table["part"]), rows, opening_tokens)
    scale = np.array([1.0 / norms[int(row)] for row in rows])
    harmful = table["share_harmful"].to_numpy() * scale
    safe = table["share_safe"].to_numpy() * scale
    found: dict[str, Any] = {}
    for group in GROUPS:
        inside = groups == group
        count = len(np.unique(rows[inside]))
        if not count:
            continue

        def measured(members: npt.NDArray[np.bool_], inside: Any = inside, count: int = count) -> dict[str, float]:
            chosen = members & inside
            sums = [float(values[chosen].sum()) / count for values in (harmful, safe)]
            return {
                "tokens": int(chosen.sum()),
                "token_share": float(chosen.sum() / inside.sum()),
                "harmful": sums[0],
                "safe": sums[1],
                "score": sums[0] - safe_sets * sums[1],
            }

        found[group] = {
            "rows": count,
            "all": measured(np.ones(len(rows), dtype=np.bool_)),
            "parts": {part: measured(parts == part) for part in PARTS},
            "kinds": {kind: measured(kinds == kind) for kind in KINDS},
            "kinds_by_part": {
                part: {kind: measured((parts == part) & (kinds == kind)) for kind in KINDS} for part in PARTS
            },
        }
    return found


def _refined_parts(parts: npt.NDArray[Any], rows: npt.NDArray[Any], opening_tokens: int) -> npt.NDArray[Any]:
    """``response`` split into each answer's first tokens and the rest; an answer is a run of response tokens."""
    refined = parts.astype(object)
    before: tuple[Any, Any] = (None, None)
    place = 0
    for index, (part, row) in enumerate(zip(parts.tolist(), rows.tolist(), strict=True)):
        place = place + 1 if (part, row) == before else 0
        before = (part, row)
        if part == "response":
            refined[index] = "opening" if place < opening_tokens else "answer"
    return refined


def _texts(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    values: Sequence[Any] = column.to_pylist()
    return np.array(values, dtype=object)
