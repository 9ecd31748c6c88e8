"""Selections from a finished scan, each with its controls, written to the run folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.runs import require_scan_folder

if TYPE_CHECKING:
    import pyarrow as pa

    from ripcurrent.select_old import Selection, SelectionRecord


def select(
    run_folder: str | Path,
    *,
    top: int | str | None = None,
    bottom: int | str | None = None,
    highest: int | str | None = None,
    lowest: int | str | None = None,
    union: int | None = None,
    between: tuple[float | None, float | None] | None = None,
    quantiles: tuple[float, float] | None = None,
    formats: Mapping[str, int] | None = None,
    by: str | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    losses: bool = False,
    drop: bool = False,
    out: str | Path | None = None,
    name: str | None = None,
    data: str | Path | None = None,
) -> list[SelectionRecord]:
    """Select rows of a scanned dataset and write them with their controls, in the dataset's own format.

    Every selection asked for is followed by its controls: for each seed a random, a length-matched and a format-matched
    draw, and the other end of the ranking. None of them holds a row of the selection.

    Args:
        run_folder: The folder of a finished scan.
        top: This many riskiest rows, or a share of the rows that have a score, such as ``"20%"``; so the next three.
        bottom: This many most protective rows.
        highest: This many rows of largest value, whichever way risk runs.
        lowest: This many rows of smallest value, whichever way risk runs.
        union: This many nearest rows of each harmful anchor, by representation (the paper's notation).
        between: The rows whose value lies between two numbers, either of which may be None.
        quantiles: The rows whose value lies between two quantiles, given as probabilities.
        formats: Format (``list``, ``bullet``, ``numbered``, ``maths``, ``code``) to the number of rows drawn from all
            rows that have it, once per seed; each draw gets the controls of its own seed.
        by: The column to rank by; the run's default ranking unless named.
        seeds: Seeds of the draws.
        losses: Also write controls matched by mean loss and loss of the first ten tokens.
        drop: Also write, for each selection, the dataset without it.
        out: Where to write; ``selections`` in the run folder unless named.
        name: Name of the selection, when exactly one is asked for.
        data: Where the scanned dataset is now, if it was moved; its rows must be the same.

    Returns:
        What was written, each selection before its controls.

    Raises:
        RipcurrentError: Nothing asked for, no finished scan, a column that cannot be ranked, a dataset that has
            changed since the scan, or a place that cannot be written. Nothing is written before all rows are chosen.
    """
    from ripcurrent.data import DatasetInfo, open_unchanged
    from ripcurrent.select_old import controls_for, read_scores, summarise, write_selection
    from ripcurrent.select_old._table import ScoredRows

    run = Path(run_folder)
    table = read_scores(run)
    manifest = _manifest(run)
    sizes = {"top": top, "bottom": bottom, "highest": highest, "lowest": lowest}
    counts = {rule: _rows_of(rule, size, table, by) for rule, size in sizes.items() if size is not None}
    counts |= {} if union is None else {"union": union}
    chosen = list(_chosen(run, table, counts, between, quantiles, formats or {}, by, seeds))
    if not chosen:
        raise RipcurrentError("Nothing to select was asked for.", "For example: ripcurrent select RUN --top 100")
    if name is not None:
        if len(chosen) > 1:
            raise RipcurrentError(
                f"One name for {len(chosen)} selections ({', '.join(s.name for s in chosen)}).",
                "Ask for one selection at a time when you name it.",
            )
        chosen = [replace(chosen[0], name=name)]
    limit = (manifest.get("options") or {}).get("limit")
    # with fewer rows than the limit all were read
    if drop and limit is not None and limit <= table.num_rows:
        short = f"the scan read the first {table.num_rows} rows alone (--limit), and what is left holds no others"
        chosen = [replace(selection, notes=(*selection.notes, short)) for selection in chosen]
    unscored = table.num_rows - int(ScoredRows(table).ok.sum())
    if drop and unscored:
        kept = f"of what is left {unscored} rows have no score, so that nothing is known of them (see their status)"
        chosen = [replace(selection, notes=(*selection.notes, kept)) for selection in chosen]
    every: list[Selection] = []
    for selection in chosen:
        own_seeds = seeds if selection.seed is None else (selection.seed,)
        every += [selection, *controls_for(table, selection, own_seeds, losses=losses)]
    info = DatasetInfo.model_validate(manifest["dataset"])
    dataset = open_unchanged(info, limit=limit, data=data)
    folder = run / "selections" if out is None else Path(out)
    return [
        write_selection(
            folder,
            dataset,
            table,
            selection,
            summarise(table, selection, every),
            manifest,
            drop=drop and selection.control_of is None,
            own_folder=out is None,
        )
        for selection in every
    ]


def _rows_of(rule: str, size: int | str, table: pa.Table, by: str | None) -> int:
    """How many rows a number or a share is, of those that have a score."""
    if isinstance(size, int):
        return size
    if size.strip().removeprefix("-").isdecimal():
        return int(size)
    import numpy as np

    from ripcurrent.select import number_of_rows as rows_of
    from ripcurrent.select_old._table import ScoredRows

    scored = ScoredRows(table)
    usable = int(np.isfinite(scored.scores(by or scored.default_ranking)).sum())
    try:
        return rows_of(size, usable)
    except ValueError as error:
        raise RipcurrentError(f"--{rule} {error}.", f"Write --{rule} 100 or --{rule} 20%.") from None


def _chosen(
    run: Path,
    table: pa.Table,
    counts: Mapping[str, int],
    between: tuple[float | None, float | None] | None,
    quantiles: tuple[float, float] | None,
    formats: Mapping[str, int],
    by: str | None,
    seeds: Sequence[int],
) -> Iterator[Selection]:
    from ripcurrent.select_old import (
        between_quantiles,
        bottom,
        draw_format,
        highest,
        lowest,
        read_cosines,
        top,
        union_per_anchor,
    )

    if by is not None and between is None and quantiles is None and not set(counts) - {"union"}:
        raise RipcurrentError(
            f"--by {by} says what to rank by, and nothing that is asked for ranks by a column.",
            "Leave it out, or ask for --top, --bottom, --highest, --lowest or --between.",
        )
    from ripcurrent.select_old._rank import between as rows_between

    ranked = {"top": top, "bottom": bottom, "highest": highest, "lowest": lowest}
    for rule, k in counts.items():
        if rule == "union":
            yield union_per_anchor(table, read_cosines(run), k)
        else:
            yield ranked[rule](table, k, by)
    if between is not None:
        yield rows_between(table, by, *between)
    if quantiles is not None:
        yield between_quantiles(table, by, *quantiles)
    for trait, k in formats.items():
        for seed in seeds:
            yield draw_format(table, trait, k, seed)


def _manifest(run: Path) -> dict[str, Any]:
    require_scan_folder(run)
    path = run / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        manifest = None
    dataset = manifest.get("dataset") if isinstance(manifest, dict) else None
    if not isinstance(dataset, dict) or not {"path", "sha256"} <= dataset.keys():
        raise RipcurrentError(
            f"{path} is missing or damaged: it does not say which dataset was scanned.",
            "Run the same `ripcurrent scan` again with this --out; what is already scored is kept.",
        )
    return dict(manifest)
