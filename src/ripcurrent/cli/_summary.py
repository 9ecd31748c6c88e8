"""A finished scan as the terminal shows it."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from ripcurrent.cli._text import shorten

if TYPE_CHECKING:
    from ripcurrent.forecast import Forecast
    from ripcurrent.scan import ScanRun


def show_summary(run: ScanRun, forecast: Forecast | None) -> None:
    """Print a finished scan's verdict, riskiest rows and format shares."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from ripcurrent.scan import format_shares, riskiest_rows, scan_notes, score_quantiles, weak_anchors_note

    console, manifest, counts = Console(highlight=False), run.manifest, run.status_counts()
    scored = counts.pop("ok", 0)
    unscored = ", ".join(f"{count} {status}" for status, count in counts.items())
    of_all = f"{scored} of {run.rows} rows scored" + (f" ({unscored})" if unscored else "")
    console.print(Text(f"{of_all} · {manifest.model.name} · anchors {manifest.anchors.name}"))
    for note in manifest.row_notes:
        console.print(Text(note), soft_wrap=True)
    if manifest.anchors.separation:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in manifest.anchors.separation.items())
        console.print(Text(f"The anchors' separation (leave-one-out AUROC): {parts}"))
    if (weak := weak_anchors_note(run)) is not None:
        console.print(Text(weak, "bold red"))

    scores = Table(
        "score", "5 %", "50 %", "95 %", "99 %", "length", box=box.SIMPLE_HEAD, title="Scores", pad_edge=False
    )
    scores.columns[0].no_wrap = True
    scores.caption = "length: rank correlation with the number of response tokens"
    for score in score_quantiles(run):
        cells = [f"{score.quantiles[at]:+.4f}" for at in (0.05, 0.5, 0.95, 0.99)]
        correlation = score.spearman_with_length
        scores.add_row(score.name, *cells, "" if isnan(correlation) else f"{correlation:+.2f}")

    title = f"Riskiest rows by {run.default_ranking}"
    rows = Table("#", "row", "score", "tokens", "format", "prompt", box=box.SIMPLE_HEAD, title=title)
    # rich squeezes the numbers rather than a long text, so the text is clipped here
    room = max(20, console.width - 54)
    for rank, row in enumerate(riskiest_rows(run), start=1):
        cells = [str(rank), str(row.row), f"{row.score:+.4f}", str(row.response_tokens), " ".join(row.traits)]
        rows.add_row(*cells, Text(shorten(row.prompt or "", room)))

    top_rows = f"riskiest {min(100, len(run.ranked()))}"
    shares = Table("format", top_rows, "all scored", box=box.SIMPLE_HEAD, title="Format shares")
    for name, (top, whole) in format_shares(run).items():
        if name == "response_tokens":
            shares.add_row("mean response tokens", f"{top:.0f}", f"{whole:.0f}")
        else:
            shares.add_row(name, f"{top:.0%}", f"{whole:.0%}")
    console.print(scores, rows, shares, sep="\n")
    for line in (
        *scan_notes(run),
        *(forecast.lines() if forecast else ()),
        "A score is a claim, not proof: compare any selection with its length-matched controls (ripcurrent select).",
        f"Scores: {run.scores_path}",
        f"Page:   {run.folder / 'report.html'}",
    ):
        console.print(Text(line), soft_wrap=True)
