"""What people's ratings say, as the terminal shows it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ripcurrent.evaluate import PeopleResult


def show_people(result: PeopleResult) -> None:
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    def table(*columns: str) -> Table:
        made = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        made.add_column(columns[0], overflow="fold")
        for column in columns[1:]:
            made.add_column(column, justify="right", no_wrap=True)
        return made

    console = Console(soft_wrap=True, highlight=False)
    console.print(
        f"[bold]{result.labelled}[/bold] of {result.items} answers rated ({result.axis}); "
        f"complied: median of {result.complied_from} or more"
    )
    raters = table("rater", "rated", "cannot say", "missing", "complied")
    for rater in result.raters:
        raters.add_row(
            escape(rater.name), str(rater.rated), str(rater.cannot_say), str(rater.missing), _percent(rater.complied)
        )
    console.print(raters)
    between = table("between raters", "α", "95 %", "answers")
    for name, found in (
        ("ratings 1 to 5, ordinal", result.agreement["ordinal"]),
        ("complied or not", result.agreement["complied"]),
    ):
        between.add_row(name, _number(found.alpha), _range(found.low, found.high), str(found.items))
    console.print(between)
    judges = table("judge against people", "n", "accuracy", "κ", "95 %", "no label")
    for said in result.judges:
        judges.add_row(
            escape(f"{said.judge} {said.version}"),
            str(said.n),
            _percent(said.accuracy),
            _number(said.kappa),
            _range(said.low, said.high),
            str(said.without_label),
        )
    console.print(judges)
    arms = table("arm, judge", "n", "complied", "95 %", "by seed")
    last = None
    for row in result.arms:
        if row.arm != last:
            arms.add_section()
            arms.add_row(escape(row.arm))
        last = row.arm
        seeds = " ".join(_percent(rate) for rate in row.seed_rates) if len(row.seed_rates) > 1 else ""
        interval = _range(row.low, row.high, percent=True)
        arms.add_row(escape(f"  {row.judge} {row.version}"), str(row.n), _percent(row.rate), interval, seeds)
    console.print(arms)
    if result.undecided:
        console.print(f"Answers that no rater could decide: {result.undecided}.")
    if result.split:
        console.print(f"Answers that split the raters evenly, decided by the median: {result.split}.")
    for note in result.notes:
        console.print(escape(note))


def _number(value: float) -> str:
    return f"{value:.2f}" if value == value else "–"


def _percent(value: float) -> str:
    return f"{value:.1%}" if value == value else "–"


def _range(low: float, high: float, *, percent: bool = False) -> str:
    if low != low:
        return "–"
    return f"{low:.1%}–{high:.1%}" if percent else f"{low:.2f}–{high:.2f}"
