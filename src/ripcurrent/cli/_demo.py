"""``ripcurrent demo``: the whole story on the package's own rows."""

from pathlib import Path
from typing import Annotated

from ripcurrent.cli._command import command, option
from ripcurrent.cli._output import Output, fill, say, shorten, show_table
from ripcurrent.cli._scan import show_scan

INTRODUCTION = """\
The demo scans {rows} harmless instructions with answers, written for this package, on a small chat model run here.
Every row gets a score: how far training on it would move the model towards answering harmful requests.
Then it selects the riskiest rows and compares them with other rows of the same lengths.
It takes some minutes. It can be stopped at any time: the same command goes on. Results: {out}
"""
NEXT = {
    "ripcurrent doctor DATASET --model M": "how it is read, and how long a scan takes",
    "ripcurrent scan DATASET --model M": "score every row",
    "ripcurrent select runs/DATASET --top 100": "the riskiest and their controls, in the dataset's own format",
    "ripcurrent experiment own --run runs/DATASET": "train on them and on controls: is it more than chance?",
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
    fresh: Annotated[bool, option("Fine-tune and ask here, some ten minutes; else a stored result is shown.")] = False,
    limit: Annotated[int | None, option("Use only the first N rows.", "N")] = None,
) -> None:
    """Show the whole story on rows and a model that come with the package: scan, ranking, selection, page."""
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
    layout = "row {row} | score {score:+.4f} | harmful {harmful:+.4f} | safe {safe:+.4f} | tokens {response_tokens}"
    for end, found in (("riskiest", demo.riskiest), ("most protective", demo.protective)):
        shown = ({**dict(one), "prompt": shorten(one.prompt, 44)} for one in found)
        show_table(f"{layout} | format {{format}} | prompt {{prompt}}", shown, title=f"The {end} rows", words=(5, 6))
    same = f"other rows of the same lengths, mean of {demo.controls} draws"
    groups = {"the riskiest": demo.selected, same: demo.length_matched_control, "all rows": demo.all_rows}
    show_table(
        "rows {name} | number {of.rows} | response tokens {of.mean_tokens:.0f} | lists {of.list_share:.0%}"
        " | maths {of.maths_share:.0%}",
        [{"name": name, "of": group} for name, group in groups.items()],
        caption="Only what the selection does beyond rows of the same lengths is not its lengths' doing.",
    )
    if demo.shared_with_other_ranking is not None:
        say(fill("{count} of these rows are also the riskiest by representations.", demo.shared_with_other_ranking))
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
    places = {"scores": demo.scores, "page": demo.report, "selections": demo.selections[0].parent}
    say(*(f"  {name:<12}{place}" for name, place in places.items()))
    say("\nYour own data", style="bold")
    say(*(f"  {line:<52}{purpose}" for line, purpose in NEXT.items()))
