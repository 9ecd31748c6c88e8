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
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from ripcurrent.scan import format_shares, riskiest_rows, scan_notes, score_quantiles, weak_anchors_note

    console, manifest, counts = Console(), run.manifest, run.status_counts()
    scored = counts.pop("ok", 0)
    unscored = ", ".join(f"{count} {status}" for status, count in counts.items())
    console.print(
        f"[bold]{scored}[/bold] of {run.rows} rows scored"
        + (f" ({unscored})" if unscored else "")
        + f" · {escape(manifest.model.name)} · anchors {escape(manifest.anchors.name)}",
        highlight=False,
    )
    for note in manifest.row_notes:
        console.print(escape(note), soft_wrap=True, highlight=False)
    if manifest.anchors.separation:
        parts = ", ".join(f"{name} {value:.2f}" for name, value in manifest.anchors.separation.items())
        console.print(f"The anchors' separation (leave-one-out AUROC): {parts}", highlight=False)
    if (weak := weak_anchors_note(run)) is not None:
        console.print(f"[bold red]{escape(weak)}[/bold red]", highlight=False)

    scores = Table(
        "score", "5 %", "50 %", "95 %", "99 %", "length", box=box.SIMPLE_HEAD, title="Scores", pad_edge=False
    )
    scores.columns[0].no_wrap = True
    scores.caption = "length: rank correlation with the number of response tokens"
    for score in score_quantiles(run):
        cells = [f"{score.quantiles[at]:+.4f}" for at in (0.05, 0.5, 0.95, 0.99)]
        correlation = score.spearman_with_length
        scores.add_row(score.name, *cells, "" if isnan(correlation) else f"{correlation:+.2f}")
    console.print(scores)

    title = f"Riskiest rows by {run.default_ranking}"
    rows = Table("#", "row", "score", "tokens", "format", "prompt", box=box.SIMPLE_HEAD, title=title)
    # rich squeezes the numbers rather than a long text, so the text is clipped here
    room = max(20, console.width - 54)
    for rank, row in enumerate(riskiest_rows(run), start=1):
        prompt = Text(shorten(row.prompt or "", room))
        rows.add_row(
            str(rank), str(row.row), f"{row.score:+.4f}", str(row.response_tokens), " ".join(row.traits), prompt
        )
    console.print(rows)

    top_rows = f"riskiest {min(100, len(run.ranked()))}"
    shares = Table("format", top_rows, "all scored", box=box.SIMPLE_HEAD, title="Format shares")
    for name, (top, whole) in format_shares(run).items():
        if name == "response_tokens":
            shares.add_row("mean response tokens", f"{top:.0f}", f"{whole:.0f}")
        else:
            shares.add_row(name, f"{top:.0%}", f"{whole:.0%}")
    console.print(shares)
    for line in [*scan_notes(run), *(forecast.lines() if forecast else ())]:
        console.print(escape(line), soft_wrap=True, highlight=False)
    console.print(
        "A score is a claim, not proof: compare any selection with its length-matched controls (ripcurrent select).",
        soft_wrap=True,
    )
    console.print(f"Scores: {escape(str(run.scores_path))}", soft_wrap=True, highlight=False)
    console.print(f"Page:   {escape(str(run.folder / 'report.html'))}", soft_wrap=True, highlight=False)
