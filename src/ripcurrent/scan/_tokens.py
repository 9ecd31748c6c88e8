"""The second pass of a scan, over chosen rows only: which positions carry their scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ripcurrent.data import Dataset, Row, encode, token_places
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import Directions, in_memory, make_batch
from ripcurrent.progress import Progress
from ripcurrent.runs import written_whole
from ripcurrent.scan._options import parse_token_choice
from ripcurrent.scan._run import ScanRun

if TYPE_CHECKING:
    from ripcurrent.scan._passes import ScanPasses
    from ripcurrent.scan._prepared_anchors import PreparedAnchors

TOKENS_FILE = "tokens.parquet"
ROW_SCHEMA = pa.schema(
    [
        ("row", pa.int64()),
        ("id", pa.string()),
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
TOKEN_SCHEMA = ROW_SCHEMA.insert(2, pa.field("group", pa.string()))
"""Columns of ``tokens.parquet``; what each means: ``docs/scan.md``. A row's shares do not depend on its group."""


def add_token_shares(
    run: ScanRun, rows: Dataset, passes: ScanPasses, anchors: PreparedAnchors, progress: Progress
) -> None:
    """Compute the shares that ``--tokens`` asks for and that are not there, and write ``tokens.parquet``.

    Each row goes through the model alone into a file of its own, which later calls use again, also for other rows.
    """
    path, asked = run.folder / TOKENS_FILE, passes.options.tokens
    if asked is not None:
        groups = dict(sorted(_chosen_rows(run, asked).items()))
        files = {row: run.folder / "tokens" / f"row-{row:08d}.parquet" for row in groups}
        missing = [row for row, file in files.items() if not file.exists()]
        progress.start("computing the token shares", len(files))
        progress.skipped(len(files) - len(missing))
        if missing:
            # where the scan's stage has them: in memory, or in files of the run folder
            directions = passes.directions(anchors, run.folder if passes.memory_plan.mapped_directions else None)
            assert directions is not None
            for row in rows.at(missing):
                with in_memory(f"The token shares of row {row.index}"):
                    shares = _shares(row, passes, directions)
                with written_whole(files[row.index]) as part:
                    pq.write_table(shares, part, compression="zstd")
                progress.rows(1)
        progress.finish()
        table = pa.concat_tables([_read(file) for file in files.values()])
        named = pa.array([groups[row] for row in table["row"].to_pylist()], pa.string())
        table = table.add_column(TOKEN_SCHEMA.get_field_index("group"), "group", named)
        record = {
            "asked": asked,
            "ranking": run.default_ranking,
            "rows": {group: list(groups.values()).count(group) for group in sorted(set(groups.values()))},
            "safe_sets": len(anchors.anchor_set.safe_sets),
            "largest_difference": _largest_difference(table, run),
        }
        with written_whole(path) as part:
            described = table.replace_schema_metadata({"ripcurrent": json.dumps(record)})
            pq.write_table(described, part, compression="zstd")
    elif path.is_file():
        record = json.loads(_read(path, pq.read_schema).metadata[b"ripcurrent"])
    else:
        return
    run.manifest = run.manifest.model_copy(update={"tokens": record})
    run.manifest.write(run.folder)


def _chosen_rows(run: ScanRun, asked: str) -> dict[int, str]:
    """Row number to its end of the default ranking."""
    ranked = run.ranked().tolist()
    top, bottom = parse_token_choice(asked)
    if top + bottom > len(ranked):
        # no row at both ends: each gets its half, or what the other leaves
        top = min(top, max(len(ranked) - bottom, (len(ranked) + 1) // 2))
        bottom = len(ranked) - top
    protective = ranked[len(ranked) - bottom :]
    return dict.fromkeys(protective, "protective") | dict.fromkeys(ranked[:top], "riskiest")


def _shares(row: Row, passes: ScanPasses, directions: Directions) -> pa.Table:
    options, chat_model = passes.options, passes.chat_model
    encoded = encode(row, chat_model.tokenizer, max_tokens=options.max_tokens, trained=options.trained)
    batch = make_batch([encoded], chat_model.device, row_tokens=options.row_tokens)
    places = token_places(row, encoded, chat_model.tokenizer)
    count = len(encoded.tokens)  # a batch may be wider
    assert passes.gradient_pass is not None
    shares = passes.gradient_pass.token_shares(batch, directions)[0, :count]
    columns = {
        "row": np.full(count, row.index),
        "id": [row.id] * count,
        "position": np.arange(count),
        "token_id": encoded.tokens,
        "part": [place.part for place in places],
        "text_start": [place.start for place in places],
        "text_end": [place.end for place in places],
        "kind": [place.kind for place in places],
        "is_prompt": ~encoded.loss_mask,
        "in_loss": batch.loss_mask[0, :count].cpu().numpy(),
        "share_harmful": shares[:, 0],
        "share_safe": shares[:, 1],
    }
    return pa.table(columns, ROW_SCHEMA)


def _largest_difference(table: pa.Table, run: ScanRun) -> float:
    """How far a row's shares are from adding up to its cosines, at most: rounding alone."""
    sums = table.group_by("row").aggregate([("share_harmful", "sum"), ("share_safe", "sum")])
    rows = sums["row"].to_numpy()
    norms = run.floats("gradient_norm")[rows]
    cosines = {side: sums[f"share_{side}_sum"].to_numpy() / norms for side in ("harmful", "safe")}
    return float(max(np.abs(found - run.floats(f"gradient_{side}")[rows]).max() for side, found in cosines.items()))


def load_tokens(run_folder: str | Path, rows: Sequence[int] | None = None) -> pa.Table:
    """The token shares of a run, or of those of its ``rows``: one line per token, by row and position.

    ``docs/scan.md`` has columns and units. Raises `RipcurrentError` where the run kept none, or the file is damaged.
    """
    path = Path(run_folder) / TOKENS_FILE
    if not path.is_file():
        raise RipcurrentError(
            f"{run_folder} holds no token shares (there is no {TOKENS_FILE}).",
            "Give the scan's command again with --tokens top:100; rows that are scored are not scored again.",
        )
    return _read(path, filters=None if rows is None else pc.field("row").isin(list(rows)))


def _read(path: Path, read: Callable[..., Any] = pq.read_table, **which: Any) -> Any:
    try:
        return read(path, **which)
    except (OSError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RipcurrentError(
            f"{path} is damaged: {reason}.",
            "Delete it and give the scan's command again with its --tokens: no row is scored again.",
        ) from error
