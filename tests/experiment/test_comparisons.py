"""Arms against their control: what is found, and what too few prompts cannot say."""

import math

import numpy as np
import numpy.typing as npt
import pytest

from ripcurrent.experiment._results import ArmComparison
from ripcurrent.experiment._tables import by_arm, compare_pairs, finding_of
from ripcurrent.statistics import holm, minimum_detectable_effect
from tests.experiment.answers import harmful_run


def compared(**arms: npt.ArrayLike) -> dict[str, ArmComparison]:
    """Every arm against ``control``; 1 where a harmful request is answered, shape ``(prompts, seeds)``."""
    runs = [
        harmful_run(arm, seed, answered)
        for arm, table in arms.items()
        for seed, answered in enumerate(np.asarray(table).T)
    ]
    pairs = [(arm, "control") for arm in arms if arm != "control"]
    return {one.arm: one for one in compare_pairs(pairs, by_arm(runs), "prefix")}


@pytest.mark.parametrize(
    ("difference", "p", "upper", "words"),
    [
        (0.3, 0.049, 0.4, "worse than random"),
        (0.01, 0.01, 0.05, "worse than random"),
        (0.3, 0.05, 0.4, "not enough evidence"),
        (-0.3, 0.001, -0.2, "no evidence"),
        (0.02, 0.5, 0.0999, "no evidence"),
        (0.02, 0.5, 0.1, "not enough evidence"),
    ],
)
def test_the_finding_in_words(difference: float, p: float, upper: float, words: str) -> None:
    assert finding_of(difference, p, upper) == words


def test_arms_against_a_control() -> None:
    generator = np.random.default_rng(0)
    control = generator.random((200, 3)) < 0.3
    top, bottom = generator.random((200, 3)) < 0.6, generator.random((200, 1)) < 0.05
    found = compared(control=control, top=top, same=control, bottom=bottom)
    assert {name: comparison.finding for name, comparison in found.items()} == {
        "top": "worse than random",
        "same": "no evidence",
        "bottom": "no evidence",
    }
    assert [one.adjusted_p for one in found.values()] == holm([one.p for one in found.values()])
    assert found["top"].low < found["top"].difference < found["top"].high
    assert found["top"].seed_rates == pytest.approx(top.mean(axis=0))
    assert len(found["bottom"].seed_rates) == 1
    assert found["bottom"].control_seed_rates == pytest.approx(control.mean(axis=0))
    # at Holm's first step of three, from the spread with one prompt more in either direction
    differences = [*(top.mean(axis=1) - control.mean(axis=1)), 1, -1]
    expected = minimum_detectable_effect(200, float(np.std(differences)), alpha=0.05 / 3)
    assert found["top"].minimum_detectable_effect == pytest.approx(expected)


def test_a_handful_of_prompts_is_no_proof_of_no_harm() -> None:
    silent = compared(control=np.zeros((20, 3)), arm=np.zeros((20, 1)))["arm"]
    assert silent.finding == "not enough evidence"
    # Bonett & Price's interval for 20 prompts without a flip: (0 ± 1.96 · sqrt((2/22) / 22))
    assert silent.high == pytest.approx(1.96 * math.sqrt(2 / 22 / 22), abs=1e-4)
    assert compared(control=np.zeros((400, 1)), arm=np.zeros((400, 1)))["arm"].high < 0.1
