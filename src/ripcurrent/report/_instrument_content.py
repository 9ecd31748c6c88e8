"""What the page of a probe, a mechanism table or format edits shows, gathered before any markup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ripcurrent.report._charts import Spec
from ripcurrent.report._page import MINUS

Entry = Mapping[str, Any]
"""One row of a table in ``results.json``."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of a table."""

    text: str
    """What it says."""
    small: str = ""
    """What stands below in small, such as an interval."""
    strong: bool = False
    """Whether it stands out."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table; the first cell of each row is its head."""

    label: str
    """What a screen reader calls it."""
    heads: tuple[str, ...]
    """Heads of the columns."""
    rows: tuple[tuple[Cell, ...], ...]
    """Its rows, as wide as the heads."""
    words: frozenset[int] = frozenset()
    """Columns that hold words, besides the first."""


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot of points, of which a reader may choose a part."""

    name: str
    """Its element's id."""
    title: str
    """What stands above it."""
    caption: str
    """How to read it."""
    spec: Spec
    """A Vega-Lite specification of the dataset ``points``."""
    points: tuple[Entry, ...]
    """The points."""
    choose: str = ""
    """The field by which points are chosen; empty where all are shown."""
    label: str = ""
    """What the choice is called."""

    @property
    def choices(self) -> tuple[str, ...]:
        """What can be chosen, in the order of the points."""
        return tuple(dict.fromkeys(point[self.choose] for point in self.points)) if self.choose else ()


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page."""

    name: str
    """Its element's id."""
    title: str
    """Its heading."""
    figures: tuple[Figure, ...] = ()
    """Its plots."""
    tables: tuple[Table, ...] = ()
    """Its tables."""
    note: str = ""
    """How to read them."""


@dataclass(frozen=True, slots=True)
class InstrumentContent:
    """What the template shows."""

    kind: str
    """What was done, in a line."""
    lead: str
    """What was found."""
    facts: tuple[tuple[str, str, str], ...]
    """Name, value and a note of each fact at the top."""
    sections: tuple[Section, ...]
    """The parts."""
    provenance: tuple[tuple[str, Mapping[str, Any]], ...]
    """Names and facts of each group at the end."""


def signed(value: float | None, digits: int = 2) -> str:
    """A signed number with a true minus sign, or a dash; what rounds to nothing has no sign."""
    if value is None:
        return "–"
    text = f"{value:+.{digits}f}"
    return text[1:] if not float(text) else text.replace("-", MINUS)


def span(low: float | None, high: float | None, digits: int = 2) -> str:
    """An interval of signed numbers; empty where there is none."""
    return "" if low is None or high is None else f"{signed(low, digits)} to {signed(high, digits)}"


def percent(share: float) -> str:
    """A share in whole percent."""
    return f"{100 * share:.0f} %"


def small_p(value: float | None) -> str:
    """A p for reading."""
    return "–" if value is None else "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def raw_and_given(one: Entry) -> tuple[Cell, Cell]:
    """Cells of a rank correlation, and of the same given response length, with their intervals."""
    return (
        Cell(signed(one["spearman"]), span(one["low"], one["high"]), strong=True),
        Cell(signed(one["given_length"]), span(one["given_length_low"], one["given_length_high"])),
    )


def correlation_points(one: Entry, **own: Any) -> list[dict[str, Any]]:
    """Points of a rank correlation, and of the same given response length; none of what is not defined."""
    kinds = ((RAW, "spearman", "low", "high"), (GIVEN, "given_length", "given_length_low", "given_length_high"))
    return [
        {**own, "what": what, "value": one[value], "low": one[low], "high": one[high]}
        for what, value, low, high in kinds
        if one[value] is not None
    ]


RAW, GIVEN = "raw", "given response length"
"""The two kinds of a rank correlation."""


def listed(names: Sequence[str]) -> str:
    """Names in a sentence."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}" if names else "none"
