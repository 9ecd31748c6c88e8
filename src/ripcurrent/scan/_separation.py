"""What is known of the anchors after they were measured, and whether they tell harm from safety at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

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

    @property
    def sets(self) -> tuple[str, ...]:
        """Names of the sets, harmful first."""
        return tuple(dict.fromkeys(name for name, _ in self.order))

    @property
    def safe_sets(self) -> int:
        """Number of safe sets, K."""
        return len(self.sets) - 1

    def places(self, name: str) -> list[int]:
        """Positions of a set's anchors."""
        return [place for place, (other, _) in enumerate(self.order) if other == name]

    def by_set(self) -> dict[str, list[int]]:
        """Every set's positions, harmful first."""
        return {name: self.places(name) for name in self.sets}

    def mean_harmful_norm(self) -> float:
        """n̄: mean gradient norm of the harmful anchors."""
        assert self.norms is not None
        return float(np.mean([self.norms[place] for place in self.places("harmful")]))

    def as_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> AnchorMeasurements:
        """The reverse of :meth:`as_json`."""
        return cls(**{**value, "order": [(name, number) for name, number in value["order"]]})


def leave_one_out_scores(measurements: AnchorMeasurements, avg_n: int = 1) -> dict[str, Floats]:
    """Each anchor's score with itself left out of its own set, shape ``(anchors,)`` per signal.

    Gradients need no stored ones: ``<ĝ_i, a_{S∖i}> = (n·<ĝ_i, a_S> − 1)/(n − 1)`` for an anchor i of S.
    """
    scores: dict[str, Floats] = {}
    count = len(measurements.order)
    if measurements.similarities is not None:
        by_set = {}
        for name in measurements.sets:
            found = np.array(measurements.similarities[name])
            own = measurements.places(name)
            found[own] = (len(own) * found[own] - 1.0) / (len(own) - 1.0)
            by_set[name] = found
        safe = np.mean([by_set[name] for name in measurements.sets[1:]], axis=0)
        scores["gradient_balanced"] = by_set["harmful"] - safe
        scores["gradient_bidirectional"] = by_set["harmful"] - measurements.safe_sets * safe
    if measurements.cosines is not None:
        cosines = np.array(measurements.cosines)
        harmful, safe_parts = np.zeros(count), []
        for name in measurements.sets:
            means = np.zeros(count)
            for place in range(count):
                others = [other for other in measurements.places(name) if other != place]
                means[place] = np.sort(cosines[place, others])[::-1][:avg_n].mean()
            if name == "harmful":
                harmful = means
            else:
                safe_parts.append(means)
        scores["representation_bidirectional"] = harmful - np.mean(safe_parts, axis=0)
    return scores


def separation(measurements: AnchorMeasurements, avg_n: int = 1) -> dict[str, float]:
    """AUROC of harmful against safe anchors by each signal, every anchor left out of its own set."""
    harmful = measurements.places("harmful")
    safe = [place for place in range(len(measurements.order)) if place not in set(harmful)]
    return {
        name: auroc(scores[harmful], scores[safe]) for name, scores in leave_one_out_scores(measurements, avg_n).items()
    }


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
            "--position or --signals; a scan goes on at your own risk with --no-anchor-check.",
            code=ExitCode.NOT_MEASURED,
        )
