"""``ripcurrent judges``: how far a judge can be believed, and people as judges."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import ADVANCED, command, group
from ripcurrent.cli._judging import FLAGS, JudgingOptions
from ripcurrent.cli._output import Output
from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.evaluate import Agreement, JudgeValidation

SEED = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of what is drawn.")]

judges = group("judges", "Measure judges, and let people judge.")


@command("validate", {"Judges": ("judge",), ADVANCED: FLAGS}, of=judges)
def validate_command(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="CSV or JSON lines with prompt, completion and final_label."),
    ],
    judging: JudgingOptions,
    output: Output,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu, for a classifier.")] = None,
    seed: SEED = 0,
) -> None:
    """Measure judges against people's labels of real answers: keyword and prefix unless others are named.

    A final_label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal, counted as a refusal).
    """
    from ripcurrent.evaluate import RULES, validate_judges

    with output.progress() as progress:
        found = validate_judges(files, judging.judge or RULES, judging.settings(device), seed=seed, progress=progress)
    output.answer(lambda: {one.judge: one.to_json() for one in found}, lambda: _print_table(found))


@command("rate", of=judges)
def rate_command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of an evaluation or an experiment.")],
    output: Output,
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", metavar="FILE.html", help="The page; RUN/rating.html. Its key is put beside it."),
    ] = None,
    per_arm: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Rate N prompts only, the same for every arm; all when left out."),
    ] = None,
    axis: Annotated[
        str, typer.Option(metavar="A", help="Whose answers: harmful, sounds_dangerous or plain.")
    ] = "harmful",
    seed: SEED = 0,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Needed: the page shows the models' answers, unmasked.")
    ] = False,
) -> None:
    """Write one offline page on which people rate answers, blind to arm and judge.

    Give raters the page, and keep its key (NAME.key.json) to yourself: it says whose answer each item is. The ratings
    they save go to `ripcurrent judges agree`.
    """
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
    facts = {"page_sha256": draw.key.page, "items": len(draw.items), "arms": draw.arms, "notes": list(draw.notes)}
    arms = ", ".join(f"{arm} {count}" for arm, count in draw.arms.items())
    lines = (
        f"{len(draw.items)} answers to rate ({arms})",
        *draw.notes,
        f"Page, for raters: {page}",
        f"Key, not for raters: {key}",
    )
    output.answer(lambda: {"page": str(page), "key": str(key), **facts}, lambda: typer.echo("\n".join(lines)))


@command("agree", of=judges)
def agree_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE", help="What raters saved from the page.")],
    key: Annotated[Path, typer.Option(metavar="KEY.json", help="The page's key.")],
    output: Output,
    run: Annotated[
        Path | None, typer.Option(metavar="RUN", help="The run that was rated; the key's folder when left out.")
    ] = None,
    complied_from: Annotated[
        int, typer.Option(metavar="N", help="Lowest median rating that counts as complied, 2 to 5.")
    ] = 3,
    seed: SEED = 0,
) -> None:
    """Read ratings: agreement between raters, judges against people, and arms with people as the judge."""
    from ripcurrent.cli._people import show_people
    from ripcurrent.evaluate import agree

    with output.progress() as progress:
        progress.step("measuring agreement")
        result = agree(files, key=key, run=run, complied_from=complied_from, seed=seed)
    output.answer(result.to_json, lambda: show_people(result))


def _print_table(validations: list[JudgeValidation]) -> None:
    from pathlib import Path

    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        caption="comply, refuse, partial: people's label, and how many of those answers the judge calls a refusal",
    )
    any_unjudged = any(validation.pooled.unjudged for validation in validations)
    table.add_column("judge, file", overflow="fold")
    for heading in ("n", "accuracy", "κ", "95 %", "comply", "refuse", "partial", "degen-\nerate"):
        table.add_column(heading, justify="right", no_wrap=True)
    if any_unjudged:
        table.add_column("un-\njudged", justify="right", no_wrap=True)
    for validation in validations:
        table.add_section()
        table.add_row(escape(f"{validation.judge} {validation.version}"))
        for file, agreement in _rows(validation):
            cells = _cells(agreement)
            table.add_row(escape(f"  {Path(file).name}"), *cells, *([str(agreement.unjudged)] if any_unjudged else []))
    console = Console()
    console.print(table)
    for validation in validations:
        if validation.pooled.mean_score is not None:
            means = (
                f"{label} {score:.2f}" for label, score in validation.pooled.mean_score.items() if not isnan(score)
            )
            line = f"{validation.judge}, mean score by people's label: {', '.join(means)}"
            console.print(line, soft_wrap=True, markup=False)


def _rows(validation: JudgeValidation) -> Iterator[tuple[str, Agreement]]:
    yield from validation.files.items()
    if len(validation.files) > 1:
        yield "all files", validation.pooled


def _cells(agreement: Agreement) -> list[str]:
    refused = [f"{row['refusal']}/{sum(row.values())}" for row in agreement.confusion.values()]
    return [
        str(agreement.n),
        f"{agreement.accuracy:.1%}" if agreement.n else "–",
        f"{agreement.kappa:.2f}" if not isnan(agreement.kappa) else "–",
        f"{agreement.kappa_low:.2f}–{agreement.kappa_high:.2f}" if not isnan(agreement.kappa_low) else "–",
        *refused,
        str(agreement.degenerate),
    ]
