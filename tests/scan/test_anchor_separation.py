"""The anchors' separation against gradients and features that are simply held."""

import numpy as np
import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import ScanAnchors
from ripcurrent.scan._separation import AnchorMeasurements, leave_one_out_scores, require_separation, separation

SETS = ("harmful", "safe_1", "safe_2")
SIGNALS = ("gradient_balanced", "gradient_bidirectional", "representation_bidirectional")


def unit_vectors(generator: np.random.Generator, sizes: tuple[int, ...], width: int = 12) -> dict[str, np.ndarray]:
    vectors = {}
    for name, size in zip(SETS, sizes, strict=False):
        found = generator.normal(size=(size, width)) + generator.normal(size=width)
        vectors[name] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return vectors


def measurements(vectors: dict[str, np.ndarray]) -> AnchorMeasurements:
    """What the signals would report of anchors with these gradients and these features."""
    every = np.concatenate(list(vectors.values()))
    return AnchorMeasurements(
        order=[(name, number) for name, found in vectors.items() for number in range(len(found))],
        norms=[float(number + 1) for number in range(len(every))],
        similarities={name: (every @ found.mean(axis=0)).tolist() for name, found in vectors.items()},
        cosines=(every @ every.T).tolist(),
    )


@pytest.mark.parametrize("sizes", [(4, 4), (4, 6), (5, 4, 7), (10, 10, 10)])
@pytest.mark.parametrize("avg_n", [1, 3, 50])
def test_leave_one_out_equals_leaving_each_vector_out(sizes, avg_n):
    vectors = unit_vectors(np.random.default_rng(len(sizes)), sizes)
    found = leave_one_out_scores(measurements(vectors), avg_n)
    places = [(name, number) for name, own in vectors.items() for number in range(len(own))]
    for place, (own, left_out) in enumerate(places):
        cosines = {
            name: [v @ vectors[own][left_out] for n, v in enumerate(rows) if (name, n) != (own, left_out)]
            for name, rows in vectors.items()
        }
        harmful, *safe = (float(np.mean(values)) for values in cosines.values())
        assert found["gradient_balanced"][place] == pytest.approx(harmful - np.mean(safe), abs=1e-12)
        assert found["gradient_bidirectional"][place] == pytest.approx(harmful - sum(safe), abs=1e-12)
        harmful, *safe = (float(np.mean(sorted(values, reverse=True)[:avg_n])) for values in cosines.values())
        assert found["representation_bidirectional"][place] == pytest.approx(harmful - np.mean(safe), abs=1e-12)


def test_separation_is_the_auroc_of_harmful_against_all_safe_anchors():
    given = measurements(unit_vectors(np.random.default_rng(5), (6, 5, 7)))
    scores = leave_one_out_scores(given)
    for name, value in separation(given).items():
        wins = [1.0 if h > s else 0.5 if h == s else 0.0 for h in scores[name][:6] for s in scores[name][6:]]
        assert value == pytest.approx(np.mean(wins))


def test_anchors_without_a_difference_do_not_separate():
    """Leaving an anchor in its own set would make any noise look separable."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(20):
        noise = generator.normal(size=(20, 200))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        found.append(separation(measurements({"harmful": noise[:10], "safe_1": noise[10:]}))["gradient_balanced"])
    assert np.mean(found) < 0.6


def test_only_the_signals_in_use_are_judged_and_measurements_survive_json():
    whole = measurements(unit_vectors(np.random.default_rng(2), (4, 5, 4)))
    gradient, features = {"similarities": whole.similarities}, {"cosines": whole.cosines}
    for given, named in ((gradient, SIGNALS[:2]), (features, SIGNALS[2:])):
        assert tuple(separation(AnchorMeasurements(whole.order, **given))) == named
    kept = ScanAnchors(name="some", sha256="0", measurements=whole).model_dump_json()
    again = ScanAnchors.model_validate_json(kept).measurements
    assert again == whole
    assert (tuple(again.by_set()), again.safe_sets) == (SETS, 2)
    assert again.mean_harmful_norm() == pytest.approx((1 + 2 + 3 + 4) / 4)


@pytest.mark.parametrize("value", [0.0, 0.699, float("nan")])
@pytest.mark.parametrize("column", SIGNALS)
def test_anchors_that_do_not_separate_are_refused_naming_signal_and_value(column, value):
    good = dict(zip(SIGNALS, (0.7, 0.71, 1.0), strict=True))
    require_separation("mine.jsonl", good)
    said = rf"mine\.jsonl do not separate harm .* leave-one-out AUROC of {column} is {value:.2f}.*\n.*--no-anchor-check"
    with pytest.raises(RipcurrentError, match=said) as caught:
        require_separation("mine.jsonl", {**good, column: value})
    assert caught.value.code is ExitCode.NOT_MEASURED
