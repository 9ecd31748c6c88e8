"""The answered share of a fine-tuning set as a function of a few facts about it: a logistic fit with intervals.

``logit p = intercept + slopes · facts + source + arm + seed``, ``answered ~ Binomial(asked, p)``. Facts are
standardised over the runs; intercept and slopes have normal priors (a ridge), and the effects of source, arm and seed
are normal with standard deviations that are unknown themselves: half-normal priors, summed over on a grid. For given
deviations the posterior is Laplace's approximation around its mode (Rasmussen & Williams 2006, algorithms 3.1 and 3.2,
with the linear model and the effects as the covariance). What is kept are the first two moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_solve, cholesky
from scipy.special import expit

from ripcurrent.forecast._harm import HarmModel

FloatArray = npt.NDArray[np.float64]

INTERCEPT_DEVIATION = 3.0
"""Prior standard deviation of the intercept, in logits."""
SLOPE_DEVIATION = 1.5
"""Prior standard deviation of a slope, in logits per standard deviation of its fact over the runs."""
SOURCE_SCALE, ARM_SCALE, SEED_SCALE = 0.7, 0.5, 0.3
"""Scales, in logits, of the half-normal priors of the deviations between sources, arms and seeds."""
SOURCE_POINTS, ARM_POINTS, SEED_POINTS = 6, 9, 6
"""Points of each deviation's grid, evenly spaced in its logarithm."""
_NEGLIGIBLE = 1e-7


@dataclass(frozen=True, slots=True)
class Trials:
    """Runs to fit: one entry each."""

    names: tuple[str, ...]
    """What the facts are."""
    facts: FloatArray
    """Shape ``(runs, facts)``."""
    answered: FloatArray
    """Requests answered, shape ``(runs,)``."""
    asked: FloatArray
    """Requests asked, shape ``(runs,)``."""
    sources: tuple[str, ...]
    """The dataset of each run's rows."""
    arms: tuple[str, ...]
    """The arm of each run; runs of one arm differ in their seed."""

    def __len__(self) -> int:
        return len(self.sources)

    def where(self, kept: npt.NDArray[np.bool_]) -> Trials:
        """The runs where ``kept`` is true."""
        places = np.flatnonzero(kept)
        return replace(
            self,
            facts=self.facts[places],
            answered=self.answered[places],
            asked=self.asked[places],
            sources=tuple(self.sources[place] for place in places),
            arms=tuple(self.arms[place] for place in places),
        )


@dataclass(frozen=True, slots=True)
class Deviations:
    """Standard deviations of the effects, in logits."""

    source: float
    """Between sources."""
    arm: float
    """Between arms of a source, beyond what the facts say."""
    seed: float
    """Between seeds of an arm, beyond the binomial."""


@dataclass(frozen=True, slots=True)
class Mode:
    """Laplace's approximation for given deviations."""

    log_evidence: float
    """Logarithm of the marginal likelihood, without binomial coefficients."""
    latent: FloatArray
    """Logits of the runs at the mode, shape ``(runs,)``."""
    mean: FloatArray
    """Intercept, slopes, source effects, shape ``(1 + facts + sources,)``."""
    covariance: FloatArray
    """Their covariance."""


def fit_harm(trials: Trials) -> HarmModel:
    """Fit the answered share of runs.

    Raises:
        ValueError: No runs, or a fact that is not finite.
    """
    if len(trials) == 0 or not np.isfinite(trials.facts).all():
        raise ValueError("the fit needs runs, and facts that are finite")
    sources = tuple(dict.fromkeys(trials.sources))
    centre = trials.facts.mean(axis=0)
    spread = trials.facts.std(axis=0)
    spread = np.where(spread > 1e-12 * (1 + np.abs(centre)), spread, 1.0)
    problem = _Problem(trials, sources, (trials.facts - centre) / spread)
    latent = None
    log_weights, modes, grid = [], [], []
    for deviations, log_prior in _grid(sources=len(sources) > 1, seeds=len(set(trials.arms)) < len(trials)):
        mode = problem.mode(deviations, latent)
        latent = mode.latent
        log_weights.append(mode.log_evidence + log_prior)
        modes.append(mode)
        grid.append(deviations)
    weights = np.exp(np.array(log_weights) - max(log_weights))
    weights /= weights.sum()
    kept = [(weight, mode) for weight, mode in zip(weights, modes, strict=True) if weight > _NEGLIGIBLE]
    means = np.array([mode.mean for _, mode in kept])
    shares = np.array([weight for weight, _ in kept])
    shares /= shares.sum()
    mean = shares @ means
    apart = means - mean
    covariance = np.einsum("g,gij->ij", shares, np.array([mode.covariance for _, mode in kept]))
    covariance += np.einsum("g,gi,gj->ij", shares, apart, apart)
    squares = np.array([[one.source**2, one.arm**2, one.seed**2] for one in grid])
    between = weights @ squares
    return HarmModel(
        facts=trials.names,
        centre=tuple(centre.tolist()),
        spread=tuple(spread.tolist()),
        sources=sources,
        coefficients=tuple(mean.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        variance_between_sources=float(between[0]),
        variance_between_arms=float(between[1]),
        variance_between_seeds=float(between[2]),
    )


class _Problem:
    """What does not depend on the deviations."""

    def __init__(self, trials: Trials, sources: Sequence[str], standardised: FloatArray) -> None:
        linear = np.column_stack([np.ones(len(trials)), standardised])
        by_source = np.array([[float(own == source) for source in sources] for own in trials.sources])
        arms = np.array(trials.arms)
        self._design = np.column_stack([linear, by_source])
        self._ridge = np.array([INTERCEPT_DEVIATION**2] + [SLOPE_DEVIATION**2] * standardised.shape[1])
        self._sources = len(sources)
        self._linear = (linear * self._ridge) @ linear.T
        self._same_source = by_source @ by_source.T
        self._same_arm = (arms[:, None] == arms[None, :]).astype(float)
        self._answered, self._asked = trials.answered, trials.asked

    def mode(self, deviations: Deviations, start: FloatArray | None) -> Mode:
        """Laplace's approximation; ``start`` are logits to begin at."""
        covariance = self._linear + deviations.source**2 * self._same_source + deviations.arm**2 * self._same_arm
        # a trace of seed variance keeps the covariance regular
        covariance[np.diag_indices_from(covariance)] += max(deviations.seed**2, 1e-8)
        latent = self._begin() if start is None else start
        best, gradient = -np.inf, np.zeros_like(latent)
        for _ in range(100):
            share = expit(latent)
            root, factor = self._factor(covariance, share)
            pull = root**2 * latent + self._answered - self._asked * share
            towards = pull - root * cho_solve((factor, True), root * (covariance @ pull), check_finite=False)
            latent, gradient, reached = self._step(covariance, gradient, towards, best)
            # Newton's steps: what the next one would add is far smaller than what this one did
            if reached - best < 1e-5:
                break
            best = reached
        root, factor = self._factor(covariance, expit(latent))
        prior = np.concatenate([self._ridge, np.full(self._sources, deviations.source**2)])
        loaded = prior[:, None] * self._design.T
        solved = root[:, None] * cho_solve((factor, True), root[:, None] * loaded.T, check_finite=False)
        return Mode(
            log_evidence=float(reached - np.log(np.diag(factor)).sum()),
            latent=latent,
            mean=loaded @ gradient,
            covariance=np.diag(prior) - loaded @ solved,
        )

    def _factor(self, covariance: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Root of the binomial's curvature ``W``, and the Cholesky factor of ``1 + √W K √W``."""
        root = np.sqrt(self._asked * share * (1 - share))
        inner = root[:, None] * covariance * root
        inner[np.diag_indices_from(inner)] += 1.0
        return root, cholesky(inner, lower=True, overwrite_a=True, check_finite=False)

    def _begin(self) -> FloatArray:
        found: FloatArray = np.log((self._answered + 1) / (self._asked - self._answered + 1))
        return found

    def _step(
        self, covariance: FloatArray, gradient: FloatArray, towards: FloatArray, best: float
    ) -> tuple[FloatArray, FloatArray, float]:
        """Newton's step, halved until it does not lead down."""
        length = 1.0
        while True:
            tried = gradient + length * (towards - gradient)
            latent = covariance @ tried
            reached = float(-0.5 * tried @ latent + self._answered @ latent - self._asked @ np.logaddexp(0.0, latent))
            if reached >= best - 1e-9 * (1 + abs(best)) or length < 1e-6 or not np.isfinite(best):
                return latent, tried, reached
            length /= 2


def _grid(*, sources: bool, seeds: bool) -> Iterator[tuple[Deviations, float]]:
    """Deviations with the logarithm of their prior mass.

    One source says nothing of the deviation between sources: it is then the prior's root mean square. Without an arm of
    several runs, what is between seeds cannot be told from what is between arms.
    """
    axes = [
        _axis(SOURCE_SCALE, SOURCE_POINTS) if sources else [(SOURCE_SCALE, 0.0)],
        _axis(ARM_SCALE, ARM_POINTS),
        _axis(SEED_SCALE, SEED_POINTS) if seeds else [(0.0, 0.0)],
    ]
    for source, arm, seed in product(*axes):
        yield Deviations(source[0], arm[0], seed[0]), source[1] + arm[1] + seed[1]


def _axis(scale: float, points: int) -> list[tuple[float, float]]:
    """Points from a tenth of the scale to three times it; half-normal density times the step, which grows with it."""
    places = np.geomspace(scale / 10, scale * 3, points)
    log_mass = -0.5 * (places / scale) ** 2 + np.log(places)
    return list(zip(places.tolist(), log_mass.tolist(), strict=True))
