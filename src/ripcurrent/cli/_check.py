"""``ripcurrent check``: did fine-tuning break the model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from ripcurrent.cli._command import ADVANCED, argument, command, option
from ripcurrent.cli._judges import JUDGING, JudgingOptions
from ripcurrent.cli._output import Output, fill, say, show_table
from ripcurrent.data import TokenOptions
from ripcurrent.errors import ExitCode
from ripcurrent.evaluate import CheckOptions

if TYPE_CHECKING:
    from ripcurrent.evaluate import CheckRun
    from ripcurrent.gate import GateRun

PANELS = {
    "What is compared": ("model", "tuned", "adapter", "endpoint", "recipe", "runs", "trainer"),
    "What fails": ("max_increase", "bound"),
    "Prompts": ("prompts", "limit", "judge"),
    ADVANCED: (
        *("base_endpoint", "own_templates", "format", "mapping", "spec", "max_tokens", "device", "dtype", "axis"),
        *("max_new_tokens", "batch_size", "system", "timeout", *JUDGING, "task", "task_limit"),
        *("junit", "summary", "reveal"),
    ),
}
EXAMPLES = (
    "ripcurrent check -m Qwen/Qwen2.5-7B-Instruct --adapter out/adapter -o runs/check",
    "ripcurrent check -m Qwen/Qwen2.5-7B-Instruct --tuned out/merged --max-increase 3 -o runs/check",
    "ripcurrent check support.jsonl -m Qwen/Qwen2.5-7B-Instruct --recipe lora --runs 3 -o runs/check",
)
CODES = {"ok": ExitCode.OK, "worse": ExitCode.GATE_FAILED, "cannot tell": ExitCode.NOT_ENOUGH_EVIDENCE}
COLORS = {"ok": "bold green", "worse": "bold red", "cannot tell": "bold yellow"}
BASE = option("The model before fine-tuning: hub id, folder, .gguf file or embedded. Default: embedded.", "M")
TUNED = option("The tuned model: folder, hub id, or its name at --endpoint.", "M")
REVEAL = option("Show answers on the page, in report-revealed.html; else verdicts only.")


@command("check", PANELS, EXAMPLES, without=("answers",))
def check_command(
    *,
    rows: Annotated[str | None, argument("[ROWS]", "Rows to train the model on, instead of a tuned model.")] = None,
    out: Annotated[Path, option("Run folder.", "FOLDER")],
    model: Annotated[str | None, BASE] = None,
    tuned: Annotated[str | None, TUNED] = None,
    options: CheckOptions,
    reading: TokenOptions,
    judging: JudgingOptions,
    output: Output,
    junit: Annotated[Path | None, option("Write the verdict as a JUnit file.", "FILE")] = None,
    summary: Annotated[Path | None, option("Add the verdict as Markdown, as for a pull request.", "FILE")] = None,
    reveal: Annotated[bool, REVEAL] = False,
) -> None:
    """Did fine-tuning break the model? Ask base and tuned model the same prompts, and compare.

    Exits with 0 for ok, 3 for worse, 4 where it cannot tell. A check that was stopped continues when given again.
    """
    from ripcurrent.evaluate import DEFAULT_JUDGES, Training, check, find_judges

    output.say_default_model(model is not None)
    base = model or "embedded"
    training = None if rows is None else Training.of(rows, base, reading, options)
    with output.progress() as progress:
        judges = find_judges(judging.judge or DEFAULT_JUDGES, judging.judge_settings(options.device))
        run = check(base, tuned, out=out, training=training, options=options, judges=judges, progress=progress)
    show_check(run, output, junit, summary, reveal)


def write_verdict(run: CheckRun | GateRun, junit: Path | None, summary: Path | None) -> None:
    """Write the files that were asked for."""
    from ripcurrent.report import write_junit, write_markdown

    if junit is not None:
        write_junit(run, junit)
    if summary is not None:
        write_markdown(run, summary)


def show_check(
    run: CheckRun, output: Output, junit: Path | None = None, summary: Path | None = None, reveal: bool = False
) -> NoReturn:
    """Build a check's page, write what was asked for, print the verdict, and exit with its code."""
    from ripcurrent.report import build_check_page

    page = build_check_page(run, reveal=reveal)
    write_verdict(run, junit, summary)
    found = run.manifest
    if output.answer(run.to_json):
        show_table(
            "what {what} | before {before} | after {after}",
            [{"what": what, "before": before, "after": after} for what, before, after in found.table()],
            caption=fill("by judge {judge} {judge_version}, lowest κ with people {lowest_kappa:.2f}", found),
        )
        if found.categories:
            show_table(
                "category {category} | requests {n} | before {before:.0%} | after {after:.0%}", found.categories[:5]
            )
        if found.difference.newly_answered is not None:
            say(fill("Newly answered: {newly_answered}, newly refused: {newly_refused}", found.difference))
        say(*found.notes)
        change = fill("{before.harmful_answered:.0%} → {after.harmful_answered:.0%} ", found)
        change += fill("({points:+.1f} points, {low:+.1f} to {high:+.1f})", found.difference)
        say(f"Harmful requests answered: {change}: {found.verdict.upper()}", style=COLORS[found.verdict])
        say(found.reason, f"Page: {page}")
    raise typer.Exit(int(CODES[found.verdict]))
