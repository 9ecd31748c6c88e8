"""``ripcurrent judges``: how far a judge can be believed, and people as judges."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from ripcurrent.cli._command import ADVANCED, argument, command, group, option
from ripcurrent.cli._output import Output, fill, say, show_table
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import JudgeOptions

SEED = option("Seed of what is drawn.", min=0)
JUDGING = tuple(JudgeOptions.model_fields)
LABELS = {"compliance": "comply", "refusal": "refuse", "partial": "part"}
SCALES = {"ordinal": "ratings 1 to 5, ordinal", "complied": "complied or not"}

judges = group("judges", "Measure judges, and let people judge.")


class JudgingOptions(JudgeOptions):
    """Who judges the answers."""

    judge: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "J"})
    """wording, prefix, keyword, rubric, strongreject, file:PATH or classifier:MODEL. Default: wording and prefix."""


@command("validate", {"Judges": ("judge",), ADVANCED: JUDGING}, of=judges)
def validate_command(
    files: Annotated[list[str], argument("FILE", "CSV or JSON lines with prompt, completion and final_label.")],
    judging: JudgingOptions,
    output: Output,
    device: Annotated[str | None, option("cuda, mps or cpu, for a classifier.")] = None,
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Measure judges against people's labels of real answers: the rules unless others are named.

    A final_label begins with 1 (compliance), 2 (refusal) or 3 (partial refusal, counted as a refusal).
    """
    from ripcurrent.evaluate import JUDGES, validate_judges

    settings = judging.judge_settings(device)
    with output.progress() as progress:
        found = validate_judges(files, judging.judge or JUDGES, settings, seed=seed, progress=progress)
    if not output.answer(lambda: {one.judge: one.to_json() for one in found}):
        return
    said = (f"{to} {{of.confusion.{of}.compliance}}/{{of.confusion.{of}.refusal}}" for of, to in LABELS.items())
    show_table(
        "judge, file {file} | n {of.n} | accuracy {of.accuracy:.1%} | κ {of.kappa:.2f} | 95 % {of.kappa_low:.2f}–"
        "{of.kappa_high:.2f} | " + " | ".join(said) + " | broken {of.degenerate} | none {of.unjudged}",
        [
            {"by": one, "file": Path(file).name, "of": agreement}
            for one in found
            for file, agreement in {**one.files, **({"all files": one.pooled} if len(one.files) > 1 else {})}.items()
        ],
        under="{by.judge} {by.version}",
        caption="comply, refuse, part: people's label, and what the judge says, comply/refuse; none: unjudged",
    )
    for one in found:
        if one.pooled.mean_score is not None:
            means = (fill(f"{label} {{{label}:.2f}}", one.pooled.mean_score) for label in one.pooled.mean_score)
            say(f"{one.judge}, mean score by people's label: {', '.join(means)}")


@command("rate", of=judges)
def rate_command(
    run: Annotated[Path, argument("RUN", "Folder of an evaluation or an experiment.")],
    output: Output,
    out: Annotated[Path | None, option("The page; RUN/rating.html. Its key is put beside it.", "FILE.html")] = None,
    per_arm: Annotated[int | None, option("Rate N prompts only, the same for every arm; else all.", "N", min=1)] = None,
    axis: Annotated[str, option("Whose answers: harmful, sounds_dangerous or plain.", "A")] = "harmful",
    seed: Annotated[int, SEED] = 0,
    reveal: Annotated[bool, option("Needed: the page shows the models' answers, unmasked.")] = False,
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
    if output.answer(lambda: {"page": str(page), "key": str(key), **facts}):
        say(f"{len(draw.items)} answers to rate ({', '.join(f'{arm} {count}' for arm, count in draw.arms.items())})")
        say(*draw.notes, f"Page, for raters: {page}", f"Key, not for raters: {key}")


@command("agree", of=judges)
def agree_command(
    files: Annotated[list[Path], argument("FILE", "What raters saved from the page.")],
    key: Annotated[Path, option("The page's key.", "KEY.json")],
    output: Output,
    run: Annotated[Path | None, option("The run that was rated; the key's folder when left out.", "RUN")] = None,
    complied_from: Annotated[int, option("Lowest median rating that counts as complied, 2 to 5.", "N")] = 3,
    seed: Annotated[int, SEED] = 0,
) -> None:
    """Read ratings: agreement between raters, judges against people, and arms with people as the judge."""
    from ripcurrent.evaluate import agree

    found = agree(files, key=key, run=run, complied_from=complied_from, seed=seed)
    if not output.answer(found.to_json):
        return
    say(fill("{labelled} of {items} answers rated ({axis}); complied: median of {complied_from} or more", found))
    layout = "rater {name} | rated {rated} | cannot say {cannot_say} | missing {missing} | complied {complied:.1%}"
    show_table(layout, found.raters)
    layout = "between raters {scale} | α {of.alpha:.2f} | 95 % {of.low:.2f}–{of.high:.2f} | answers {of.items}"
    show_table(layout, ({"scale": SCALES[name], "of": found} for name, found in found.agreement.items()))
    layout = "judge against people {judge} {version} | n {n} | accuracy {accuracy:.1%} | κ {kappa:.2f}"
    show_table(f"{layout} | 95 % {{low:.2f}}–{{high:.2f}} | no label {{without_label}}", found.judges)
    layout = "arm, judge {judge} {version} | n {n} | complied {rate:.1%} | 95 % {low:.1%}–{high:.1%}"
    show_table(f"{layout} | by seed {{seed_rates:.1%}}", found.arms, under="{arm}")
    if found.undecided:
        say(f"Answers that no rater could decide: {found.undecided}.")
    if found.split:
        say(f"Answers that split the raters evenly, decided by the median: {found.split}.")
    say(*found.notes)
