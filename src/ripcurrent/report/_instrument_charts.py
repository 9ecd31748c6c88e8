"""Plots of the pages of probe, mechanism and edits as Vega-Lite specifications, in the page's own colours."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from ripcurrent.report._charts import Spec, _finish

LINE_HEIGHT = 26
NARROW = 14
"""Letters of a legend that stands in one line on a telephone."""
COLOURS = ("var(--accent)", "var(--risk)", "var(--safe)", "var(--muted)")
SHAPES = ("circle", "diamond", "square", "triangle-up", "cross")
"""One more than colours, so that twenty series differ."""


def forest_spec(lines: Sequence[str], series: Sequence[str], title: str) -> Spec:
    """Values with intervals around a line at 0, a line of the plot for each name, the series beside each other in it.

    Dataset ``points``: ``line``, ``what`` (the series), ``value``, ``low``, ``high``.
    """
    names = list(series)
    points = alt.Chart(alt.NamedData("points"))
    y = alt.Y(
        "line:N",
        title=None,
        sort=list(lines),
        axis=alt.Axis(ticks=False, domain=False, labelPadding=8, labelLimit=260, grid=True),
    )
    offset = alt.YOffset("what:N", sort=names, scale=alt.Scale(paddingInner=0.3, paddingOuter=0.4))
    places = range(len(names))
    legend = None
    if len(names) > 1:
        # a narrow screen would cut a long line of names
        legend = alt.Legend(labelLimit=400, columns=1 if len("".join(names)) > NARROW else len(names))
    colour = alt.Color(
        "what:N",
        scale=alt.Scale(domain=names, range=[COLOURS[place % len(COLOURS)] for place in places]),
        legend=legend,
    )
    shape = alt.Shape(
        "what:N",
        scale=alt.Scale(domain=names, range=[SHAPES[place % len(SHAPES)] for place in places]),
        legend=legend,
    )
    interval = points.mark_rule(size=2, opacity=0.6).encode(
        y=y, yOffset=offset, x=alt.X("low:Q"), x2="high:Q", color=colour
    )
    value = points.mark_point(filled=True, size=75, opacity=1).encode(
        y=y,
        yOffset=offset,
        x=alt.X("value:Q", title=title, axis=alt.Axis(tickCount=6, format="+~g")),
        color=colour,
        shape=shape,
        tooltip=[
            alt.Tooltip("line:N", title="column"),
            alt.Tooltip("what:N", title="what"),
            alt.Tooltip("value:Q", format="+.3~g"),
            alt.Tooltip("low:Q", format="+.3~g"),
            alt.Tooltip("high:Q", format="+.3~g"),
        ],
    )
    height = max(90, (LINE_HEIGHT + 10 * (len(names) - 1)) * len(lines))
    return _finish(alt.layer(_nothing().encode(x=alt.datum(0)), interval, value), height)


def rows_spec(title: str) -> Spec:
    """Single rows by a score and by what training on each did; dataset ``points``: row, score, drop, tokens."""
    points = (
        alt.Chart(alt.NamedData("points"))
        .mark_point(filled=True, size=42, opacity=0.75, color="var(--accent)")
        .encode(
            x=alt.X(
                "score:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(grid=False, format="~g", tickCount=7)
            ),
            y=alt.Y(
                "drop:Q", title="drop in log-odds of a refusal", axis=alt.Axis(tickCount=6, domain=False, ticks=False)
            ),
            tooltip=[
                alt.Tooltip("row:Q", format="d"),
                alt.Tooltip("id:N"),
                alt.Tooltip("score:Q", format=".4~g"),
                alt.Tooltip("drop:Q", format="+.3f"),
                alt.Tooltip("tokens:Q", title="response tokens", format=","),
            ],
        )
    )
    return _finish(alt.layer(_nothing().encode(y=alt.datum(0)), points), 300)


def _nothing() -> alt.Chart:
    """The line at 0."""
    return alt.Chart(alt.InlineData(values=[{}])).mark_rule(color="var(--line-strong)", size=1)
