"""What is known of the anchors after they were measured, and whether they tell harm from safety at all."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ripcurrent.errors import ExitCode, RipcurrentError
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
    """Each anchor's score with itself left out of its own set, shape ``(anchors,)`` per signal.

    Gradients need no stored ones: ``<ĝ_i, a_{S∖i}> = (n·<ĝ_i, a_S> − 1)/(n − 1)`` for an anchor i of S.
    """
    scores: dict[str, Floats] = {}
    sets = measurements.by_set()
    safe_names = [name for name in sets if name != "harmful"]
    if measurements.similarities is not None:
        to_set = {name: np.array(measurements.similarities[name]) for name in sets}
        for name, own in sets.items():
            to_set[name][own] = (len(own) * to_set[name][own] - 1.0) / (len(own) - 1.0)
        safe = np.mean([to_set[name] for name in safe_names], axis=0)
        scores["gradient_balanced"] = to_set["harmful"] - safe
        scores["gradient_bidirectional"] = to_set["harmful"] - len(safe_names) * safe
    if measurements.cosines is not None:
        cosines = np.array(measurements.cosines)

        def mean_of_largest(place: int, own: list[int]) -> float:
            return float(np.sort(cosines[place, [other for other in own if other != place]])[-avg_n:].mean())

        places = range(len(measurements.order))
        nearest = {name: np.array([mean_of_largest(place, own) for place in places]) for name, own in sets.items()}
        safe = np.mean([nearest[name] for name in safe_names], axis=0)
        scores["representation_bidirectional"] = nearest["harmful"] - safe
    return scores


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
            "`ripcurrent anchors check` shows every anchor's part. Use other anchors or more of them, another "
            "position or other signals; a scan or an experiment goes on at your own risk with --no-anchor-check.",
            code=ExitCode.NOT_MEASURED,
        )
