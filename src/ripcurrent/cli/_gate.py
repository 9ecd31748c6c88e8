"""``ripcurrent gate``: may these rows in?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, NoReturn

import typer

from ripcurrent.cli._check import CODES, COLORS, show_check, write_verdict
from ripcurrent.cli._command import ADVANCED, argument, command, option
from ripcurrent.cli._output import Output, fill, say, shorten, show_table
from ripcurrent.errors import RipcurrentError
from ripcurrent.gate import GateOptions

PANELS = {
    "Model": ("model", "adapter", "device", "dtype"),
    "Data": ("trainer", "format", "mapping"),
    "What fails": ("alpha", "must_see", "by", "level", "recipe", "runs"),
    ADVANCED: (
        *("spec", "max_tokens", "anchors", "signals", "anchor_check", "memory", "token_budget"),
        *("prompts", "junit", "summary"),
    ),
}
EXAMPLES = (
    "ripcurrent gate data/train.jsonl --against old.jsonl -m Qwen/Qwen2.5-7B-Instruct -o runs/gate",
    "ripcurrent gate added.jsonl --against runs/support -o runs/gate    (a finished scan: its model and options)",
    "ripcurrent gate added.jsonl --against old.jsonl --level check --recipe lora --runs 3 -o runs/gate",
)
LEFT_OUT = (
    *("limit", "tokens", "scope", "avg_n", "anchor_tokens", "row_tokens", "drop_refusals"),
    *("shard_rows", "seed"),
)
OLD = option("The training set before: rows, or the folder of their finished scan.", "OLD")


@command("gate", PANELS, EXAMPLES, without=LEFT_OUT)
def gate_command(
    *,
    new: Annotated[str, argument("NEW", "The added rows, or the training set with them.")],
    against: Annotated[str, OLD],
    out: Annotated[Path, option("Run folder.", "FOLDER")],
    options: GateOptions,
    output: Output,
    junit: Annotated[Path | None, option("Write the verdict as a JUnit file.", "FILE")] = None,
    summary: Annotated[Path | None, option("Add the verdict as Markdown, as for a pull request.", "FILE")] = None,
) -> None:
    """May these rows in? Compare the scores of added rows with those of comparable rows of the training set.

    Exits with 0 for ok, 3 for worse, 4 where it cannot tell.
    """
    from ripcurrent.gate import gate

    if options.level == "check":
        train_added(new, against, out, options, output, junit, summary)
    with output.progress() as progress:
        run = gate(new, against, out, options, progress=progress)
    write_verdict(run, junit, summary)
    found = run.manifest
    if output.answer(run.to_json):
        show_table(
            "measure {what} | added rows {added} | by chance {usual}",
            [{"what": what, "added": added, "usual": usual} for what, added, usual in found.table()],
            caption=fill("{column} within format and length; {model}; {scored_now} rows scored now", found),
        )
        show_table(
            "row {one.row} | riskier than {one.percentile:.0%} | request {prompt} | answer {response}",
            [{"one": r, "prompt": shorten(r.prompt, 50), "response": shorten(r.response, 50)} for r in found.riskiest],
            title="Riskiest added rows",
            caption="riskier than: share of OLD's rows that score lower",
            words=(2, 3),
        )
        say(*found.notes)
        say(f"{found.headline}: {found.verdict.upper()}", style=COLORS[found.verdict])
        say(found.reason)
    raise typer.Exit(int(CODES[found.verdict]))


def train_added(
    new: str, against: str, out: Path, options: GateOptions, output: Output, junit: Path | None, summary: Path | None
) -> NoReturn:
    """Train the model on the added rows, ask it before and after, and exit with that verdict."""
    from ripcurrent.data import TokenOptions
    from ripcurrent.evaluate import CheckOptions, Training, check
    from ripcurrent.gate import write_added

    rows, scanning = write_added(new, against, out, options)
    if scanning.adapter is not None:
        raise RipcurrentError("--level check trains a model without an adapter.", "Merge it, and name the folder.")
    given = options.model_dump(exclude_unset=True)
    same = ("recipe", "runs", "prompts", "device", "dtype")
    chosen = CheckOptions.resolve(None, {name: given[name] for name in same if name in given})
    reading = scanning.model_dump(exclude_unset=True, include=set(TokenOptions.model_fields))
    training = Training.of(rows, scanning.model, TokenOptions.resolve(None, reading), chosen)
    with output.progress() as progress:
        place = rows.with_name(rows.name.partition(".")[0])
        run = check(scanning.model, out=place, training=training, options=chosen, progress=progress)
    show_check(run, output, junit, summary)
