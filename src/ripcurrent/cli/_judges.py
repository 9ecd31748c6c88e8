"""``ripcurrent judges``: how far a judge can be believed, and people as judges."""

from pathlib import Path
from typing import Annotated

import typer

from ripcurrent.cli._command import ADVANCED, command, group
from ripcurrent.cli._judging import FLAGS, JudgingOptions
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import say
from ripcurrent.errors import RipcurrentError

SEED = Annotated[int, typer.Option(metavar="N", min=0, help="Seed of what is drawn.")]

judges = group("judges", "Measure judges, and let people judge.")


@command("validate", {"Judges": ("judge",), ADVANCED: FLAGS}, of=judges)
def validate_command(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="CSV or JSON lines with prompt, completion and final_label.")
    ],
    judging: JudgingOptions,
    output: Output,
    device: Annotated[str | None, typer.Option(help="cuda, mps or cpu, for a classifier.")] = None,
    seed: SEED = 0,
) -> None:
    """Measure judges against people's labels of real answers: keyword and prefix unless others are named.

    A final_label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal, counted as a refusal).
    """
    from ripcurrent.cli._agreement import show_validations
    from ripcurrent.evaluate import JUDGES, validate_judges

    settings = judging.judge_settings(device)
    with output.progress() as progress:
        found = validate_judges(files, judging.judge or JUDGES, settings, seed=seed, progress=progress)
    output.answer(lambda: {one.judge: one.to_json() for one in found}, lambda: show_validations(found))


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
    from ripcurrent.report import build_rating_page

    if not reveal:
        raise RipcurrentError(
            "A rating page shows what the models answered, unmasked, and answers are shown only when asked for.",
            "If the raters know what they will read, give the command again with --reveal.",
        )
    draw = draw_ratings(run, per_arm=per_arm, axis=axis, seed=seed)
    page = out or run / "rating.html"
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
    output.answer(lambda: {"page": str(page), "key": str(key), **facts}, lambda: say(*lines))


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
    from ripcurrent.cli._agreement import show_people
    from ripcurrent.evaluate import agree

    result = agree(files, key=key, run=run, complied_from=complied_from, seed=seed)
    output.answer(result.to_json, lambda: show_people(result))
