"""A calibration: what fine-tuning on sets of known scores did to a model, fitted, kept as JSON with its provenance."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._harm import HarmModel
from ripcurrent.runs import write_json
from ripcurrent.scan._columns import COHERENCE, SET_COSINE, SUMMED
from ripcurrent.scan._scored_with import ScoredWith

SHIPPED = Path(__file__).parent / "calibrations"
"""Calibrations that come with the package; each is used where it matches."""

LOG_ROWS, LOG_STEPS = "log_rows", "log_steps"
"""Facts that are no score: natural logarithms of the set's rows and of the optimizer's steps."""

ROWS_BEYOND = 1.25
"""A set may have so many times the rows of the ladder's largest set, or so few of its smallest."""
SCORE_BEYOND = 0.1
"""A set's mean score may lie outside of the ladder's by this share of their range."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class NamedHash(_Record):
    """What something is called, how much there is of it, and its hash."""

    name: str
    """Its name."""
    sha256: str
    """Its hash."""
    count: int
    """Rows, or requests."""


class JudgedBy(_Record):
    """The judge of the answers."""

    name: str
    """Its name."""
    version: str
    """Its version."""


class Source(_Record):
    """A dataset that runs took their rows from."""

    name: str
    """Its name."""
    sha256: str
    """Hash of its rows."""
    rows: int
    """Its usable rows."""
    means: dict[str, float]
    """Mean of each score column over them."""
    runs: int
    """Runs that trained on rows of it."""


class CalibrationRun(_Record):
    """One run that was fitted."""

    experiment: str
    """The experiment's name."""
    arm: str
    """The arm's name."""
    seed: int
    """The run's seed."""
    source: str
    """Name of the dataset of its rows."""
    tokens_sha256: str
    """Hash of the tokens that it trained on: runs of one hash trained on the same set."""
    rows: int
    """Rows that it trained on."""
    steps: int
    """Optimizer steps."""
    row_hashes: tuple[str, ...] = ()
    """The smallest of its rows' hashes, which tell what runs have in common; none where rows are not known."""
    means: dict[str, float]
    """Mean of each score column over its rows."""
    answered: int
    """Harmful requests answered, degenerate answers not counted."""
    degenerate: int
    """Harmful requests with a degenerate answer."""
    asked: int
    """Harmful requests."""
    forecast: float | None = None
    """Answered share that the fit without its arm forecasts for it."""
    low: float | None = None
    """Lower end of that forecast's 90 % interval."""
    high: float | None = None
    """Upper end."""

    @property
    def share(self) -> float:
        """Answered share, 0 to 1."""
        return self.answered / self.asked


class LeftOut(_Record):
    """A run that was not fitted."""

    experiment: str
    """The experiment's name."""
    arm: str
    """The arm's name."""
    seed: int
    """The run's seed."""
    reason: str
    """Why."""


class ForecastError(_Record):
    """How the forecast of runs erred that the fit had not seen."""

    held_out: Literal["arm", "rows", "source"]
    """What was left out of the fit at a time: an arm, an arm with all that share rows with it, a source."""
    groups: int
    """So many of them."""
    runs: int
    """Runs forecast."""
    mean_absolute_error: float
    """Mean over arms of |observed − forecast|, both means over runs; of whole sources left out, the mean of the
    sources' own such means. A share, 0 to 1."""
    bias: float
    """Mean of forecast − observed, so taken too."""
    coverage: float
    """Share of runs inside their 90 % interval; of sources, the mean of theirs."""
    mean_width: float
    """Mean width of the intervals."""
    rank_correlation: float | None
    """Spearman's correlation of forecast and observed over arms; None where it is not defined."""
    refused: int = 0
    """Runs of a source left out that are not counted: beyond the rows or scores of all others, they get no forecast."""
    by_source: tuple[dict[str, Any], ...] = ()
    """The same for each source: name, arms, runs, observed, forecast, mean_absolute_error, coverage."""


class Compared(_Record):
    """Another choice of score columns, and how its forecast errs."""

    columns: tuple[str, ...]
    """The columns; none for size and steps alone."""
    arms: ForecastError
    """With each arm left out."""
    sources: ForecastError | None
    """With each source left out."""


class Calibration(_Record):
    """A forecast's basis: the fit, what it is for, what it was made from, and how it errs."""

    format: Literal[1] = 1
    """Version of this file's layout."""
    version: str
    """Version of the package that made it."""
    date: str
    """Day on which it was made."""
    columns: tuple[str, ...]
    """Score columns whose means the forecast rests on."""
    scored_with: ScoredWith
    """Scores that it is for."""
    recipe_name: str
    """Name of the recipe."""
    recipe: dict[str, Any]
    """The recipe."""
    recipe_sha256: str
    """Its hash."""
    finetune: dict[str, Any]
    """Options of fine-tuning that the recipe does not have: ``max_tokens``, ``loss_on``."""
    prompts: NamedHash
    """The harmful requests."""
    system: str | None
    """Their system prompt."""
    max_new_tokens: int
    """Longest answer."""
    judge: JudgedBy
    """Who judged the answers."""
    sources: tuple[Source, ...] = Field(min_length=1)
    """Where rows came from; a random set of the first one stands beside every forecast."""
    fit: HarmModel
    """The fitted model."""
    error_by_arm: ForecastError
    """Each arm left out."""
    error_by_rows: ForecastError | None = None
    """Each arm left out with every run that shares a fifth of their rows, or whose rows are not known; None where no
    arm can be forecast so."""
    error_by_source: ForecastError | None
    """Each source left out; None with one source."""
    compared: tuple[Compared, ...] = ()
    """Other columns on the same runs."""
    runs: tuple[CalibrationRun, ...]
    """The runs."""
    left_out: tuple[LeftOut, ...] = ()
    """Runs that were not fitted."""
    notes: tuple[str, ...] = ()
    """What to bear in mind."""

    @model_validator(mode="after")
    def _belongs_together(self) -> Calibration:
        scores = tuple(name for name in self.fit.facts if name not in (LOG_ROWS, LOG_STEPS))
        if scores != self.columns:
            raise ValueError("the fit has other score columns than the calibration")
        if self.fit.sources != tuple(source.name for source in self.sources):
            raise ValueError("the fit has other sources than the calibration")
        return self

    @property
    def score_columns(self) -> tuple[str, ...]:
        """The columns of a scan's scores that the forecast reads."""
        return tuple(dict.fromkeys(SUMMED if name == SET_COSINE else name for name in self.columns))

    @property
    def wants_coherence(self) -> bool:
        """Whether it also rests on how alike a set's rows are."""
        return SET_COSINE in self.columns

    @property
    def rows_range(self) -> tuple[int, int]:
        """Fewest and most rows that a run trained on."""
        counts = [run.rows for run in self.runs]
        return min(counts), max(counts)

    def column_range(self, column: str) -> tuple[float, float]:
        """Least and largest mean of a column over a run's rows."""
        means = [run.means[column] for run in self.runs]
        return min(means), max(means)


def with_set_cosine(means: Mapping[str, float], rows: int) -> dict[str, float]:
    """A set's means with its own cosine, where their coherence is among them.

    The mean of the rows' unit gradients has the norm ``√(c + (1 − c) / rows)`` with the coherence c, the mean cosine
    between two rows; the set's cosine is the mean `SUMMED` over it. Positive: training on the set moves the weights as
    the complying anchors would.
    """
    if COHERENCE not in means or SUMMED not in means:
        return dict(means)
    squared = means[COHERENCE] + (1 - means[COHERENCE]) / rows
    # of rows that pull apart, on a sample, it might come out below 0
    return {**means, SET_COSINE: means[SUMMED] / math.sqrt(max(squared, 1e-4))}


def rows_beyond(rows: float, fewest: float, most: float) -> bool:
    """Whether a set has too few or too many rows to be forecast from sets of ``fewest`` to ``most``."""
    slack = ROWS_BEYOND * (1 + 1e-9)
    return rows * slack < fewest or rows > most * slack


def score_beyond(mean: float, least: float, largest: float) -> bool:
    """Whether a set's mean score lies too far outside of those, ``least`` to ``largest``, that it is forecast from."""
    margin = SCORE_BEYOND * (largest - least)
    return not least - margin <= mean <= largest + margin


def write_calibration(path: Path, calibration: Calibration) -> None:
    """Write a calibration whole.

    Raises:
        RipcurrentError: The file cannot be written.
    """
    write_json(path, calibration.model_dump(mode="json"))


def read_calibration(path: str | Path) -> Calibration:
    """A calibration from its file.

    Raises:
        RipcurrentError: No such file, or it holds no calibration that this version reads.
    """
    path = Path(path)
    hint = "Make one with `ripcurrent calibrate`."
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RipcurrentError(f"There is no calibration {path}.", hint) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "it is not JSON"
        raise RipcurrentError(f"The calibration {path} cannot be read: {reason}.", hint) from None
    if not isinstance(values, dict) or "fit" not in values or "scored_with" not in values:
        raise RipcurrentError(f"{path} is no calibration.", hint)
    if values.get("format") != 1:
        raise RipcurrentError(
            f"The calibration {path} has layout {values.get('format')!r}, which this version does not read.",
            "Use the version of ripcurrent that made it, or make it anew.",
        )
    try:
        return Calibration(**values)
    except (ValidationError, TypeError) as error:
        where = "its keys are no names"
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            where = f"{place}: {first['msg']}" if place else str(first["msg"])
        raise RipcurrentError(f"The calibration {path} is damaged: {where}.", hint) from None


def find_calibration(name: str | Path) -> Calibration:
    """A calibration by its file, or by the name of one that comes with the package.

    Raises:
        RipcurrentError: There is none.
    """
    shipped = {path.stem: path for path in shipped_calibrations()}
    return read_calibration(shipped[str(name)] if str(name) in shipped and not Path(name).is_file() else name)


def shipped_calibrations() -> tuple[Path, ...]:
    """The files of the calibrations that come with the package."""
    return tuple(sorted(SHIPPED.glob("*.json"))) if SHIPPED.is_dir() else ()
