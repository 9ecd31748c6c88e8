"""A calibration: what fine-tuning on sets of known scores did to a model, fitted, kept as JSON with its provenance."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, JsonValue, ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune import Recipe
from ripcurrent.forecast._harm import FloatArray, Frozen, HarmModel
from ripcurrent.options import flag
from ripcurrent.scan import ScanManifest, SetScore

SHIPPED = Path(__file__).parent / "calibrations"
"""Calibrations that come with the package; each is used where it matches."""

SET_COSINE, LOG_ROWS = "set_cosine", "log_rows"
"""Facts about a set: its own cosine, and the natural logarithm of its number of rows."""

ROWS_BEYOND = 1.25
"""A set may have this many times the rows of the largest set that was fitted, or of the smallest the inverse."""
SCORE_BEYOND = 0.1
"""A set's cosine may lie outside the fitted ones by this share of their range."""

DECIDING = ("trainer", "scope", "anchor_tokens", "row_tokens")
"""Options that change a row's gradient score; ``max_tokens`` changes those of truncated rows only."""


class ScoredWith(Frozen):
    """The model, the anchors and the options that a scan's gradient scores rest on."""

    model: str
    adapter: str | None
    fingerprint: str
    """Identity of the weights, the user's adapter included."""
    template_sha256: str | None
    tokenizer_sha256: str | None
    anchors: str
    anchors_sha256: str
    options: dict[str, JsonValue]

    @classmethod
    def of(cls, manifest: ScanManifest) -> ScoredWith:
        """What a scan's manifest says."""
        model, options = manifest.model, manifest.options.model_dump(mode="json")
        return cls(
            model=_without_folders(model.name),
            adapter=_without_folders(model.adapter) if model.adapter else None,
            fingerprint=model.fingerprint,
            template_sha256=model.template_sha256,
            tokenizer_sha256=model.tokenizer_sha256,
            anchors=_without_folders(manifest.anchors.name),
            anchors_sha256=manifest.anchors.sha256,
            options={name: options[name] for name in (*DECIDING, "max_tokens")},
        )

    def difference(self, other: ScoredWith) -> str | None:
        """Why the other scan's scores are not comparable with this one's; None where they are."""
        if self.fingerprint != other.fingerprint:
            own, there = (one.model + (f" with {one.adapter}" if one.adapter else "") for one in (self, other))
            return f"it is for the model {own}, not {there}" + (" of other weights" if own == there else "")
        if self.template_sha256 != other.template_sha256:
            return "it is for another chat template"
        if self.tokenizer_sha256 != other.tokenizer_sha256:
            return "it is for another tokenizer"
        if self.anchors_sha256 != other.anchors_sha256:
            return f"it is for other anchors ({self.anchors}, now {other.anchors})"
        for name in DECIDING:
            if (then := self.options.get(name)) != (now := other.options.get(name)):
                return f"it is for scans with {flag(name)} {then}, not {now}"
        return None


class NamedHash(Frozen):
    """What something is called, how many parts it has, and its hash."""

    name: str
    sha256: str
    count: int


class JudgedBy(Frozen):
    """The judge of the answers."""

    name: str
    version: str


class CalibrationSource(Frozen):
    """A dataset that runs took their rows from."""

    name: str
    sha256: str
    rows: int
    """Its usable rows, whose score follows."""
    score: SetScore
    runs: int
    """Runs that trained on rows of it."""


class LeftOut(Frozen):
    """A run that was not fitted, and why."""

    experiment: str
    arm: str
    seed: int
    reason: str


class SourceError(Frozen):
    """A forecast's error on the sets of one source; shares from 0 to 1."""

    name: str
    arms: int
    observed: float
    forecast: float
    mean_absolute_error: float
    coverage: float
    by_category: float | None = None
    """The error of the mean rate of other sources' sets of its category: riskiest, protective, or neither."""
    clean: bool | None = None
    """Whether none of its sets answered more than the untrained model beyond chance; None if that is not known."""

    @property
    def kind(self) -> str:
        """Whether it is clean, in words."""
        kinds = {True: "clean: no set above the untrained model", False: "some sets above the untrained model"}
        return "the untrained model is not known" if self.clean is None else kinds[self.clean]


class ForecastError(Frozen):
    """How the forecast of runs erred that the fit had not seen; shares from 0 to 1."""

    held_out: Literal["set", "source"]
    """What was left out of the fit at a time: a set with all that share its rows, or a source."""
    groups: int
    runs: int
    mean_absolute_error: float
    """Mean over sets of |observed − forecast|, both means over runs; of sources, the mean of the sources' own."""
    bias: float
    """Mean of forecast − observed."""
    coverage: float
    """Share of runs inside their 90 % interval."""
    mean_width: float
    rank_correlation: float | None
    """Spearman's of forecast and observed over sets."""
    refused: int = 0
    """Runs that are not counted: beyond the rows or scores of all other sources, they get no forecast."""
    by_category: float | None = None
    """The sources' mean error of the forecast that knows a set's category alone."""
    by_source: tuple[SourceError, ...] = ()

    def __str__(self) -> str:
        return f"{100 * self.mean_absolute_error:.0f} points, {self.coverage:.0%} inside the interval"


class Conditions(Frozen):
    """How runs were trained, asked and judged: what runs that are fitted together have in common."""

    recipe: Recipe
    recipe_sha256: str
    """Hash of the recipe's settings, without its name and what changes memory alone."""
    max_tokens: int
    """Where rows were cut in training."""
    trainer: str
    """Whose tokens were trained."""
    prompts: NamedHash
    """The harmful requests."""
    system: str | None
    max_new_tokens: int
    judge: JudgedBy

    def difference(self, other: Conditions) -> str | None:
        """The first thing that differs, with both values; None where nothing does."""
        for what, own, there in (
            ("recipe", self.recipe_sha256[:8], other.recipe_sha256[:8]),
            ("harmful requests", self.prompts.sha256[:8], other.prompts.sha256[:8]),
            ("system prompt", self.system, other.system),
            ("longest answer", self.max_new_tokens, other.max_new_tokens),
            ("judge", f"{self.judge.name} {self.judge.version}", f"{other.judge.name} {other.judge.version}"),
            ("max_tokens", self.max_tokens, other.max_tokens),
            ("trainer", self.trainer, other.trainer),
        ):
            if own != there:
                return f"{what} ({own}, there {there})"
        return None


class Calibration(Conditions):
    """A forecast's basis: the fit, what it is for, and how it errs."""

    format: Literal[2] = 2
    """Version of this file's layout."""
    version: str
    """Version of the package that made it."""
    date: str
    scored_with: ScoredWith
    sources: tuple[CalibrationSource, ...] = Field(min_length=1)
    """Where rows came from; a random set of the first one stands beside every forecast."""
    rows_range: tuple[int, int]
    """Fewest and most rows that a run trained on; then their least and largest set cosine."""
    cosine_range: tuple[float, float]
    runs: int
    fit: HarmModel
    error_by_set: ForecastError | None
    """Each set left out with every run that shares a fifth of its rows; None where none can be forecast so."""
    error_by_source: ForecastError | None
    """Each source left out; None with one source."""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    def facts(self, rows: int, cosine: float) -> list[float]:
        """What the fit takes of a set, in its order."""
        return [{SET_COSINE: cosine, LOG_ROWS: math.log(rows)}[name] for name in self.fit.facts]

    def refusal(self, rows: int, cosine: float) -> str | None:
        """Why a set is too unlike those that were fitted to be forecast; None where it is not."""
        (fewest, most), (low, high) = self.rows_range, self.cosine_range
        if is_beyond(LOG_ROWS, np.log([rows]), math.log(fewest), math.log(most)).any():
            return f"its {rows} rows are not among the {fewest} to {most} that the calibration trained on"
        if is_beyond(SET_COSINE, np.array([cosine]), low, high).any():
            where, bound = ("below the least", low) if cosine < low else ("above the largest", high)
            return f"its cosine {cosine:.4f} is {where} that the calibration trained on, {bound:.4f}"
        return None


def is_beyond(fact: str, value: FloatArray, least: float, largest: float) -> npt.NDArray[np.bool_]:
    """Whether sets lie too far outside those that they are forecast from by a fact, the logarithm of rows included."""
    slack = math.log(ROWS_BEYOND) if fact == LOG_ROWS else SCORE_BEYOND * (largest - least)
    found: npt.NDArray[np.bool_] = (value < least - slack - 1e-9) | (value > largest + slack + 1e-9)
    return found


def read_calibration(path: str | Path) -> Calibration:
    """A calibration by its file, or by the name of one that comes with the package; else a `RipcurrentError`."""
    shipped = {one.stem: one for one in shipped_calibrations()}
    path = shipped[str(path)] if str(path) in shipped and not Path(path).is_file() else Path(path)
    hint = "Make one with `ripcurrent calibrate`."
    try:
        return Calibration.model_validate_json(path.read_bytes())
    except OSError as error:
        raise RipcurrentError(f"The calibration {path} cannot be read: {error.strerror}.", hint) from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        where = f"{place}: {first['msg']}" if place else str(first["msg"])
        raise RipcurrentError(f"{path} is not a calibration, or is damaged ({where}).", hint) from None


def shipped_calibrations() -> tuple[Path, ...]:
    """The files of the calibrations that come with the package."""
    return tuple(sorted(SHIPPED.glob("*.json")))


def _without_folders(text: str) -> str:
    """A name without the folders it lies in: a hub id stays whole, a path keeps its last part."""
    is_path = text.startswith(("/", "./", "../", "~")) or "\\" in text or text.count("/") > 1
    return text.replace("\\", "/").rstrip("/").rpartition("/")[2] if is_path else text
