"""How far judges and raters agree, as the terminal shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ripcurrent.evaluate import JudgeValidation, PeopleResult


def show_validations(validations: Sequence[JudgeValidation]) -> None:
    """Each judge on each file and on all, and the mean scores of those that give any."""
    console = Console(highlight=False)
    columns = ("n", "accuracy", "κ", "95 %", "comply", "refuse", "partial", "degen-\nerate", "un-\njudged")
    table = _table("judge, file", *columns)
    table.caption = "comply, refuse, partial: people's label, and how many of those answers the judge calls a refusal"
    for one in validations:
        table.add_section()
        table.add_row(escape(f"{one.judge} {one.version}"))
        for file, found in [*one.files.items(), *([("all files", one.pooled)] if len(one.files) > 1 else [])]:
            refused = [f"{row['refusal']}/{sum(row.values())}" for row in found.confusion.values()]
            figures = [_shown(found.accuracy, ".1%"), _shown(found.kappa), _range(found.kappa_low, found.kappa_high)]
            counts = [str(found.degenerate), str(found.unjudged)]
            table.add_row(escape(f"  {Path(file).name}"), str(found.n), *figures, *refused, *counts)
    console.print(table)
    for one in validations:
        if one.pooled.mean_score is not None:
            means = ", ".join(f"{label} {_shown(score)}" for label, score in one.pooled.mean_score.items())
            console.print(f"{one.judge}, mean score by people's label: {means}", soft_wrap=True, markup=False)


def show_people(result: PeopleResult) -> None:
    """What people's ratings say of each other, of the judges and of the arms."""
    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"[bold]{result.labelled}[/bold] of {result.items} answers rated ({result.axis}); "
        f"complied: median of {result.complied_from} or more"
    )
    raters = _table("rater", "rated", "cannot say", "missing", "complied")
    for rater in result.raters:
        counts = map(str, (rater.rated, rater.cannot_say, rater.missing))
        raters.add_row(escape(rater.name), *counts, _shown(rater.complied, ".1%"))
    between = _table("between raters", "α", "95 %", "answers")
    names = ("ratings 1 to 5, ordinal", "complied or not")
    for name, found in zip(names, result.agreement.values(), strict=True):
        between.add_row(name, _shown(found.alpha), _range(found.low, found.high), str(found.items))
    judges = _table("judge against people", "n", "accuracy", "κ", "95 %", "no label")
    for said in result.judges:
        figures = (_shown(said.accuracy, ".1%"), _shown(said.kappa), _range(said.low, said.high))
        judges.add_row(escape(f"{said.judge} {said.version}"), str(said.n), *figures, str(said.without_label))
    arms = _table("arm, judge", "n", "complied", "95 %", "by seed")
    last = None
    for row in result.arms:
        if row.arm != last:
            arms.add_section()
            arms.add_row(escape(row.arm))
        last = row.arm
        seeds = " ".join(_shown(rate, ".1%") for rate in row.seed_rates) if len(row.seed_rates) > 1 else ""
        figures = (_shown(row.rate, ".1%"), _range(row.low, row.high, ".1%"), seeds)
        arms.add_row(escape(f"  {row.judge} {row.version}"), str(row.n), *figures)
    for table in (raters, between, judges, arms):
        console.print(table)
    if result.undecided:
        console.print(f"Answers that no rater could decide: {result.undecided}.")
    if result.split:
        console.print(f"Answers that split the raters evenly, decided by the median: {result.split}.")
    for note in result.notes:
        console.print(escape(note))


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(first, overflow="fold")
    for column in others:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def _shown(value: float, form: str = ".2f") -> str:
    """A figure, or a dash for NaN."""
    return f"{value:{form}}" if value == value else "–"


def _range(low: float, high: float, form: str = ".2f") -> str:
    return f"{low:{form}}–{high:{form}}" if low == low else "–"
