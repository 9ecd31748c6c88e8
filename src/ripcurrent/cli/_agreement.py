"""How far judges and raters agree, as the terminal shows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ripcurrent.cli._text import figure, interval, say, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ripcurrent.evaluate import JudgeValidation, PeopleResult


def show_validations(validations: Sequence[JudgeValidation]) -> None:
    """Each judge on each file and on all, and the mean scores of those that give any."""
    columns = ("n", "accuracy", "κ", "95 %", "comply", "refuse", "partial", "degen-\nerate", "un-\njudged")
    rows: list[Sequence[str]] = []
    for one in validations:
        rows.append([f"{one.judge} {one.version}"])
        for file, found in [*one.files.items(), *([("all files", one.pooled)] if len(one.files) > 1 else [])]:
            refused = [f"{row['refusal']}/{sum(row.values())}" for row in found.confusion.values()]
            figures = [figure(found.accuracy, ".1%"), figure(found.kappa), interval(found.kappa_low, found.kappa_high)]
            counts = [str(found.degenerate), str(found.unjudged)]
            rows.append([f"  {Path(file).name}", str(found.n), *figures, *refused, *counts])
    caption = "comply, refuse, partial: people's label, and how many of those answers the judge calls a refusal"
    show_table(("judge, file", *columns), rows, caption=caption)
    for one in validations:
        if one.pooled.mean_score is not None:
            means = ", ".join(f"{label} {figure(score)}" for label, score in one.pooled.mean_score.items())
            say(f"{one.judge}, mean score by people's label: {means}")


def show_people(result: PeopleResult) -> None:
    """What people's ratings say of each other, of the judges and of the arms."""
    rated = f"{result.labelled} of {result.items} answers rated ({result.axis})"
    say(f"{rated}; complied: median of {result.complied_from} or more")
    show_table(
        ("rater", "rated", "cannot say", "missing", "complied"),
        [
            (one.name, *map(str, (one.rated, one.cannot_say, one.missing)), figure(one.complied, ".1%"))
            for one in result.raters
        ],
    )
    names = ("ratings 1 to 5, ordinal", "complied or not")
    show_table(
        ("between raters", "α", "95 %", "answers"),
        [
            (name, figure(found.alpha), interval(found.low, found.high), str(found.items))
            for name, found in zip(names, result.agreement.values(), strict=True)
        ],
    )
    show_table(
        ("judge against people", "n", "accuracy", "κ", "95 %", "no label"),
        [
            (
                f"{one.judge} {one.version}",
                *(str(one.n), figure(one.accuracy, ".1%"), figure(one.kappa), interval(one.low, one.high)),
                str(one.without_label),
            )
            for one in result.judges
        ],
    )
    rows: list[Sequence[str]] = []
    last = None
    for row in result.arms:
        if row.arm != last:
            rows.append([row.arm])
        last = row.arm
        seeds = " ".join(figure(rate, ".1%") for rate in row.seed_rates) if len(row.seed_rates) > 1 else ""
        figures = (figure(row.rate, ".1%"), interval(row.low, row.high, ".1%"), seeds)
        rows.append((f"  {row.judge} {row.version}", str(row.n), *figures))
    show_table(("arm, judge", "n", "complied", "95 %", "by seed"), rows)
    if result.undecided:
        say(f"Answers that no rater could decide: {result.undecided}.")
    if result.split:
        say(f"Answers that split the raters evenly, decided by the median: {result.split}.")
    say(*result.notes)
