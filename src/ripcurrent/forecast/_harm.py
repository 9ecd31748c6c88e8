"""The answered share of a fine-tuning set as a function of a few facts about it: a logistic fit with intervals.

``logit p = intercept + slopes · facts + source + arm + seed``, ``answered ~ Binomial(asked, p)``. Facts are
standardised over the runs; intercept and slopes have normal priors (a ridge), and the effects of source, arm and seed
are normal with standard deviations that are unknown themselves: half-normal priors, summed over on a grid. For given
deviations the posterior is Laplace's approximation around its mode (Rasmussen & Williams 2006, algorithms 3.1 and 3.2,
with the linear model and the effects as the covariance). What is kept are the first two moments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, NonNegativeFloat, PositiveFloat, model_validator
from scipy.linalg import cho_solve, cholesky
from scipy.special import expit, softmax
from scipy.stats import binom, norm

FloatArray = npt.NDArray[np.float64]

CONFIDENCE = 0.9
"""Of every forecast's interval."""
INTERCEPT_DEVIATION, SLOPE_DEVIATION = 3.0, 1.5
"""Prior standard deviations in logits; of a slope per standard deviation of its fact over the runs."""
SCALES = (0.7, 0.5, 0.3)
"""Scales, in logits, of the half-normal priors of the deviations between sources, arms and seeds."""
POINTS = (6, 9, 6)
"""Points of each deviation's grid, evenly spaced in its logarithm."""
_NODES = 201


class Frozen(BaseModel):
    """A part of a calibration or a forecast."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class HarmForecast(Frozen):
    """The share of harmful requests that one training run on a set will answer, with its 90 % interval."""

    answered: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.answered:.0f} % (90 % interval {100 * self.low:.0f} to {100 * self.high:.0f} %)"


class HarmModel(Frozen):
    """A logistic model of the answered share: coefficients of standardised facts, their covariance, what is left.

    ``logit p = c₀ + Σ cⱼ (factⱼ − centreⱼ)/spreadⱼ + effect of the source``. A run's logit lies around that with the
    variances between arms and between seeds; a source that the fit has not seen adds the variance between sources.
    """

    facts: tuple[str, ...]
    """Names of the facts; then their means and standard deviations over the runs."""
    centre: tuple[float, ...]
    spread: tuple[PositiveFloat, ...]
    sources: tuple[str, ...]
    coefficients: tuple[float, ...]
    """Intercept, a slope per fact, an effect per source: posterior means, in logits; then their covariance."""
    covariance: tuple[tuple[float, ...], ...]
    variance_between_sources: NonNegativeFloat
    """Posterior means: between sources, between arms of one beyond the facts, between seeds beyond the binomial."""
    variance_between_arms: NonNegativeFloat
    variance_between_seeds: NonNegativeFloat

    @model_validator(mode="after")
    def _fits_together(self) -> HarmModel:
        facts, size = len(self.facts), 1 + len(self.facts) + len(self.sources)
        sizes = [len(self.centre), len(self.spread), len(self.coefficients), *map(len, self.covariance)]
        if sizes != [facts, facts, size, *[size] * size]:
            raise ValueError("its numbers do not belong to the intercept, the facts and the sources")
        return self

    def forecast(self, facts: npt.ArrayLike, asked: int, source: str | None = None) -> HarmForecast:
        """What one run on a set will answer of ``asked`` requests; ``facts`` in the model's order, not standardised."""
        standardised = (np.asarray(facts, dtype=np.float64) - np.array(self.centre)) / np.array(self.spread)
        row = np.concatenate([[1.0], standardised, [float(source == one) for one in self.sources]])
        mean, variance = float(row @ np.array(self.coefficients)), float(row @ np.array(self.covariance) @ row)
        variance += self.variance_between_arms + self.variance_between_seeds
        if source not in self.sources:
            variance += self.variance_between_sources
        low, high = predictive_interval(mean, max(variance, 0.0), asked)
        return HarmForecast(answered=float(expit(mean)), low=low, high=high)


def predictive_interval(mean: float, variance: float, asked: int) -> tuple[float, float]:
    """Central 90 % interval of the answered share of ``asked`` requests when its logit is normal."""
    tail = (1 - CONFIDENCE) / 2
    shares = expit(mean + np.sqrt(variance) * norm.ppf((np.arange(_NODES) + 0.5) / _NODES))
    reached = binom.cdf(np.arange(asked + 1)[:, None], asked, shares).mean(axis=1)
    low, high = (int(np.searchsorted(reached, probability - 1e-9)) for probability in (tail, 1 - tail))
    return low / asked, min(high, asked) / asked


@dataclass(frozen=True, slots=True)
class Trials:
    """Runs to fit: one entry each."""

    names: tuple[str, ...]
    """What the facts are, whose values have the shape ``(runs, facts)``."""
    facts: FloatArray
    answered: FloatArray
    """Of the requests asked, both of shape ``(runs,)``."""
    asked: FloatArray
    sources: tuple[str, ...]
    """The dataset of each run's rows."""
    arms: tuple[str, ...]
    """The arm of each run; runs of one arm differ in their seed."""

    def __len__(self) -> int:
        return len(self.sources)

    def where(self, kept: npt.NDArray[np.bool_]) -> Trials:
        """The runs where ``kept`` is true."""
        sources, arms = (tuple(np.array(names)[kept].tolist()) for names in (self.sources, self.arms))
        return Trials(self.names, self.facts[kept], self.answered[kept], self.asked[kept], sources, arms)


def fit_harm(trials: Trials) -> HarmModel:
    """Fit the answered share of runs; with one source the deviation between sources is the prior's."""
    centre, spread = trials.facts.mean(axis=0), trials.facts.std(axis=0)
    spread = np.where(spread > 1e-12 * (1 + np.abs(centre)), spread, 1.0)
    laplace = Laplace(trials, (trials.facts - centre) / spread)
    axes = [np.geomspace(scale / 10, scale * 3, points) for scale, points in zip(SCALES, POINTS, strict=True)]
    if len(laplace.sources) == 1:
        axes[0] = np.array(SCALES[:1])
    if len(set(trials.arms)) == len(trials):
        axes[2] = np.zeros(1)
    grid = np.array(list(product(*axes)))
    # half-normal density times the step, which grows with the deviation; an axis of one point is the same everywhere
    log_prior = (np.log(np.maximum(grid, 1e-9)) - 0.5 * (grid / SCALES) ** 2).sum(axis=1)
    latent, modes = np.log((trials.answered + 1) / (trials.asked - trials.answered + 1)), []
    for deviations in grid:
        modes.append(laplace.mode(*deviations, start=latent))
        latent = modes[-1][1]
    log_evidence, _, means, covariances = map(np.array, zip(*modes, strict=True))
    weights = softmax(log_prior + log_evidence)
    mean = weights @ means
    covariance = np.tensordot(weights, covariances, 1) + (weights * (means - mean).T) @ (means - mean)
    between_sources, between_arms, between_seeds = (weights @ grid**2).tolist()
    return HarmModel(
        facts=trials.names,
        centre=tuple(centre.tolist()),
        spread=tuple(spread.tolist()),
        sources=laplace.sources,
        coefficients=tuple(mean.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        variance_between_sources=between_sources,
        variance_between_arms=between_arms,
        variance_between_seeds=between_seeds,
    )


class Laplace:
    """What the approximations for all deviations share."""

    def __init__(self, trials: Trials, standardised: FloatArray) -> None:
        self.sources = tuple(dict.fromkeys(trials.sources))
        linear = np.column_stack([np.ones(len(trials)), standardised])
        self._answered, self._asked = trials.answered, trials.asked
        self._design = np.column_stack([linear, _alike(trials.sources, self.sources)])
        self._ridge = np.array([INTERCEPT_DEVIATION**2] + [SLOPE_DEVIATION**2] * standardised.shape[1])
        self._linear = (linear * self._ridge) @ linear.T
        self._same_source, self._same_arm = (_alike(names, names) for names in (trials.sources, trials.arms))

    def mode(
        self, source: float, arm: float, seed: float, *, start: FloatArray
    ) -> tuple[float, FloatArray, FloatArray, FloatArray]:
        """The approximation for standard deviations between sources, arms of a source and seeds of an arm, in logits.

        Gives the logarithm of the marginal likelihood without binomial coefficients; the logits at the mode; mean and
        covariance of intercept, slopes and source effects.
        """
        # a trace of seed variance keeps the covariance regular
        noise = np.diag(np.full(len(start), max(seed**2, 1e-8)))
        covariance = self._linear + source**2 * self._same_source + arm**2 * self._same_arm + noise
        latent = start
        gradient, reached, gain = np.zeros_like(latent), -np.inf, np.inf
        # Newton's steps: what the next one would add is far smaller than what this one did
        while gain > 1e-5:
            root, factor = self._factor(covariance, latent)
            pull = root**2 * latent + self._answered - self._asked * expit(latent)
            step = pull - root * cho_solve((factor, True), root * (covariance @ pull), check_finite=False) - gradient
            # halved until it does not lead down
            for length in 0.5 ** np.arange(20):
                tried = gradient + length * step
                latent = covariance @ tried
                density = -0.5 * tried @ latent + self._answered @ latent - self._asked @ np.logaddexp(0.0, latent)
                if density >= reached - 1e-9 * (1 + abs(density)):
                    break
            gradient, gain, reached = tried, density - reached, density
        root, factor = self._factor(covariance, latent)
        prior = np.concatenate([self._ridge, np.full(len(self.sources), source**2)])
        loaded = prior[:, None] * self._design.T
        solved = root[:, None] * cho_solve((factor, True), root[:, None] * loaded.T, check_finite=False)
        log_evidence = float(reached - np.log(np.diag(factor)).sum())
        return log_evidence, latent, loaded @ gradient, np.diag(prior) - loaded @ solved

    def _factor(self, covariance: FloatArray, latent: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Root of the binomial's curvature ``W``, and the Cholesky factor of ``1 + √W K √W``."""
        share = expit(latent)
        root = np.sqrt(self._asked * share * (1 - share))
        inner = root[:, None] * covariance * root
        inner[np.diag_indices_from(inner)] += 1.0
        return root, cholesky(inner, lower=True, overwrite_a=True, check_finite=False)


def _alike(names: Sequence[str], others: Sequence[str]) -> FloatArray:
    """1 where two names are equal, shape ``(names, others)``."""
    found: FloatArray = np.equal(np.array(names)[:, None], np.array(others)).astype(np.float64)
    return found
