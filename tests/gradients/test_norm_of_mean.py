"""What the unit gradients of rows have in common, against one-row autograd on several architectures."""

from __future__ import annotations

import numpy as np
import pytest

from ripcurrent.forecast._calibration import with_set_cosine
from ripcurrent.gradients import GradientPass, norm_of_mean
from tests.gradients.oracle import chat_model, inner, random_rows, row_gradient
from tests.models.tiny import KINDS, tiny_model


def unit_gradients(model, rows):
    """Each row's gradient over its norm, and the norms."""
    gradients = [row_gradient(model, row) for row in rows]
    norms = np.array([np.sqrt(inner(one, one)) for one in gradients])
    return [
        {name: value / norm for name, value in one.items()} for one, norm in zip(gradients, norms, strict=True)
    ], norms


@pytest.mark.parametrize("kind", KINDS)
def test_the_norm_is_that_of_the_mean_of_single_unit_gradients(kind: str) -> None:
    model = tiny_model(kind)
    rows = random_rows(np.random.default_rng(3), 7)
    units, norms = unit_gradients(model, rows)
    mean = {name: sum(one[name] for one in units) / len(units) for name in units[0]}
    found = norm_of_mean(GradientPass(chat_model(model)), rows, norms)
    assert found == pytest.approx(np.sqrt(inner(mean, mean)), rel=1e-4)


@pytest.mark.parametrize("kind", ["llama_tied", "gpt2", "gemma3"])
def test_a_sets_cosine_is_that_of_its_mean_unit_gradient(kind: str) -> None:
    """From the mean cosine between two rows and the mean of the rows' scores, as a loop over all has it."""
    model = tiny_model(kind)
    rows = random_rows(np.random.default_rng(4), 6)
    units, norms = unit_gradients(model, rows)
    direction = row_gradient(model, random_rows(np.random.default_rng(5), 1)[0])
    mean = {name: sum(one[name] for one in units) / len(units) for name in units[0]}
    norm = norm_of_mean(GradientPass(chat_model(model)), rows, norms)
    coherence = (len(rows) * norm**2 - 1) / (len(rows) - 1)
    pairs = [inner(units[a], units[b]) for a in range(len(rows)) for b in range(len(rows)) if a != b]
    assert coherence == pytest.approx(np.mean(pairs), abs=1e-5)
    scores = [inner(one, direction) for one in units]
    found = with_set_cosine({"gradient_balanced": float(np.mean(scores)), "coherence": coherence}, len(rows))
    assert found["set_cosine"] == pytest.approx(inner(mean, direction) / np.sqrt(inner(mean, mean)), rel=1e-3)


def test_more_rows_of_a_kind_come_nearer_to_what_they_share() -> None:
    means = {"gradient_balanced": 0.02, "coherence": 0.09}
    found = [with_set_cosine(means, rows)["set_cosine"] for rows in (1, 10, 100, 10**6)]
    assert found[0] == pytest.approx(0.02)
    assert found == sorted(found)
    assert found[-1] == pytest.approx(0.02 / 0.3, rel=1e-4)
    assert "set_cosine" not in with_set_cosine({"gradient_balanced": 0.02}, 10)
    # a sample of rows that pull apart
    assert np.isfinite(with_set_cosine({"gradient_balanced": 0.02, "coherence": -0.2}, 100)["set_cosine"])
