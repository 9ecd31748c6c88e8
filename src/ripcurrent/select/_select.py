"""Selections from a finished scan, with controls where they are asked for, written to the run folder."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan import ScanRun
from ripcurrent.select._controls import controls_for
from ripcurrent.select._decisions import decided
from ripcurrent.select._options import SelectOptions, parse_range
from ripcurrent.select._rules import between, bottom, number_of_rows, of_format, top, union
from ripcurrent.select._types import Selection, SelectionRecord
from ripcurrent.select._write import summarise, write_selection

ENDS = {"top": top, "bottom": bottom}


def select(run: str | Path | ScanRun, options: SelectOptions | None = None, **changes: object) -> list[SelectionRecord]:
    """Select rows of a scanned dataset and write them in the dataset's own format.

    With ``controls`` each selection comes before its own: for each seed a random, a length-matched, a format-matched
    and, where there are losses, a loss-matched draw, and the other end of the ranking. None holds a row of it. ``run``
    is a finished scan or its folder; ``changes`` are single options by name, such as ``top=100`` or ``drop=True``.

    Raises:
        RipcurrentError: Nothing asked for, no finished scan, a column that cannot be ranked, a dataset that has
            changed since the scan, or a place that cannot be written. Nothing is written before all rows are chosen.
    """
    chosen = SelectOptions.resolve(options, changes)
    run = run if isinstance(run, ScanRun) else ScanRun.open(run)
    selections = _named(list(_selections(run, chosen)), chosen)
    if chosen.drop:
        notes = tuple(_notes_on_the_rest(run))
        selections = [replace(one, notes=(*one.notes, *notes)) for one in selections]
    every: list[Selection] = []
    for one in selections:
        seeds = chosen.seed if one.seed is None else (one.seed,)
        every += [one, *(controls_for(run, one, seeds) if chosen.controls else ())]
    dataset = run.dataset(chosen.data)
    return [
        write_selection(
            chosen.out or run.folder / "selections",
            dataset,
            run,
            one,
            summarise(run, one),
            drop=chosen.drop and one.control_of is None,
            own_folder=chosen.out is None,
        )
        for one in every
    ]


def _selections(run: ScanRun, options: SelectOptions) -> Iterator[Selection]:
    ranked = options.top, options.bottom, options.between
    if options.by is not None and all(one is None for one in ranked):
        raise RipcurrentError(
            f"--by {options.by} says what to rank by, and nothing that is asked for ranks by a column.",
            "Leave it out, or ask for --top, --bottom or --between.",
        )
    if options.rows is not None and options.format_draw is None:
        raise RipcurrentError(
            f"--rows {options.rows} is for --format-draw, which is not given.",
            f"The other rules take their number themselves, such as --top {options.rows}.",
        )
    sizes = {rule: size for rule in ENDS if (size := getattr(options, rule)) is not None}
    of_ends = [_as_typed(ENDS[rule](run, _rows(run, options, rule), options.by), size) for rule, size in sizes.items()]
    if options.decisions is None:
        yield from of_ends
    else:
        for one in of_ends or (None,):
            yield decided(run, options.decisions, one)
    if options.union is not None:
        yield union(run, options.union)
    if options.between is not None:
        (low, high), share = parse_range(options.between)
        yield between(run, options.by, low, high, quantiles=share)
    if options.format_draw is not None:
        for seed in options.seed:
            yield of_format(run, options.format_draw, 100 if options.rows is None else options.rows, seed)


def _rows(run: ScanRun, options: SelectOptions, rule: str) -> int:
    """How many rows a number or a share is, of those that have a score."""
    usable = int(np.isfinite(run.scores(options.by or run.default_ranking)).sum())
    try:
        return number_of_rows(getattr(options, rule), usable)
    except ValueError as error:
        raise RipcurrentError(f"--{rule} {error}.", f"Write --{rule} 100 or --{rule} 20%.") from None


def _as_typed(found: Selection, typed: int | str) -> Selection:
    """A selection of a share is named by it: ``top-5pct``."""
    share = str(typed).replace("%", "pct")
    whole, name = len(found.indices) + found.shortfall, found.name
    return replace(found, name=name.replace(f"-{whole}", f"-{share}", 1)) if "%" in str(typed) else found


def _named(selections: list[Selection], options: SelectOptions) -> list[Selection]:
    if not selections:
        raise RipcurrentError("Nothing to select was asked for.", "For example: ripcurrent select RUN --top 100")
    if options.name is None:
        return selections
    if len(selections) > 1:
        raise RipcurrentError(
            f"One name for {len(selections)} selections ({', '.join(one.name for one in selections)}).",
            "Ask for one selection at a time when you name it.",
        )
    return [replace(selections[0], name=options.name)]


def _notes_on_the_rest(run: ScanRun) -> Iterator[str]:
    """What to know of the rows that stay when a selection is dropped."""
    limit = run.options.limit
    # with fewer rows than the limit all were read
    if limit is not None and limit <= run.rows:
        yield f"the scan read only the first {run.rows} rows (--limit), and the remaining file holds no others"
    if unscored := run.rows - int(run.scored.sum()):
        yield f"{unscored} of the remaining rows have no score, so their risk is unknown (see their status)"
