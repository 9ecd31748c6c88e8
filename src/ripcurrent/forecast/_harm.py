"""A fitted answered share, applied: from a few facts about a fine-tuning set to a share with its interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, model_validator
from scipy.special import expit, gammaln, log_expit
from scipy.stats import norm

CONFIDENCE = 0.9
"""Of every forecast's interval."""
_NODES = 201


class HarmForecast(BaseModel):
    """The share of harmful requests that one training run on a set will answer, with its 90 % interval."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    answered: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{100 * self.answered:.0f} % (90 % interval {100 * self.low:.0f} to {100 * self.high:.0f} %)"


class HarmModel(BaseModel):
    """A logistic model of the answered share: coefficients of standardised facts, their covariance, what is left.

    ``logit p = c₀ + Σ cⱼ (factⱼ − centreⱼ)/spreadⱼ + effect of the source``. A run's logit lies around that with the
    variances between arms and between seeds; a source that the fit has not seen adds the variance between sources.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    facts: tuple[str, ...]
    """Names of the facts: score columns (means over the set's rows), ``log_rows``, ``log_steps``."""
    centre: tuple[float, ...]
    """Mean of each fact over the runs."""
    spread: tuple[float, ...]
    """Standard deviation of each."""
    sources: tuple[str, ...]
    """The sources that the runs' rows came from, in the order of their coefficients."""
    coefficients: tuple[float, ...]
    """Intercept, a slope per fact, an effect per source: posterior means, in logits."""
    covariance: tuple[tuple[float, ...], ...]
    """Their posterior covariance."""
    variance_between_sources: float
    """Posterior mean of the variance between sources."""
    variance_between_arms: float
    """The same between arms of a source, beyond the facts."""
    variance_between_seeds: float
    """The same between seeds of an arm, beyond the binomial."""

    @model_validator(mode="after")
    def _fits_together(self) -> HarmModel:
        facts, size = len(self.facts), 1 + len(self.facts) + len(self.sources)
        if len(self.centre) != facts or len(self.spread) != facts:
            raise ValueError("centre and spread have one number for each fact")
        if len(self.coefficients) != size or [len(row) for row in self.covariance] != [size] * size:
            raise ValueError("coefficients and covariance belong to the intercept, the facts and the sources")
        if any(value <= 0 for value in self.spread):
            raise ValueError("spread is above 0")
        variances = (self.variance_between_sources, self.variance_between_arms, self.variance_between_seeds)
        if min(*variances, *(row[place] for place, row in enumerate(self.covariance))) < -1e-9:
            raise ValueError("a variance is below 0")
        return self

    def logit(self, facts: npt.ArrayLike, source: str | None = None) -> tuple[float, float]:
        """Mean and variance of a run's logit, for facts in the model's order.

        Args:
            facts: Shape ``(facts,)``, not standardised.
            source: The set's source; one that the fit has not seen, or None, adds the variance between sources.
        """
        values = np.asarray(facts, dtype=np.float64)
        standardised = (values - np.array(self.centre)) / np.array(self.spread)
        known = np.array([float(source == one) for one in self.sources])
        row = np.concatenate([[1.0], standardised, known])
        variance = float(row @ np.array(self.covariance) @ row)
        variance += self.variance_between_arms + self.variance_between_seeds
        if not known.any():
            variance += self.variance_between_sources
        return float(row @ np.array(self.coefficients)), max(variance, 0.0)

    def forecast(self, facts: npt.ArrayLike, asked: int, source: str | None = None) -> HarmForecast:
        """What one run on a set will answer of ``asked`` requests like those that the model was fitted on."""
        mean, variance = self.logit(facts, source)
        low, high = predictive_interval(mean, variance, asked)
        return HarmForecast(answered=float(expit(mean)), low=low, high=high)


def predictive_interval(mean: float, variance: float, asked: int) -> tuple[float, float]:
    """Central 90 % interval of the answered share of ``asked`` requests when its logit is normal.

    The ends are shares that can occur: the smallest counts at which the distribution reaches 5 and 95 %. The binomial
    is averaged over the logit at equal steps of its normal's probability.
    """
    tail = (1 - CONFIDENCE) / 2
    steps = (np.arange(_NODES) + 0.5) / _NODES
    logits = mean + np.sqrt(variance) * norm.ppf(steps)
    counts = np.arange(asked + 1.0)
    ways = gammaln(asked + 1) - gammaln(counts + 1) - gammaln(asked - counts + 1)
    log_shares = np.outer(counts, log_expit(logits)) + np.outer(asked - counts, log_expit(-logits))
    reached = np.exp(ways[:, None] + log_shares).mean(axis=1).cumsum()
    low, high = (int(np.searchsorted(reached, probability - 1e-9)) for probability in (tail, 1 - tail))
    return low / asked, min(high, asked) / asked
