"""The pages' plots as Vega-Lite specifications; colours are the pages' own CSS variables."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from ripcurrent.report._page import Data
from ripcurrent.report._rows import ScoreSummary

ARM_HEIGHT = 26
LENGTH_TICKS = tuple(step * 10**power for power in range(7) for step in (1, 2, 5))
HARMFUL, BENIGN = "harmful", "only sound dangerous"


def distribution_spec(summary: ScoreSummary) -> Data:
    """Histogram of one score with its median and the cuts of its ends; datasets ``bins`` and ``cuts``."""
    bars = (
        alt.Chart(alt.NamedData("bins"))
        .mark_bar(color="var(--bar)", binSpacing=1)
        .encode(
            x=alt.X("low:Q", bin="binned", title=summary.name, axis=alt.Axis(grid=False, format="~g", tickCount=6)),
            x2="high:Q",
            y=alt.Y("rows:Q", title="rows", axis=alt.Axis(tickCount=5, domain=False, ticks=False)),
            tooltip=[_tip("low", ".4~g", "from"), _tip("high", ".4~g", "to"), _tip("rows", ",")],
        )
    )
    names = _ends(summary, "median")
    dash = alt.Scale(domain=names, range=[[6, 3], [1, 0], [6, 3]])
    legend = alt.Legend(symbolType="stroke", symbolSize=380)
    cuts = (
        alt.Chart(alt.NamedData("cuts"))
        .mark_rule(size=2)
        .encode(
            x=alt.X("value:Q"),
            color=alt.Color("cut:N", scale=_scale(names, "safe", "ink", "risk"), legend=legend),
            strokeDash=alt.StrokeDash("cut:N", scale=dash, legend=legend),
            tooltip=[alt.Tooltip("cut:N", title="cut"), _tip("value", ".4~g", "score")],
        )
    )
    return _finish(262, bars, cuts)


def length_ticks(shortest: float, longest: float) -> list[float] | None:
    """Ticks of the lengths between two; None where fewer than two lie there, and the axis chooses its own."""
    ticks = [tick for tick in LENGTH_TICKS if shortest <= tick <= longest]
    if len(ticks) > 12:
        ticks = [tick for tick in ticks if str(tick)[0] == "1"]
    return ticks if len(ticks) > 1 else None


def length_spec(summary: ScoreSummary, shortest: float, longest: float) -> Data:
    """One score against response length with its median by length; datasets ``points`` and ``bands``."""
    names = _ends(summary, "between")
    ticks = length_ticks(shortest, longest)
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
            color=alt.Color("end:N", scale=_scale(names, "safe", "dot", "risk")),
            shape=_end_shapes("end:N", names),
            opacity=alt.condition("datum.end === 'between'", alt.value(0.55), alt.value(0.9)),
            tooltip=[_tip("row", "d"), _tip("length", ",", "tokens"), _tip("score", ".4~g")],
        )
    )
    by_length = alt.Chart(alt.NamedData("bands")).encode(x=length, detail="segment:N")
    spread = by_length.mark_area(color="var(--ink)", opacity=0.1).encode(y=alt.Y("low:Q"), y2="high:Q")
    dots = {"color": "var(--ink)", "size": 22}
    median = by_length.mark_line(color="var(--ink)", size=2, point=dots).encode(y=alt.Y("median:Q"))
    return _finish(300, points, spread, median)


def formats_spec(summary: ScoreSummary, traits: Sequence[str]) -> Data:
    """Share of every format trait at both ends of one ranking and among all rows; dataset ``shares``."""
    names = _ends(summary, "all scored")
    # never narrower than 10 %, so that a trait of one row in a hundred does not look like a difference
    largest = max([0.1, *(max(share["riskiest"], share["safest"], share["all"]) for share in summary.shares)]) * 1.04
    trait = alt.Y("trait:N", title=None, sort=list(traits), axis=alt.Axis(ticks=False, domain=False, labelPadding=8))
    shares = alt.Chart(alt.NamedData("shares")).encode(y=trait)
    span = shares.mark_rule(color="var(--line-strong)", size=2).encode(x=alt.X("min(share):Q"), x2="max(share):Q")
    scale, axis = alt.Scale(domain=[0, largest], nice=False), alt.Axis(format=".0%", tickCount=5)
    marks = shares.mark_point(filled=True, size=95, opacity=1).encode(
        x=alt.X("share:Q", title="share of rows", scale=scale, axis=axis),
        color=alt.Color("rows:N", scale=_scale(names, "safe", "muted", "risk")),
        shape=_end_shapes("rows:N", names),
        tooltip=[alt.Tooltip("trait:N"), alt.Tooltip("rows:N"), _tip("share", ".1%")],
    )
    return _finish(230, span, marks)


def intervals_spec(arms: Sequence[str]) -> Data:
    """Rate of every arm with its 95 % interval and a point for each run; dataset ``points`` of one judge."""
    points = alt.Chart(alt.NamedData("points")).encode(y=_arms(arms))
    rate = _share("rate:Q", "harmful requests answered")
    means = points.transform_filter("datum.what === 'mean'")
    span = means.mark_rule(size=3, color="var(--bar)").encode(x=alt.X("low:Q"), x2="high:Q")
    runs = points.transform_filter("datum.what === 'run'")
    runs = runs.mark_point(filled=False, size=36, color="var(--muted)", opacity=1)
    runs = runs.encode(x=rate, tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("seed:Q"), _tip("rate", ".1%")])
    mean = means.mark_point(filled=True, size=90, color="var(--accent)", opacity=1).encode(x=rate, tooltip=_interval())
    return _finish(max(90, ARM_HEIGHT * len(arms)), span, runs, mean)


def judgement_spec(arms: Sequence[str]) -> Data:
    """Both kinds of refusals of every arm, joined by a line as long as its judgement; dataset ``refusals``."""
    refusals = alt.Chart(alt.NamedData("refusals")).encode(y=_arms(arms))
    span = refusals.mark_rule(size=3, color="var(--bar)").encode(x=alt.X("harmful:Q"), x2="benign:Q")
    tooltip = [
        alt.Tooltip("arm:N"),
        _tip("harmful", ".1%", "harmful refused"),
        _tip("benign", ".1%", "dangerous-sounding refused"),
        _tip("difference", "+.1%", "judgement"),
    ]
    names = [HARMFUL, BENIGN]
    ends = [
        refusals.transform_calculate(what=f"'{what}'")
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            x=_share(f"{field}:Q", "refused"),
            shape=alt.Shape("what:N", scale=alt.Scale(domain=names, range=["circle", "diamond"])),
            color=alt.Color("what:N", scale=_scale(names, "safe", "risk"), legend=alt.Legend(labelLimit=400)),
            tooltip=tooltip,
        )
        for what, field in ((BENIGN, "benign"), (HARMFUL, "harmful"))
    ]
    return _finish(max(90, ARM_HEIGHT * len(arms)), span, *ends)


def _ends(summary: ScoreSummary, between: str) -> list[str]:
    return [f"safest {summary.ends}", between, f"riskiest {summary.ends}"]


def _scale(names: Sequence[str], *colours: str) -> alt.Scale:
    return alt.Scale(domain=list(names), range=[f"var(--{colour})" for colour in colours])


def _end_shapes(field: str, names: Sequence[str]) -> alt.Shape:
    return alt.Shape(field, scale=alt.Scale(domain=list(names), range=["square", "circle", "triangle-up"]))


def _tip(field: str, form: str, title: str | None = None) -> alt.Tooltip:
    return alt.Tooltip(f"{field}:Q", format=form, title=title or field)


def _interval() -> list[Any]:
    return [alt.Tooltip("arm:N"), _tip("rate", ".1%"), _tip("low", ".1%"), _tip("high", ".1%")]


def _arms(arms: Sequence[str]) -> alt.Y:
    axis = alt.Axis(ticks=False, domain=False, labelPadding=8, labelLimit=260)
    return alt.Y("arm:N", title=None, sort=list(arms), axis=axis)


def _share(field: str, title: str) -> alt.X:
    axis = alt.Axis(format=".0%", tickCount=6, labelFlush=True)
    return alt.X(field, title=title, scale=alt.Scale(domain=[0, 1], nice=False), axis=axis)


def _finish(height: int, *layers: alt.Chart) -> Data:
    """One specification of the layers; what all plots share is in the pages' script."""
    chart = alt.layer(*layers).properties(width="container", height=height, background="transparent", padding=4)
    spec: Data = chart.configure_view(stroke=None).to_dict()
    del spec["$schema"]
    return spec
