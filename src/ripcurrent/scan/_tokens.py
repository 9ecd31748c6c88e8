"""The second pass of a scan, over chosen rows only: which positions carry their scores."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from ripcurrent.data import Dataset, Row, encode, token_places
from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import Directions, GradientPass, in_memory, make_batch
from ripcurrent.models import ChatModel
from ripcurrent.progress import Progress
from ripcurrent.runs import RunFolder, written_whole
from ripcurrent.scan._memory import scan_directions
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._prepared_anchors import PreparedAnchors
from ripcurrent.scan._token_choice import parse_token_choice
from ripcurrent.scan._token_tables import TOKEN_SCHEMA, read_token_record, summarise_tokens, write_tokens
from ripcurrent.select_old import bottom, read_scores, top
from ripcurrent.select_old._table import ScoredRows

CHECKED = ("gradient_norm", "gradient_harmful", "gradient_safe")
"""Columns that a row's shares add up to."""
SHARD_ROWS = 16
"""Rows per file of finished shares: what an interruption can cost."""

SHARD_SCHEMA = TOKEN_SCHEMA.remove(TOKEN_SCHEMA.get_field_index("group"))
"""A row's shares do not depend on the end of the ranking that it is at."""


def add_token_shares(
    run: RunFolder,
    rows: Dataset,
    options: ScanOptions,
    chat_model: ChatModel,
    gradient_pass: GradientPass | None,
    anchors: PreparedAnchors,
    told: Progress,
    *,
    mapped: bool,
) -> dict[str, Any] | None:
    """Compute the shares that ``options.tokens`` asks for and that are not yet there, and write ``tokens.parquet``.

    Rows go through the model one by one, so that a row's shares depend on nothing else; those that an earlier call
    finished, also for another choice of rows, are taken as they are. Directions lie in files where ``mapped``, as a
    memory budget may have it.

    Returns:
        What a run's manifest keeps of them: of those of an earlier call when none are asked for now, None without any.
    """
    if options.tokens is None or gradient_pass is None:
        return _brief(read_token_record(run.folder))
    started = time.perf_counter()
    # of a hundred million rows, the columns that are needed and no more
    scores = read_scores(run.folder, ("row", "status", options.default_ranking, *CHECKED))
    groups = _choose(scores, options.tokens)
    folder = run.folder / "tokens"
    finished = _finished(folder)
    missing = sorted(set(groups) - set(finished))
    told.start("token shares", len(groups))
    told.skipped(len(groups) - len(missing))
    if missing:
        stored = [anchors.direction("harmful"), anchors.direction("safe")]
        directions = scan_directions(gradient_pass, stored, chat_model, run.folder if mapped else None)
        parts: list[pa.Table] = []
        for row in rows.at(missing):
            with in_memory(f"The token shares of row {row.index}"):
                parts.append(_shares(row, options, chat_model, gradient_pass, directions))
            if len(parts) == SHARD_ROWS:
                _keep(folder, parts)
                parts = []
            told.rows(1)
        if parts:
            _keep(folder, parts)
        finished = _finished(folder)
    told.finish()
    table = _collect(finished, groups)
    chosen = ScoredRows(scores).take(groups)
    norms = dict(zip(groups, chosen["gradient_norm"].to_pylist(), strict=True))
    safe_sets = len(anchors.anchor_set.safe_sets)
    earlier = read_token_record(run.folder) or {}
    seconds = round(time.perf_counter() - started, 3) if missing else earlier.get("seconds", 0.0)
    record = {
        "asked": options.tokens,
        "ranking": options.default_ranking,
        "rows": {group: list(groups.values()).count(group) for group in dict.fromkeys(groups.values())},
        "safe_sets": safe_sets,
        "opening_tokens": options.anchor_tokens,
        "unit": "inner product of the row's gradient with the direction; divided by gradient_norm it adds to the score",
        "largest_difference": _largest_difference(table, chosen),
        "seconds": seconds,
        "groups": summarise_tokens(table, norms, safe_sets=safe_sets, opening_tokens=options.anchor_tokens),
    }
    write_tokens(run.folder, table, record)
    return _brief(record)


def _brief(record: Mapping[str, Any] | None) -> dict[str, Any] | None:
    keys = ("asked", "ranking", "rows", "safe_sets", "opening_tokens", "largest_difference", "seconds")
    return None if record is None else {key: record[key] for key in keys}


def _choose(scores: pa.Table, asked: str) -> dict[int, str]:
    """Row number to its end of the default ranking."""
    ranked = int(np.isfinite(scores["gradient_norm"].to_numpy()).sum())
    choice = parse_token_choice(asked).within(ranked)
    groups: dict[int, str] = {}
    if choice.bottom:
        groups |= dict.fromkeys(map(int, bottom(scores, choice.bottom).indices), "protective")
    if choice.top:
        groups |= dict.fromkeys(map(int, top(scores, choice.top).indices), "riskiest")
    return groups


def _shares(
    row: Row, options: ScanOptions, chat_model: ChatModel, gradient_pass: GradientPass, directions: Directions
) -> pa.Table:
    encoded = encode(row, chat_model.tokenizer, max_tokens=options.max_tokens, loss_on=options.loss_on)
    batch = make_batch([encoded], chat_model.device, row_tokens=options.row_tokens)
    places = token_places(row, encoded, chat_model.tokenizer)
    count = len(encoded.tokens)  # a batch may be wider
    shares = gradient_pass.token_shares(batch, directions)[0, :count]
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


def _keep(folder: Path, parts: list[pa.Table]) -> None:
    """Write finished rows into a file of their own, under the first free number."""
    taken = (int(path.stem.removeprefix("shard-")) for path in folder.glob("shard-*.parquet"))
    number = max(taken, default=-1) + 1
    with written_whole(folder / f"shard-{number:05d}.parquet") as part:
        pq.write_table(pa.concat_tables(parts), part, compression="zstd")


def _finished(folder: Path) -> dict[int, Path]:
    """Row number to the file that holds its shares."""
    finished: dict[int, Path] = {}
    for path in sorted(folder.glob("shard-*.parquet")):
        finished |= dict.fromkeys(_read(path, ["row"])["row"].unique().to_pylist(), path)
    return finished


def _read(path: Path, columns: list[str] | None = None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise RipcurrentError(
            f"{path} is damaged: {str(error).splitlines()[0]}.",
            "Delete the folder it lies in and give the same command again: only token shares are computed anew.",
        ) from error


def _collect(finished: Mapping[int, Path], groups: Mapping[int, str]) -> pa.Table:
    wanted = pa.array(sorted(groups), pa.int64())
    parts = []
    for path in sorted({finished[row] for row in groups}):
        table = _read(path)
        parts.append(table.filter(pc.is_in(table["row"], value_set=wanted)))
    table = pa.concat_tables(parts)
    named = pa.array([groups[row] for row in table["row"].to_pylist()], pa.string())
    whole = table.add_column(TOKEN_SCHEMA.get_field_index("group"), "group", named)
    return whole.sort_by([("row", "ascending"), ("position", "ascending")])


def _largest_difference(table: pa.Table, chosen: pa.Table) -> float:
    """How far a row's shares are from adding up to its cosines, at most: rounding alone."""
    named = {name: chosen[name].to_numpy() for name in ("row", *CHECKED)}
    place = {int(row): index for index, row in enumerate(named["row"])}
    sums = table.group_by("row").aggregate([("share_harmful", "sum"), ("share_safe", "sum")])
    at = [place[row] for row in sums["row"].to_pylist()]
    differences = [
        np.abs(sums[f"share_{side}_sum"].to_numpy() / named["gradient_norm"][at] - named[f"gradient_{side}"][at]).max()
        for side in ("harmful", "safe")
    ]
    return float(max(differences))
