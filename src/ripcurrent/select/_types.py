"""What a selection is, how far it lies from its controls, and how it compares with the whole dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Ranked = Literal["top", "bottom", "between", "union", "decided"]
Drawn = Literal["random", "format", "length-matched", "format-matched", "loss-matched"]
Composed = Literal["all", "all-but", "mix"]
Kind = Ranked | Drawn | Composed
"""The rule that made a selection."""


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a control's distribution of one column lies from that of the selection it stands beside."""

    column: str
    """The column compared, in its own unit (``response_tokens``: tokens; losses: nats per token)."""
    mean_absolute_difference: float
    """Between the two sorted samples (the earth mover's distance); of an optimal match, the mean over its pairs."""
    ks_statistic: float
    """Largest difference of the two cumulative distributions, 0 (same) to 1 (apart)."""
    selection_mean: float
    control_mean: float


@dataclass(frozen=True, slots=True)
class Selection:
    """Some rows of a dataset, with the rule that chose them."""

    name: str
    """File name without suffix, unique in a run."""
    kind: Kind
    rule: str
    """The rule as a sentence, complete enough to repeat it."""
    column: str | None
    """The score column of ``scores``: what the rows (of a control: its selection's rows) were ranked by."""
    indices: tuple[int, ...]
    """Row numbers of the input: in rank order; of a match, in the order of the rows they are matched to."""
    scores: tuple[float, ...]
    """Each row's value in ``column``, in the order of ``indices``; NaN where it has none; empty without ``column``."""
    seed: int | None = None
    """Seed of a random draw."""
    shortfall: int = 0
    """Rows the rule asked for and the dataset did not have."""
    filled: int = 0
    """Rows of a format match taken from the nearest trait combination instead of the same one."""
    control_of: str | None = None
    """Name of the selection this is a control of."""
    distances: tuple[Distance, ...] = ()
    """How far this control lies from its selection."""
    notes: tuple[str, ...] = ()
    """What a reader must know before using the rows."""

    @property
    def order(self) -> Literal["rank", "input"]:
        """The order in which the rows are written: top and bottom by rank, everything else as in the input."""
        return "rank" if self.kind in ("top", "bottom") else "input"

    @property
    def file_indices(self) -> tuple[int, ...]:
        """The row numbers in the order in which they are written."""
        return self.indices if self.order == "rank" else tuple(sorted(self.indices))


@dataclass(frozen=True, slots=True)
class Quartiles:
    """Mean and quartiles of a column."""

    mean: float
    lower_quartile: float
    median: float
    upper_quartile: float


@dataclass(frozen=True, slots=True)
class SelectionSummary:
    """A selection against the whole dataset, where the whole is every row of status ``ok``."""

    rows: int
    whole_rows: int
    format_shares: dict[str, float]
    """Trait column to the share of the selection's rows that have it, 0 to 1."""
    whole_format_shares: dict[str, float]
    length: Quartiles
    """Response tokens of the selection."""
    whole_length: Quartiles
    score_column: str
    """The column of the quantiles: the selection's own, else the run's default ranking."""
    score_quantiles: dict[float, float]
    """Probability to quantile of the selection's scores."""
    whole_score_quantiles: dict[float, float]


@dataclass(frozen=True, slots=True)
class SelectionRecord:
    """A selection that has been written."""

    selection: Selection
    summary: SelectionSummary
    path: Path
    """The rows, in the input's own format."""
    record_path: Path
    """The JSON record of what was selected and why."""
    remaining_path: Path | None = None
    """With ``drop``: the dataset without these rows."""
