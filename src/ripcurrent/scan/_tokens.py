"""The second pass of a scan, over chosen rows only: which positions carry their scores."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import JsonValue

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
SHARD_ROWS = 16
"""Rows per file of finished shares: what an interruption can cost."""

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
"""Columns of ``tokens.parquet``; what each means: ``docs/scan.md``."""
SHARD_SCHEMA = TOKEN_SCHEMA.remove(TOKEN_SCHEMA.get_field_index("group"))
"""A row's shares do not depend on the end of the ranking that it is at."""


def add_token_shares(
    run: ScanRun, rows: Dataset, passes: ScanPasses, anchors: PreparedAnchors, progress: Progress
) -> None:
    """Compute the shares that ``--tokens`` asks for and that are not there, and write ``tokens.parquet``.

    Rows go through the model one by one, so that a row's shares depend on nothing else; those that an earlier call
    finished, also for another choice of rows, are used again. The manifest keeps which rows have shares.
    """
    if passes.options.tokens is None:
        record = read_token_record(run.folder)
    else:
        groups, folder = _chosen_rows(run, passes.options.tokens), run.folder / "tokens"
        _compute_missing(folder, list(groups), rows, passes, anchors, progress)
        table, at_end = _collected(_finished(folder), groups), list(groups.values())
        record = {
            "asked": passes.options.tokens,
            "ranking": run.default_ranking,
            "rows": {group: at_end.count(group) for group in dict.fromkeys(at_end)},
            "safe_sets": len(anchors.anchor_set.safe_sets),
            "largest_difference": _largest_difference(table, run),
        }
        write_tokens(run.folder, table, record)
    if record is not None:
        run.manifest = run.manifest.model_copy(update={"tokens": record})
        run.manifest.write(run.folder)


def _compute_missing(
    folder: Path, chosen: list[int], rows: Dataset, passes: ScanPasses, anchors: PreparedAnchors, progress: Progress
) -> None:
    """Write the shares of chosen rows that no shard has yet, a few rows in each new shard."""
    missing = sorted(set(chosen) - set(_finished(folder)))
    progress.start("token shares", len(chosen))
    progress.skipped(len(chosen) - len(missing))
    if missing:
        # where the scan's stage has them: in memory, or in files of the run folder
        mapped_in = folder.parent if passes.memory_plan.mapped_directions else None
        held = passes.directions(anchors.both_directions(), mapped_in)
        assert held is not None
        parts: list[pa.Table] = []
        for row in rows.at(missing):
            with in_memory(f"The token shares of row {row.index}"):
                parts.append(_shares(row, passes, held))
            if len(parts) == SHARD_ROWS or row.index == missing[-1]:
                number = 1 + max((int(path.stem[-5:]) for path in folder.glob("shard-*.parquet")), default=-1)
                with written_whole(folder / f"shard-{number:05d}.parquet") as part:
                    pq.write_table(pa.concat_tables(parts), part, compression="zstd")
                parts = []
            progress.rows(1)
    progress.finish()


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
    encoded = encode(row, chat_model.tokenizer, max_tokens=options.max_tokens, loss_on=options.loss_on)
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
    return pa.table({name: pa.array(values, SHARD_SCHEMA.field(name).type) for name, values in columns.items()})


def _finished(folder: Path) -> dict[int, Path]:
    """Row number to the file that holds its shares."""
    finished: dict[int, Path] = {}
    for path in sorted(folder.glob("shard-*.parquet")):
        finished |= dict.fromkeys(_read(path, ["row"])["row"].unique().to_pylist(), path)
    return finished


def _collected(finished: Mapping[int, Path], groups: Mapping[int, str]) -> pa.Table:
    wanted = pa.array(sorted(groups), pa.int64())
    tables = (_read(path) for path in sorted({finished[row] for row in groups}))
    table = pa.concat_tables([table.filter(pc.is_in(table["row"], value_set=wanted)) for table in tables])
    named = pa.array([groups[row] for row in table["row"].to_pylist()], pa.string())
    return table.add_column(TOKEN_SCHEMA.get_field_index("group"), "group", named)


def _largest_difference(table: pa.Table, run: ScanRun) -> float:
    """How far a row's shares are from adding up to its cosines, at most: rounding alone."""
    sums = table.group_by("row").aggregate([("share_harmful", "sum"), ("share_safe", "sum")])
    rows = sums["row"].to_numpy()
    norms = run.floats("gradient_norm")[rows]
    return float(
        max(
            np.abs(sums[f"share_{side}_sum"].to_numpy() / norms - run.floats(f"gradient_{side}")[rows]).max()
            for side in ("harmful", "safe")
        )
    )


def load_tokens(run_folder: str | Path, rows: Sequence[int] | None = None) -> pa.Table:
    """The token shares of a run, one row per token, by row and position; columns and units in ``docs/scan.md``.

    Args:
        run_folder: The run.
        rows: Only those of the rows with these numbers.

    Raises:
        RipcurrentError: The run kept none, or the file is damaged.
    """
    path = Path(run_folder) / TOKENS_FILE
    if not path.is_file():
        raise RipcurrentError(
            f"{run_folder} holds no token shares (there is no {TOKENS_FILE}).",
            "Give the scan's command again with --tokens top:100; rows that are scored are not scored again.",
        )
    return _read(path, filters=None if rows is None else pc.field("row").isin(list(rows)))


def read_token_record(run_folder: Path) -> dict[str, JsonValue] | None:
    """What ``tokens.parquet`` says of itself; None where a run has none.

    Raises:
        RipcurrentError: The file is damaged.
    """
    path = run_folder / TOKENS_FILE
    if not path.is_file():
        return None
    try:
        record: dict[str, JsonValue] = json.loads((pq.read_schema(path).metadata or {})[b"ripcurrent"])
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise _damaged(path, error) from error
    return record


def write_tokens(run_folder: Path, table: pa.Table, record: Mapping[str, JsonValue]) -> None:
    """Write the table whole, sorted by row and position, with its record in the metadata."""
    ordered = table.sort_by([("row", "ascending"), ("position", "ascending")]).cast(TOKEN_SCHEMA)
    with written_whole(run_folder / TOKENS_FILE) as part:
        described = ordered.replace_schema_metadata({"ripcurrent": json.dumps(record)})
        pq.write_table(described, part, compression="zstd")


def _read(path: Path, columns: list[str] | None = None, filters: pc.Expression | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns, filters=filters)
    except (OSError, pa.ArrowException) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RipcurrentError:
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return RipcurrentError(
        f"{path} is damaged: {reason}.",
        "Delete it and give the scan's command again with its --tokens: no row is scored again.",
    )
