"""The page of a mechanism table: does similarity in states mean similarity in gradients?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ripcurrent.report._instrument_charts import forest_spec
from ripcurrent.report._instrument_content import (
    GIVEN,
    Cell,
    Figure,
    InstrumentContent,
    Section,
    Table,
    correlation_points,
    listed,
    percent,
    raw_and_given,
    signed,
    span,
)


def mechanism_content(results: Mapping[str, Any]) -> InstrumentContent:
    """Gather everything for the page of a result of ``kind: mechanism``."""
    pools = results["pools"]
    names = [pool["name"] for pool in pools]
    representations = list(dict.fromkeys(one["representation"] for pool in pools for one in pool["correlations"]))
    settings = results["settings"]
    return InstrumentContent(
        kind="Mechanism: does similarity in states mean similarity in gradients?",
        lead=_lead(results),
        facts=(
            ("Pools", str(len(pools)), listed(names)),
            ("Rows", f"{sum(pool['rows'] for pool in pools):,}", "with both signals and a response length"),
            ("Left out", f"{sum(pool['left_out'] for pool in pools):,}", "rows that lack a score"),
            ("Model", listed(list(dict.fromkeys(pool["scan"]["model"]["name"] for pool in pools))), "that scored them"),
            ("Intervals", percent(settings["confidence"]), f"{settings['draws']:,} bootstrap draws of rows"),
            ("Trained", "nothing", "correlations of two finished passes"),
        ),
        sections=(
            Section(
                "pairs",
                "States against gradients",
                tuple(_figure(place, one, pools) for place, one in enumerate(representations)),
                tuple(_table(one, pools, results["agreement"]) for one in representations),
                "Spearman over rows, in small its 95 % percentile bootstrap interval. Given length: between what "
                "response length leaves of both ranks. One sign: the interval given length lies on one side of 0 in "
                "every pool.",
            ),
            Section("length", "What response length does by itself", (), (_length(pools),), _LENGTH),
        ),
        provenance=(*((f"pool {pool['name']}", pool["scan"]) for pool in pools), ("settings", settings)),
    )


_LENGTH = "Spearman of every column with the number of response tokens, over the rows of each pool."


def _lead(results: Mapping[str, Any]) -> str:
    pairs, pools = results["agreement"], len(results["pools"])
    clear = [one for one in pairs if one["sign"] != "unclear"]
    where = {1: "this pool", 2: "both pools"}.get(pools, f"all {pools} pools")
    text = f"Given response length, {len(clear)} of {len(pairs)} pairs of columns have one clear sign in {where}."
    strongest = max(
        (one for one in pairs if one["lowest"] is not None),
        key=lambda one: min(abs(one["lowest"]), abs(one["highest"])) if one["sign"] != "unclear" else -1,
        default=None,
    )
    if clear and strongest is not None:
        text += (
            f" The strongest of them: {strongest['representation']} with {strongest['gradient']}, "
            f"{_range(strongest['lowest'], strongest['highest'])}."
        )
    return text


def _range(low: float, high: float) -> str:
    return signed(low) if signed(low) == signed(high) else span(low, high)


def _figure(place: int, representation: str, pools: Sequence[Mapping[str, Any]]) -> Figure:
    gradients = list(dict.fromkeys(one["gradient"] for pool in pools for one in pool["correlations"]))
    points = [
        {**point, "kind": point["what"], "what": pool["name"]}
        for pool in pools
        for one in pool["correlations"]
        if one["representation"] == representation
        for point in correlation_points(one, line=one["gradient"])
    ]
    return Figure(
        f"pair{place}",
        representation,
        "Rank correlation with every gradient column, 95 % intervals over rows, one mark for each pool.",
        forest_spec(gradients, [pool["name"] for pool in pools], "Spearman"),
        # what length does not explain is shown first
        tuple(sorted(points, key=lambda point: point["kind"] != GIVEN)),
        choose="kind",
        label="Correlation",
    )


def _table(representation: str, pools: Sequence[Mapping[str, Any]], agreement: Sequence[Mapping[str, Any]]) -> Table:
    signs = {one["gradient"]: one["sign"] for one in agreement if one["representation"] == representation}
    heads = [representation]
    for pool in pools:
        heads += [f"{pool['name']}: Spearman", f"{pool['name']}: given length"]
    rows = []
    for gradient, sign in signs.items():
        cells = [Cell(gradient)]
        for pool in pools:
            cells += _cells(pool, representation, gradient)
        rows.append((*cells, Cell({"unclear": "no"}.get(sign, sign))))
    return Table(
        f"{representation} with gradient columns",
        (*heads, "one sign"),
        tuple(rows),
        frozenset({len(heads)}),
    )


def _cells(pool: Mapping[str, Any], representation: str, gradient: str) -> Iterator[Cell]:
    found = next(
        (one for one in pool["correlations"] if (one["representation"], one["gradient"]) == (representation, gradient)),
        None,
    )
    yield from (Cell("–"), Cell("–")) if found is None else raw_and_given(found)


def _length(pools: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(one["column"] for pool in pools for one in pool["length"]))
    by_pool = [{one["column"]: one for one in pool["length"]} for pool in pools]
    rows = []
    for column in columns:
        found = [of.get(column) for of in by_pool]
        cells = [
            Cell("–") if one is None else Cell(signed(one["spearman"]), span(one["low"], one["high"]), strong=True)
            for one in found
        ]
        rows.append((Cell(column), *cells))
    return Table("Columns with response length", ("column", *(pool["name"] for pool in pools)), tuple(rows))
