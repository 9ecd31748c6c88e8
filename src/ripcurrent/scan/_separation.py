"""What is known of the anchors after they were measured, and whether they tell harm from safety at all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import JsonValue

from ripcurrent.anchors import load_anchors
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.scan._options import ScanOptions, require_combination
from ripcurrent.statistics import auroc

MINIMUM_SEPARATION = 0.7
"""Leave-one-out AUROC below which an anchor set does not separate harm from safety."""

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AnchorMeasurements:
    """The anchors as the signals see them; JSON-ready lists, so that they are stored beside the directions."""

    order: list[tuple[str, int]]
    """For each anchor its set and its number within it."""
    norms: list[float] | None = None
    """Gradient norm of each anchor over its first tokens; None without gradient signals."""
    similarities: dict[str, list[float]] | None = None
    """Set name to every anchor's ``<ĝ, a_set>``; None without gradient signals."""
    cosines: list[list[float]] | None = None
    """Cosine of every pair of anchors' features; None without representation signals."""

    def by_set(self) -> dict[str, list[int]]:
        """Every set's name and the positions of its anchors, harmful first."""
        found: dict[str, list[int]] = {}
        for place, (name, _) in enumerate(self.order):
            found.setdefault(name, []).append(place)
        return found

    @property
    def safe_sets(self) -> int:
        """Number of safe sets, K."""
        return len(self.by_set()) - 1

    def mean_harmful_norm(self) -> float:
        """n̄: mean gradient norm of the harmful anchors."""
        assert self.norms is not None
        return float(np.mean([self.norms[place] for place in self.by_set()["harmful"]]))


def leave_one_out_scores(measurements: AnchorMeasurements, avg_n: int = 1) -> dict[str, Floats]:
    """Each anchor's score with itself left out of its own set, shape ``(anchors,)`` per signal."""
    scores: dict[str, Floats] = {}
    sets = measurements.by_set()
    if measurements.similarities is not None:
        to_set = {name: np.array(measurements.similarities[name]) for name in sets}
        for name, own in sets.items():
            to_set[name][own] = (len(own) * to_set[name][own] - 1.0) / (len(own) - 1.0)
        harmful, safe = two_sides(to_set)
        scores["gradient_balanced"] = harmful - safe
        scores["gradient_bidirectional"] = harmful - measurements.safe_sets * safe
    if measurements.cosines is not None:
        cosines = np.array(measurements.cosines)
        # sorted last, and passed over
        np.fill_diagonal(cosines, np.nan)
        largest = {name: -np.sort(-cosines[:, own], axis=1)[:, :avg_n] for name, own in sets.items()}
        harmful, safe = two_sides({name: np.nanmean(found, axis=1) for name, found in largest.items()})
        scores["representation_bidirectional"] = harmful - safe
    return scores


def two_sides(by_set: Mapping[str, Floats]) -> tuple[Floats, Floats]:
    """The harmful set's values, and the mean over the safe sets'."""
    return by_set["harmful"], np.mean([values for name, values in by_set.items() if name != "harmful"], axis=0)


def separation(measurements: AnchorMeasurements, avg_n: int = 1) -> dict[str, float]:
    """AUROC of harmful against safe anchors by each signal, every anchor left out of its own set."""
    harmful = np.array([name == "harmful" for name, _ in measurements.order])
    scores = leave_one_out_scores(measurements, avg_n)
    return {name: auroc(values[harmful], values[~harmful]) for name, values in scores.items()}


def weakly_separated(separations: Mapping[str, float]) -> dict[str, float]:
    """The signals that do not tell harmful from safe anchors, with their AUROC."""
    return {column: value for column, value in separations.items() if not value >= MINIMUM_SEPARATION}


def require_separation(name: str, separations: Mapping[str, float]) -> None:
    """Refuse anchors whose harmful and safe examples a signal in use does not tell apart."""
    for column, value in weakly_separated(separations).items():
        raise RipcurrentError(
            f"The anchors {name} do not separate harm from safety on this model: leave-one-out AUROC of {column} "
            f"is {value:.2f}, below {MINIMUM_SEPARATION}.",
            "`ripcurrent anchors check` shows every anchor's part. Use other anchors or more of them, or other "
            "signals; a scan or an experiment goes on at your own risk with --no-anchor-check.",
            code=ExitCode.NOT_MEASURED,
        )


@dataclass(frozen=True, slots=True)
class CheckedAnchor:
    """One anchor as the signals see it."""

    set: str
    number: int
    """Its number within the set."""
    category: str | None
    scores: dict[str, float]
    """Its score by each signal, itself left out of its set."""
    norm: float | None
    """Its gradient norm over the first tokens."""


@dataclass(frozen=True, slots=True)
class AnchorCheck:
    """How well an anchor set separates harm from safety on one model."""

    name: str
    model: str
    separation: dict[str, float]
    """Leave-one-out AUROC, harmful against safe, by signal."""
    scores: tuple[str, ...]
    """Names of the signals."""
    anchors: tuple[CheckedAnchor, ...]

    def to_json(self) -> dict[str, JsonValue]:
        """What ``--json`` prints."""
        return asdict(self)


def check_anchors(anchors: str = "builtin", *, progress: Progress | None = None, **changes: Any) -> AnchorCheck:
    """Measure an anchor set on a model; options by name as for a scan."""
    # a scan's reader needs no model
    from ripcurrent.scan._passes import ScanPasses
    from ripcurrent.scan._scan_model import load_scan_model

    options = ScanOptions.resolve(None, {**changes, "anchors": anchors})
    require_combination(options, "messages")
    progress = progress or SilentProgress()
    anchor_set = load_anchors(anchors)
    progress.step("loading the model")
    passes = ScanPasses(load_scan_model(options), options)
    measurements = passes.anchors(anchor_set, progress).measurements
    scores, norms = leave_one_out_scores(measurements, options.avg_n), measurements.norms
    checked = [
        CheckedAnchor(
            set=name,
            number=number,
            category=anchor_set.anchors[place].category,
            scores={column: float(values[place]) for column, values in scores.items()},
            norm=None if norms is None else norms[place],
        )
        for place, (name, number) in enumerate(anchor_set.order)
    ]
    found = separation(measurements, options.avg_n)
    return AnchorCheck(anchor_set.name, passes.chat_model.name, found, tuple(scores), tuple(checked))
