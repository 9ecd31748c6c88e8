"""The experiment page's plots as Vega-Lite specifications, in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from ripcurrent.report._charts import Spec, _finish

ARM_HEIGHT = 26
HARMFUL, BENIGN = "harmful", "only sound dangerous"


def _arms(arms: Sequence[str]) -> Any:
    return alt.Y(
        "arm:N", title=None, sort=list(arms), axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelLimit=260)
    )


def _share(field: str, title: str) -> Any:
    return alt.X(
        field,
        title=title,
        scale=alt.Scale(domain=[0, 1], nice=False),
        axis=alt.Axis(format=".0%", tickCount=6, labelFlush=True),
    )


def _height(arms: Sequence[str]) -> int:
    return max(90, ARM_HEIGHT * len(arms))


def intervals_spec(arms: Sequence[str]) -> Spec:
    """Rate of every arm with its 95 % interval and a point for each run; dataset ``points`` of one judge."""
    arm, rate = _arms(arms), _share("rate:Q", "harmful requests answered")
    points = alt.Chart(alt.NamedData("points"))
    means = points.transform_filter("datum.what === 'mean'")
    span = means.mark_rule(size=3, color="var(--bar)").encode(y=arm, x=alt.X("low:Q"), x2="high:Q")
    runs = (
        points.transform_filter("datum.what === 'run'")
        .mark_point(filled=False, size=36, color="var(--muted)", opacity=1)
        .encode(
            y=arm, x=rate, tooltip=[alt.Tooltip("arm:N"), alt.Tooltip("seed:Q"), alt.Tooltip("rate:Q", format=".1%")]
        )
    )
    mean = means.mark_point(filled=True, size=90, color="var(--accent)", opacity=1).encode(
        y=arm,
        x=rate,
        tooltip=[
            alt.Tooltip("arm:N"),
            alt.Tooltip("rate:Q", format=".1%"),
            alt.Tooltip("low:Q", format=".1%"),
            alt.Tooltip("high:Q", format=".1%"),
        ],
    )
    return _finish(alt.layer(span, runs, mean), _height(arms))


def judgement_spec(arms: Sequence[str]) -> Spec:
    """Both kinds of refusals of every arm, joined by a line as long as its judgement; dataset ``refusals``."""
    arm = _arms(arms)
    refusals = alt.Chart(alt.NamedData("refusals"))
    span = refusals.mark_rule(size=3, color="var(--bar)").encode(y=arm, x=alt.X("harmful:Q"), x2="benign:Q")
    tooltip = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("harmful:Q", title="harmful refused", format=".1%"),
        alt.Tooltip("benign:Q", title="dangerous-sounding refused", format=".1%"),
        alt.Tooltip("difference:Q", title="judgement", format="+.1%"),
    ]
    shape = alt.Scale(domain=[HARMFUL, BENIGN], range=["circle", "diamond"])
    colour = alt.Scale(domain=[HARMFUL, BENIGN], range=["var(--safe)", "var(--risk)"])
    ends = [
        refusals.transform_calculate(what=f"'{what}'")
        .mark_point(filled=True, size=90, opacity=1)
        .encode(
            y=arm,
            x=_share(f"{field}:Q", "refused"),
            shape=alt.Shape("what:N", scale=shape),
            color=alt.Color("what:N", scale=colour, legend=alt.Legend(labelLimit=400)),
            tooltip=tooltip,
        )
        for what, field in ((BENIGN, "benign"), (HARMFUL, "harmful"))
    ]
    return _finish(alt.layer(span, *ends), _height(arms))


def sweep_spec() -> Spec:
    """Rate along a sweep's steps with its interval; dataset ``steps`` of one judge, a line for each sweep."""
    steps = alt.Chart(alt.NamedData("steps")).encode(
        x=alt.X(
            "place:Q",
            title="step of the sweep",
            scale=alt.Scale(zero=False, nice=False, padding=24),
            axis=alt.Axis(tickMinStep=1, grid=False, format="d"),
        ),
        y=alt.Y(
            "rate:Q",
            title="harmful requests answered",
            scale=alt.Scale(domain=[0, 1], nice=False),
            axis=alt.Axis(format=".0%", tickCount=5),
        ),
        strokeDash=alt.StrokeDash("group:N", legend=alt.Legend(symbolType="stroke", symbolSize=380)),
        shape=alt.Shape("group:N", legend=None),
    )
    tooltip = [
        alt.Tooltip("arm:N"),
        alt.Tooltip("rate:Q", format=".1%"),
        alt.Tooltip("low:Q", format=".1%"),
        alt.Tooltip("high:Q", format=".1%"),
    ]
    span = alt.Chart(alt.NamedData("steps")).mark_rule(size=3, color="var(--bar)")
    span = span.encode(x="place:Q", y=alt.Y("low:Q"), y2="high:Q")
    line = steps.mark_line(color="var(--accent)", size=2)
    point = steps.mark_point(color="var(--accent)", filled=True, size=70, opacity=1).encode(tooltip=tooltip)
    return _finish(alt.layer(span, line, point), 240)
