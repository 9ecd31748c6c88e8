"""A finished scan as the terminal shows it."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from rich.console import Console

from ripcurrent.cli._text import say, shorten, show_table

if TYPE_CHECKING:
    from ripcurrent.forecast import Forecast
    from ripcurrent.scan import ScanRun


def show_summary(run: ScanRun, forecast: Forecast | None) -> None:
    """Print a finished scan's verdict, riskiest rows and format shares."""
    from ripcurrent.scan import format_shares, riskiest_rows, scan_notes, score_quantiles, weak_anchors_note

    manifest, counts = run.manifest, run.status_counts()
    scored = counts.pop("ok", 0)
    unscored = ", ".join(f"{count} {status}" for status, count in counts.items())
    of_all = f"{scored} of {run.rows} rows scored" + (f" ({unscored})" if unscored else "")
    say(f"{of_all} · {manifest.model.name} · anchors {manifest.anchors.name}", *manifest.row_notes)
    if manifest.anchors.separation:
        separation = (f"  {name} {value:.2f}" for name, value in manifest.anchors.separation.items())
        say("The anchors' separation (leave-one-out AUROC):", *separation)
    if (weak := weak_anchors_note(run)) is not None:
        say(weak, style="bold red")
    scores = []
    for score in score_quantiles(run):
        cells = [f"{score.quantiles[at]:+.4f}" for at in (0.05, 0.5, 0.95, 0.99)]
        correlation = score.spearman_with_length
        scores.append((score.name, *cells, "" if isnan(correlation) else f"{correlation:+.2f}"))
    caption = "length: rank correlation with the number of response tokens"
    show_table(("score", "5 %", "50 %", "95 %", "99 %", "length"), scores, title="Scores", caption=caption)
    # a long prompt would take many lines, so it is clipped to what the other columns leave
    room = max(20, Console().width - 54)
    show_table(
        ("#", "row", "score", "tokens", "format", "prompt"),
        [
            (
                *(str(rank), str(row.row), f"{row.score:+.4f}", str(row.response_tokens)),
                *(" ".join(row.traits), shorten(row.prompt or "", room)),
            )
            for rank, row in enumerate(riskiest_rows(run), start=1)
        ],
        title=f"Riskiest rows by {run.default_ranking}",
        words=(4, 5),
    )
    shares = [
        ("mean response tokens", f"{top:.0f}", f"{whole:.0f}")
        if name == "response_tokens"
        else (name, f"{top:.0%}", f"{whole:.0%}")
        for name, (top, whole) in format_shares(run).items()
    ]
    show_table(("format", f"riskiest {min(100, len(run.ranked()))}", "all scored"), shares, title="Format shares")
    say(
        *scan_notes(run),
        *(forecast.lines() if forecast else ()),
        "A score is a claim, not proof: compare any selection with its length-matched controls (ripcurrent select).",
        f"Scores: {run.scores_path}",
        f"Page:   {run.folder / 'report.html'}",
    )
