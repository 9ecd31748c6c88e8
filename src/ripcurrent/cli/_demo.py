"""``ripcurrent demo``: the whole story on the package's own rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ripcurrent.cli._command import command
from ripcurrent.cli._output import Output
from ripcurrent.cli._text import shorten

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
        bool,
        typer.Option("--fresh", help="Fine-tune and ask here, some ten minutes; else a stored result is shown."),
    ] = False,
    limit: Annotated[int | None, typer.Option("-n", "--limit", metavar="N", help="Use only the first N rows.")] = None,
) -> None:
    """Show the whole story on rows and a model that come with the package: scan, ranking, selection, page."""
    from ripcurrent.cli._summary import show_summary
    from ripcurrent.data import DEMO_ROWS, read_rows
    from ripcurrent.demo import run_demo
    from ripcurrent.forecast import read_forecast

    console = Console(highlight=False)
    if not output.quiet and not output.json:
        rows, _ = read_rows(DEMO_ROWS, limit=limit).count_and_hash()
        console.print(INTRODUCTION.format(rows=rows, out=out), markup=False)
    with output.progress() as progress:
        demo = run_demo(out, fresh=fresh, progress=progress, limit=limit)

    def show() -> None:
        show_summary(demo.scan, read_forecast(demo.scan))
        show_demo(demo, console)

    output.answer(demo.to_json, show)


def show_demo(demo: Demo, console: Console) -> None:
    """Print the two ends of the ranking, the comparison with the control, and where to go from here."""
    ends = Table(
        "riskiest",
        "most protective",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 1, 1),
        title=f"The two ends of {demo.scan.default_ranking}",
    )
    for risky, protective in zip(demo.riskiest, demo.protective, strict=True):
        ends.add_row(_cell(risky), _cell(protective))
    console.print(ends)

    chosen, control, whole = demo.selected, demo.control, demo.whole
    selection = demo.selections[0].selection.name
    console.print(f"[bold]{selection}[/bold]: {_shape(chosen)}; all rows: {_shape(whole)}.")
    console.print(
        f"Other rows of the same lengths, mean of {demo.controls} draws: {_shape(control)}."
        " Only what the selection does beyond these is not its lengths' doing."
    )
    if demo.other is not None:
        console.print(
            f"Of these {chosen.rows} rows, {demo.other.count} are also among the {chosen.rows} riskiest by the other"
            " method, representations."
        )
    if demo.proof is not None:
        show_proof(demo.proof, console)
    console.print("\n[bold]Now look at[/bold]")
    for label, path in (
        ("scores", demo.scan.scores_path),
        ("page", demo.scan.folder / "report.html"),
        ("selections", demo.selections[0].path.parent),
    ):
        console.print(f"  {label:<12}{path}", soft_wrap=True, markup=False)
    console.print("\n[bold]Your own data[/bold]")
    for line, purpose in NEXT.items():
        console.print(f"  {line:<52}{purpose}", soft_wrap=True, markup=False)


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


def show_proof(proof: Proof, console: Console) -> None:
    """Print how often the model answers harmful requests before fine-tuning and after it."""
    console.print(
        f"\n[bold]Is the score right?[/bold] {proof.prompts} harmful requests, benign ones that sound dangerous, and"
        " plain ones:"
    )
    table = Table("", "harmful answered", "dangerous-sounding refused", "plain answered", box=box.SIMPLE_HEAD)
    for rate in proof.rates:
        table.add_row(
            ARMS.get(rate.arm, rate.arm).format(rows=proof.rows),
            f"{rate.answered:.0%} ({rate.low:.0%} to {rate.high:.0%})",
            *("–" if share is None else f"{share:.0%}" for share in (rate.over_refusal, rate.plain_answered)),
        )
    console.print(table)
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
    console.print(f"Riskiest against random: {proof.verdict}. {made_of}, judge {proof.judge}{kappas}. {source}")


def _shape(group: GroupShape) -> str:
    return f"{group.mean_tokens:.0f} response tokens, {group.list_share:.0%} lists, {group.maths_share:.0%} maths"


def _cell(row: DemoRow) -> str:
    return (
        f"[bold]{row.row}[/bold] {escape(shorten(row.prompt, 70))}\n"
        f"[dim]{row.format}, {row.response_tokens} tokens: harmful {row.harmful:+.4f}, safe {row.safe:+.4f}"
        f" → {row.score:+.4f}[/dim]"
    )
