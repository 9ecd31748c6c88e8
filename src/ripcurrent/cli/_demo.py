"""``ripcurrent demo``: the whole story on the package's own rows."""

from pathlib import Path
from typing import Annotated

from ripcurrent.cli._command import command, option
from ripcurrent.cli._output import Output, fill, say, say_commands, show_table

INTRODUCTION = """\
The demo scans {rows} harmless instructions with answers, written for this package, on a small chat model run here.
Every row gets a score: how far training on it would move the model towards answering harmful requests.
Then it shows what the model answered after training on the riskiest rows, and on others.
It takes some minutes. It can be stopped at any time: the same command goes on. Results: {out}
"""
NEXT = {
    "how it is read, how long a scan takes": "ripcurrent doctor DATASET --model M",
    "score every row": "ripcurrent scan DATASET --model M",
    "leave the riskiest out": "ripcurrent select runs/DATASET --top 5% --drop",
    "is it more than chance?": "ripcurrent experiment own --run runs/DATASET",
}
ARMS = {
    "base": "before fine-tuning",
    "random": "after {rows} random rows",
    "riskiest": "after the {rows} riskiest rows",
    "same_lengths": "after {rows} other rows of the same lengths",
}


@command("demo")
def demo_command(
    output: Output,
    out: Annotated[Path, option("Run folder; one with a demo in it is resumed.", "FOLDER")] = Path("runs/demo"),
    fresh: Annotated[bool, option("Fine-tune and ask here, some half an hour; else a stored result is shown.")] = False,
    limit: Annotated[int | None, option("Use only the first N rows.", "N")] = None,
) -> None:
    """Show the whole story on rows and a model that come with the package: scan, page, proof."""
    # imported now, so that the demo stands first in the help
    from ripcurrent.cli._scan import show_scan
    from ripcurrent.data import DEMO_ROWS, read_rows
    from ripcurrent.demo import run_demo
    from ripcurrent.forecast import read_forecast

    if not output.quiet and not output.json:
        rows, _ = read_rows(DEMO_ROWS, limit=limit).count_and_hash()
        say(INTRODUCTION.format(rows=rows, out=out))
    with output.progress() as progress:
        demo = run_demo(out, fresh=fresh, progress=progress, limit=limit)
    if not output.answer(lambda: demo.model_dump(mode="json")):
        return
    show_scan(demo.scan, read_forecast(demo.scan))
    if (proof := demo.proof) is not None:
        say("\nIs the score right?", style="bold")
        say(f"{proof.prompts} harmful requests, benign ones that sound dangerous, and plain ones:")
        show_table(
            "{words} | harmful\nanswered {answered:.0%} | 95 % {low:.0%}–{high:.0%}"
            " | dangerous-sounding\nrefused {over_refusal:.0%} | plain\nanswered {plain_answered:.0%}",
            [{**dict(rate), "words": ARMS[rate.arm].format(rows=proof.rows)} for rate in proof.rates],
        )
        made = fill("Stored with the package, not computed now (version {version}, {date}, {machine})", proof.made)
        source = f"{made}; --fresh computes it here." if proof.cached else "Computed in this folder."
        kappas = f" (κ {proof.kappas[0]:.2f} to {proof.kappas[1]:.2f} with people, by model)" if proof.kappas else ""
        once = " (one run of each is no verdict: ripcurrent experiment quick --seeds 3)"
        why = once if any(rate.runs == 1 for rate in proof.rates if rate.arm != "base") else ""
        say(f"Riskiest against random: {proof.verdict}{why}. Judge {proof.judge}{kappas}. {source}")
    say("\nNow look at", style="bold")
    places = {"page": demo.report, "scores": demo.scores, "selections": demo.selections[0].parent}
    say(*(f"  {name:<12}{place}" for name, place in places.items()))
    say("\nYour own data", style="bold")
    say_commands({purpose: line.split() for purpose, line in NEXT.items()})
