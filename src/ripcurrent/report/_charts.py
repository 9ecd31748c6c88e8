"""The page's plots as Vega-Lite specifications.

Colours are the page's own CSS variables, so that a change of theme needs no redraw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from ripcurrent.report._summary import ScoreSummary

POINTS = 3_000
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
LENGTH_TICKS = tuple(step * 10**power for power in range(7) for step in (1, 2, 5))

Spec = dict[str, Any]


def _ends(summary: ScoreSummary) -> tuple[str, str]:
    return f"riskiest {summary.end_rows}", f"safest {summary.end_rows}"


def _finish(chart: alt.LayerChart, height: int) -> Spec:
    axis = {
        "labelColor": "var(--muted)",
        "titleColor": "var(--ink)",
        "gridColor": "var(--grid)",
        "domainColor": "var(--line-strong)",
        "tickColor": "var(--line-strong)",
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": 500,
        "titlePadding": 8,
        "tickSize": 4,
        "labelLimit": 140,
    }
    legend = {
        "orient": "top",
        "title": None,
        "labelColor": "var(--ink)",
        "labelFontSize": 12,
        "symbolSize": 70,
        "offset": 6,
        "columnPadding": 16,
        "symbolOpacity": 1,
    }
    finished = (
        chart.properties(width="container", height=height, background="transparent", padding=4)
        .configure(font=FONT, aria=False, axis=axis, legend=legend)
        .configure_view(stroke=None)
    )
    spec: Spec = finished.to_dict()
    del spec["$schema"]
    return spec


def distribution_spec(summary: ScoreSummary) -> Spec:
    """Histogram of one score with its median and the cuts of its ends; datasets ``bins`` and ``cuts``."""
    riskiest, safest = _ends(summary)
    bars = (
        alt.Chart(alt.NamedData("bins"))
        .mark_bar(color="var(--bar)", binSpacing=1)
        .encode(
            x=alt.X("low:Q", bin="binned", title=summary.name, axis=alt.Axis(grid=False, format="~g", tickCount=6)),
            x2="high:Q",
            y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickCount=5, domain=False, ticks=False)),
            tooltip=[
                alt.Tooltip("low:Q", title="from", format=".4~g"),
                alt.Tooltip("high:Q", title="to", format=".4~g"),
                alt.Tooltip("rows:Q", title="rows", format=","),
            ],
        )
    )
    names = [safest, "median", riskiest]
    colour = alt.Scale(domain=names, range=["var(--safe)", "var(--ink)", "var(--risk)"])
    dash = alt.Scale(domain=names, range=[[6, 3], [1, 0], [6, 3]])
    cuts = (
        alt.Chart(alt.NamedData("cuts"))
        .mark_rule(size=2)
        .encode(
            x=alt.X("value:Q"),
            color=alt.Color("cut:N", scale=colour, legend=alt.Legend(symbolType="stroke", symbolSize=380)),
            strokeDash=alt.StrokeDash("cut:N", scale=dash, legend=alt.Legend(symbolType="stroke", symbolSize=380)),
            tooltip=[alt.Tooltip("cut:N", title="cut"), alt.Tooltip("value:Q", title="score", format=".4~g")],
        )
    )
    return _finish(alt.layer(bars, cuts), 262)


def _length_ticks(shortest: float, longest: float) -> list[float] | None:
    """Ticks of the lengths between two; None where fewer than two lie there, and the axis chooses its own."""
    ticks = [tick for tick in LENGTH_TICKS if shortest <= tick <= longest]
    if len(ticks) > 12:
        ticks = [tick for tick in ticks if str(tick)[0] == "1"]
    return ticks if len(ticks) > 1 else None


def length_spec(summary: ScoreSummary, shortest: float, longest: float) -> Spec:
    """One score against response length with its median by length; datasets ``points`` and ``bands``."""
    riskiest, safest = _ends(summary)
    names = [safest, "between", riskiest]
    ticks = _length_ticks(shortest, longest)
    length = alt.X(
        "length:Q",
        scale=alt.Scale(type="log", nice=False, padding=12),
        title="response length, tokens (log scale)",
        axis=alt.Axis(grid=False, format="~s", **({"values": ticks} if ticks else {})),
    )
    points = (
        alt.Chart(alt.NamedData("points"))
        .mark_point(filled=True, size=20)
        .encode(
            x=length,
            y=alt.Y("score:Q", title=summary.name, scale=alt.Scale(zero=False, nice=False, padding=10)),
            color=alt.Color("end:N", scale=alt.Scale(domain=names, range=["var(--safe)", "var(--dot)", "var(--risk)"])),
            shape=alt.Shape("end:N", scale=alt.Scale(domain=names, range=["square", "circle", "triangle-up"])),
            opacity=alt.condition("datum.end === 'between'", alt.value(0.55), alt.value(0.9)),
            tooltip=[
                alt.Tooltip("row:Q", title="row", format="d"),
                alt.Tooltip("length:Q", title="tokens", format=","),
                alt.Tooltip("score:Q", title="score", format=".4~g"),
            ],
        )
    )
    by_length = alt.Chart(alt.NamedData("bands")).encode(x=length, detail="segment:N")
    spread = by_length.mark_area(color="var(--ink)", opacity=0.1).encode(y=alt.Y("low:Q"), y2="high:Q")
    median = by_length.mark_line(color="var(--ink)", size=2, point={"color": "var(--ink)", "size": 22}).encode(
        y=alt.Y("median:Q")
    )
    return _finish(alt.layer(points, spread, median), 300)


def formats_spec(summary: ScoreSummary, traits: Sequence[str]) -> Spec:
    """Share of every format trait at both ends of one ranking and among all rows; dataset ``shares``."""
    riskiest, safest = _ends(summary)
    names = [safest, "all scored", riskiest]
    # Never narrower than 10 %, so that a trait of one row in a hundred does not look like a difference.
    largest = max([0.1, *(max(share.riskiest, share.safest, share.all) for share in summary.shares)]) * 1.04
    trait = alt.Y("trait:N", title=None, sort=list(traits), axis=alt.Axis(ticks=False, domain=False, labelPadding=8))
    shares = alt.Chart(alt.NamedData("shares"))
    span = shares.mark_rule(color="var(--line-strong)", size=2).encode(
        y=trait, x=alt.X("min(share):Q"), x2="max(share):Q"
    )
    marks = shares.mark_point(filled=True, size=95, opacity=1).encode(
        y=trait,
        x=alt.X(
            "share:Q",
            title="share of rows",
            scale=alt.Scale(domain=[0, largest], nice=False),
            axis=alt.Axis(format=".0%", tickCount=5),
        ),
        color=alt.Color("rows:N", scale=alt.Scale(domain=names, range=["var(--safe)", "var(--muted)", "var(--risk)"])),
        shape=alt.Shape("rows:N", scale=alt.Scale(domain=names, range=["square", "circle", "triangle-up"])),
        tooltip=[
            alt.Tooltip("trait:N"),
            alt.Tooltip("rows:N"),
            alt.Tooltip("share:Q", format=".1%"),
        ],
    )
    return _finish(alt.layer(span, marks), 230)
