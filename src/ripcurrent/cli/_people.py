"""``ripcurrent judges rate`` and ``judges agree``: people as judges."""

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
    they save go to `ripcurrent judges agree`.
    """
    from ripcurrent.cli._output import print_json
    from ripcurrent.errors import RipcurrentError
    from ripcurrent.evaluate import draw_ratings

    if not reveal:
        raise RipcurrentError(
            "A rating page shows what the models answered, unmasked, and answers are shown only when asked for.",
            "If the raters know what they will read, give the command again with --reveal.",
        )
    draw = draw_ratings(run, per_arm=per_arm, axis=axis, seed=seed)
    page = out or run / "rating.html"
    # the page's libraries take a second to import: no error above should wait for them
    from ripcurrent.report import build_rating_page

    key = draw.save_key(page)
    build_rating_page(draw, page)
    if as_json:
        facts = {"page_sha256": draw.key.page, "items": len(draw.items), "arms": draw.arms, "notes": list(draw.notes)}
        print_json({"page": str(page), "key": str(key), **facts})
    elif not quiet:
        arms = ", ".join(f"{arm} {count}" for arm, count in draw.arms.items())
        typer.echo(f"{len(draw.items)} answers to rate ({arms})")
        for note in draw.notes:
            typer.echo(note)
        typer.echo(f"Page, for raters: {page}")
        typer.echo(f"Key, not for raters: {key}")


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
        print_json(result.to_json())
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
    for name, found in (
        ("ratings 1 to 5, ordinal", result.agreement.ordinal),
        ("complied or not", result.agreement.complied),
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
