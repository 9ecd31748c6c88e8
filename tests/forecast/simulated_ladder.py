"""Ladders drawn from the model that is fitted, with parameters that a test knows."""

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from ripcurrent.forecast._harm import Trials


@dataclass(frozen=True, slots=True)
class Truth:
    """``logit p = intercept + slope · score + size · log rows + source + arm + seed``."""

    intercept: float = -0.5
    slope: float = 12.0
    """Per unit of the score, whose standard deviation over arms is 0.1."""
    size: float = 0.0
    between_sources: float = 0.0
    between_arms: float = 0.35
    between_seeds: float = 0.0

    def draw(
        self, random: np.random.Generator, *, arms: int = 20, sources: int = 1, seeds: int = 1, asked: int = 200
    ) -> Trials:
        """Arms take turns in sources; their score and number of rows are drawn."""
        effects = random.normal(0, self.between_sources, sources)
        names, sets, facts, logits = [], [], [], []
        for arm in range(arms):
            score, rows = random.normal(0.2, 0.1), float(np.log(random.choice([20, 50, 100, 200])))
            middle = self.intercept + self.slope * (score - 0.2) + self.size * (rows - np.log(80))
            middle += effects[arm % sources] + random.normal(0, self.between_arms)
            for _ in range(seeds):
                names.append(f"arm-{arm}")
                sets.append(f"set-{arm % sources}")
                facts.append([score, rows])
                logits.append(middle + random.normal(0, self.between_seeds))
        return Trials(
            names=("score", "log_rows"),
            facts=np.array(facts),
            answered=random.binomial(asked, expit(logits)).astype(float),
            asked=np.full(len(names), float(asked)),
            sources=tuple(sets),
            arms=tuple(names),
        )
