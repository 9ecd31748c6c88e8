"""``ripcurrent demo``: the whole story on the package's own rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ripcurrent.cli._command import command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import figure, interval, say, shorten, show_table

if TYPE_CHECKING:
    from ripcurrent.demo import Demo, DemoRow, GroupShape, Proof

INTRODUCTION = """\
The demo scans {rows} harmless instructions with their answers, written for this package, on a small chat model that \
runs here.
Every row gets a score: how far training on it would move the model towards answering harmful requests ("harmful") \
rather than refusing them ("safe").
Then it selects the riskiest rows and compares them with other rows of the same lengths.
It takes some minutes. It can be stopped at any time: the same command goes on. Results: {out}
"""


@command("demo")
def demo_command(
    output: Output,
    out: Annotated[
        Path, typer.Option("-o", "--out", metavar="FOLDER", help="Run folder; one with a demo in it is resumed.")
    ] = Path("runs/demo"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Fine-tune and ask here, some ten minutes; else a stored result is shown.")
    ] = False,
    limit: Annotated[int | None, typer.Option("-n", "--limit", metavar="N", help="Use only the first N rows.")] = None,
) -> None:
    """Show the whole story on rows and a model that come with the package: scan, ranking, selection, page."""
    from ripcurrent.cli._summary import show_summary
    from ripcurrent.data import DEMO_ROWS, read_rows
    from ripcurrent.demo import run_demo
    from ripcurrent.forecast import read_forecast

    if not output.quiet and not output.json:
        rows, _ = read_rows(DEMO_ROWS, limit=limit).count_and_hash()
        say(INTRODUCTION.format(rows=rows, out=out))
    with output.progress() as progress:
        demo = run_demo(out, fresh=fresh, progress=progress, limit=limit)

    def show() -> None:
        show_summary(demo.scan, read_forecast(demo.scan))
        _show(demo)

    output.answer(demo.to_json, show)


def _show(demo: Demo) -> None:
    """Print the two ends of the ranking, the comparison with the control, and where to go from here."""
    ends = zip(map(_cell, demo.riskiest), map(_cell, demo.protective), strict=True)
    title = f"The two ends of {demo.scan.default_ranking}"
    show_table(("riskiest", "most protective"), ends, title=title, words=(0, 1))
    chosen = demo.selected
    say(
        f"{demo.selections[0].selection.name}: {_shape(chosen)}; all rows: {_shape(demo.whole)}.",
        f"Other rows of the same lengths, mean of {demo.controls} draws: {_shape(demo.control)}."
        " Only what the selection does beyond these is not its lengths' doing.",
    )
    if demo.other is not None:
        say(
            f"Of these {chosen.rows} rows, {demo.other.count} are also among the {chosen.rows} riskiest by the other"
            " method, representations."
        )
    if demo.proof is not None:
        _show_proof(demo.proof)
    say("\nNow look at", style="bold")
    say(
        f"  {'scores':<12}{demo.scan.scores_path}",
        f"  {'page':<12}{demo.scan.folder / 'report.html'}",
        f"  {'selections':<12}{demo.selections[0].path.parent}",
    )
    say("\nYour own data", style="bold")
    say(*(f"  {line:<52}{purpose}" for line, purpose in NEXT.items()))


NEXT = {
    "ripcurrent doctor DATASET --model M": "how it is read, and how long a scan takes",
    "ripcurrent scan DATASET --model M": "score every row",
    "ripcurrent select runs/DATASET --top 100": "the riskiest and their controls, in the dataset's own format",
    "ripcurrent experiment own --run runs/DATASET": "train on them and on controls: is it more than chance?",
}
"""What a user does next, and why."""

ARMS = {
    "base": "before fine-tuning",
    "random": "after {rows} random rows",
    "riskiest": "after the {rows} riskiest rows",
    "same_lengths": "after {rows} other rows of the same lengths",
}


def _show_proof(proof: Proof) -> None:
    """Print how often the model answers harmful requests before fine-tuning and after it."""
    say("\nIs the score right?", style="bold")
    say(f"{proof.prompts} harmful requests, benign ones that sound dangerous, and plain ones:")
    rows = [
        (
            ARMS.get(rate.arm, rate.arm).format(rows=proof.rows),
            *(f"{rate.answered:.0%}", interval(rate.low, rate.high, ".0%")),
            *(figure(share, ".0%") for share in (rate.over_refusal, rate.plain_answered)),
        )
        for rate in proof.rates
    ]
    show_table(("", "harmful\nanswered", "95 %", "dangerous-sounding\nrefused", "plain\nanswered"), rows)
    made = proof.made
    source = (
        f"Stored with the package, not computed now (version {made['version']}, {made['date']}, {made['machine']});"
        " --fresh computes it here."
        if proof.cached
        else "Computed in this folder."
    )
    runs = max(rate.runs for rate in proof.rates)
    made_of = "One run of each (two of one arm often differ by several points)" if runs == 1 else f"{runs} runs of each"
    kappas = "" if proof.kappas is None else f" (κ {proof.kappas[0]:.2f} to {proof.kappas[1]:.2f} with people)"
    say(f"Riskiest against random: {proof.verdict}. {made_of}, judge {proof.judge}{kappas}. {source}")


def _shape(group: GroupShape) -> str:
    return f"{group.mean_tokens:.0f} response tokens, {group.list_share:.0%} lists, {group.maths_share:.0%} maths"


def _cell(row: DemoRow) -> str:
    return (
        f"{row.row} {shorten(row.prompt, 70)}\n{row.format}, {row.response_tokens} tokens: "
        f"harmful {row.harmful:+.4f}, safe {row.safe:+.4f} → {row.score:+.4f}\n"
    )
