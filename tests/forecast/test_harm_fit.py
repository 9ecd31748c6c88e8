"""The fit of harm against plain optimisation and on ladders drawn from its model; the coherence of sets."""

import json
from dataclasses import dataclass
from importlib import import_module

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit

import ripcurrent as rc
from ripcurrent.data import encode_rows, read_rows
from ripcurrent.forecast._harm import (
    INTERCEPT_DEVIATION,
    SLOPE_DEVIATION,
    HarmModel,
    Laplace,
    Trials,
    fit_harm,
    predictive_interval,
)
from ripcurrent.models import load_model
from ripcurrent.progress import SilentProgress
from ripcurrent.scan import ScanRun, SetScore, SetScores
from tests.gradients.oracle import inner, row_gradient
from tests.scan_fixtures import EXACT, good_rows, write_jsonl


@dataclass(frozen=True, slots=True)
class Truth:
    """``logit p = intercept + slope · score + size · log rows + source + arm + seed``."""

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
        effects, place = random.normal(0, self.between_sources, sources), np.arange(arms)
        score, rows = random.normal(0.2, 0.1, arms), np.log(random.choice([20, 50, 100, 200], arms))
        middle = -0.5 + self.slope * (score - 0.2) + self.size * (rows - np.log(80))
        middle += effects[place % sources] + random.normal(0, self.between_arms, arms)
        place = np.repeat(place, seeds)
        logits = middle[place] + random.normal(0, self.between_seeds, len(place))
        return Trials(
            names=("score", "log_rows"),
            facts=np.column_stack([score, rows])[place],
            answered=random.binomial(asked, expit(logits)).astype(float),
            asked=np.full(len(place), float(asked)),
            sources=tuple(f"set-{one % sources}" for one in place),
            arms=tuple(f"arm-{one}" for one in place),
        )


def one_hot(names: tuple[str, ...]) -> np.ndarray:
    return np.array([[float(own == one) for one in dict.fromkeys(names)] for own in names])


def test_the_mode_is_that_of_the_posterior_written_out():
    """Every effect as a weight of its own, their density maximised by a general optimiser."""
    trials = Truth(between_sources=0.6, between_seeds=0.2).draw(np.random.default_rng(1), arms=7, sources=3, seeds=2)
    standardised = (trials.facts - trials.facts.mean(axis=0)) / trials.facts.std(axis=0)
    blocks = [
        (np.ones((len(trials), 1)), INTERCEPT_DEVIATION),
        (standardised, SLOPE_DEVIATION),
        (one_hot(trials.sources), 0.5),
        (one_hot(trials.arms), 0.3),
        (np.eye(len(trials)), 0.25),
    ]
    design = np.column_stack([block for block, _ in blocks])
    deviation = np.concatenate([np.full(block.shape[1], one) for block, one in blocks])

    def loss(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit = design @ weights
        prior = 0.5 * ((weights / deviation) ** 2).sum()
        value = trials.asked @ np.logaddexp(0, logit) - trials.answered @ logit + prior
        return value, design.T @ (trials.asked * expit(logit) - trials.answered) + weights / deviation**2

    weights = minimize(loss, np.zeros(len(deviation)), jac=True, method="BFGS", options={"gtol": 1e-7}).x
    share = expit(design @ weights)
    curvature = design.T @ ((trials.asked * share * (1 - share))[:, None] * design) + np.diag(deviation**-2)
    kept = 1 + trials.facts.shape[1] + 3
    _, _, mean, covariance = Laplace(trials, standardised).mode(0.5, 0.3, 0.25, start=np.zeros(len(trials)))
    np.testing.assert_allclose(mean, weights[:kept], atol=2e-3)
    np.testing.assert_allclose(covariance, np.linalg.inv(curvature)[:kept, :kept], atol=2e-3)


def covered(model: HarmModel, fresh: Trials, *, known: bool) -> list[bool]:
    found = []
    for facts, answered, asked, source in zip(fresh.facts, fresh.answered, fresh.asked, fresh.sources, strict=True):
        one = model.forecast(facts, int(asked), source if known else "another set")
        assert 0 <= one.low <= one.answered <= one.high <= 1
        found.append(one.low - 1e-9 <= answered / asked <= one.high + 1e-9)
    return found


def test_intervals_cover_new_arms_of_known_sources_and_of_sources_that_the_ladder_never_saw():
    known, inside = [], []
    for draw in range(12):
        random, truth = np.random.default_rng(100 + draw), Truth(size=0.5)
        known += covered(fit_harm(truth.draw(random, arms=18)), truth.draw(random, arms=25), known=True)
    for draw in range(10):
        random, truth = np.random.default_rng(200 + draw), Truth(between_sources=0.8)
        model, fresh = fit_harm(truth.draw(random, arms=16, sources=4)), truth.draw(random, arms=12, sources=12)
        inside += covered(model, fresh, known=False)
    assert 0.84 <= np.mean(known) <= 0.96
    assert 0.80 <= np.mean(inside) <= 0.98


@pytest.mark.parametrize(("mean", "deviation", "asked"), [(0.0, 0.5, 200), (-3.0, 1.0, 60), (1.5, 0.01, 100)])
def test_the_interval_is_that_of_simulated_runs(mean, deviation, asked):
    random = np.random.default_rng(8)
    shares = random.binomial(asked, expit(random.normal(mean, deviation, 200_000))) / asked
    low, high = predictive_interval(mean, deviation**2, asked)
    assert low == pytest.approx(np.quantile(shares, 0.05), abs=1.01 / asked)
    assert high == pytest.approx(np.quantile(shares, 0.95), abs=1.01 / asked)


def test_coherence_is_the_mean_cosine_between_two_rows_and_is_measured_once(
    tiny_folder, anchors_file, tmp_path, monkeypatch
):
    file = write_jsonl(tmp_path / "rows.jsonl", good_rows(9))
    run = rc.scan(file, tmp_path / "run", model=str(tiny_folder), anchors=str(anchors_file), **EXACT)
    scores = SetScores(SilentProgress())
    found = scores.of(run, range(1, 8), run.folder).coherence
    loaded = load_model(tiny_folder, device="cpu", dtype="float32")
    rows = list(encode_rows(read_rows(file), loaded.tokenizer))
    gradients = [row_gradient(loaded.model, row) for row in rows][1:8]
    units = [(one, np.sqrt(inner(one, one))) for one in gradients]
    cosines = [inner(a, b) / (n * m) for a, n in units for b, m in units if a is not b]
    assert found == pytest.approx(np.mean(cosines), abs=1e-4)
    assert scores.of(run, [3], run.folder).coherence == 1.0
    monkeypatch.setattr(
        import_module("ripcurrent.scan._set_score"), "load_scan_model", lambda *_: pytest.fail("measured twice")
    )
    again = SetScores(SilentProgress()).of(ScanRun.open(run.folder), range(1, 8), run.folder)
    assert again.coherence == found
    assert len(json.loads((run.folder / "coherence.json").read_text())) == 2


def test_a_sets_cosine_is_that_of_its_mean_unit_gradient():
    """From the mean cosine between two rows and the mean of the rows' scores, as a loop over all has it."""
    *rows, direction = (one / np.linalg.norm(one) for one in np.random.default_rng(4).normal(0.1, 1, (7, 20)))
    coherence = np.mean([one @ other for one in rows for other in rows if one is not other])
    found = SetScore(mean=float(np.mean(rows, axis=0) @ direction), coherence=float(coherence))
    mean = np.mean(rows, axis=0)
    assert found.cosine(6) == pytest.approx(mean @ direction / np.linalg.norm(mean))
    # a sample of rows that pull apart
    assert SetScore(mean=0.02, coherence=-0.2).cosine(100) == pytest.approx(2)
