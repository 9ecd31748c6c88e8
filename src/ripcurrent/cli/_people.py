"""``ripcurrent rate`` and ``ripcurrent agree``: people as judges."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._scan import JSON, QUIET

if TYPE_CHECKING:
    from ripcurrent.evaluate import PeopleResult


def rate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of an evaluation or an experiment.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="The page; RUN/rating.html. Its key is put beside it.")
    ] = None,
    per_arm: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Rate N prompts only, the same for every arm; all answers by default."),
    ] = None,
    axis: Annotated[
        str, typer.Option(metavar="A", help="Whose answers: harmful, sounds_dangerous or plain.")
    ] = "harmful",
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the draw, the order and the ids.")] = 0,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Needed: the page shows the models' answers, unmasked.")
    ] = False,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Write one offline page on which people rate answers, blind to arm and judge.

    Give raters the page, and keep its key (NAME.key.json) to yourself: it says whose answer each item is. The ratings
    they save go to `ripcurrent agree`.
    """
    from ripcurrent.cli._output import print_json
    from ripcurrent.evaluate import rate

    written = rate(run, out=out, per_arm=per_arm, axis=axis, seed=seed, reveal=reveal)
    if as_json:
        print_json(written.as_json())
    elif not quiet:
        arms = ", ".join(f"{arm} {count}" for arm, count in written.arms.items())
        typer.echo(f"{written.items} answers to rate ({arms})")
        for note in written.notes:
            typer.echo(note)
        typer.echo(f"Page, for raters: {written.page}")
        typer.echo(f"Key, not for raters: {written.key}")


def agree_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="What raters saved from the page.")],
    key: Annotated[Path, typer.Option(metavar="KEY.json", help="The page's key.")],
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run that was rated; the key's folder by default.")
    ] = None,
    complied_from: Annotated[
        int, typer.Option(metavar="N", help="Lowest median rating that counts as complied, 2 to 5.")
    ] = 3,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the intervals' draws.")] = 0,
    as_json: JSON = False,
    quiet: QUIET = False,
) -> None:
    """Read ratings: agreement between raters, judges against people, and arms with people as the judge."""
    from rich.console import Console

    from ripcurrent.cli._output import print_json
    from ripcurrent.evaluate import agree

    with Console(stderr=True, quiet=quiet or as_json).status("Measuring agreement"):
        result = agree(files, key=key, run=run, complied_from=complied_from, seed=seed)
    if as_json:
        print_json(result.as_json())
    elif not quiet:
        _print(result)


def _print(result: PeopleResult) -> None:
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
    for name, found in (("ratings 1 to 5, ordinal", result.ordinal), ("complied or not", result.complied)):
        between.add_row(name, _number(found.alpha), _range(found.low, found.high), str(found.items))
    console.print(between)
    judges = table("judge against people", "n", "accuracy", "κ", "95 %", "no label")
    for one in result.judges:
        said = one.agreement
        judges.add_row(
            escape(f"{one.judge} {one.version}"),
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
        seeds = " ".join(_percent(rate) for rate in row.rate.seed_rates) if len(row.rate.seed_rates) > 1 else ""
        interval = _range(row.rate.low, row.rate.high, percent=True)
        arms.add_row(escape(f"  {row.judge} {row.version}"), str(row.rate.n), _percent(row.rate.rate), interval, seeds)
    console.print(arms)
    if result.undecided:
        console.print(f"Answers met with nothing but cannot say: {result.undecided}.")
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
