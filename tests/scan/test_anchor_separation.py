"""The anchors' separation against gradients and features that are simply held."""

import numpy as np
import pytest

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.scan import ScanAnchors
from ripcurrent.scan._separation import AnchorMeasurements, leave_one_out_scores, require_separation, separation

SETS = ("harmful", "safe_1", "safe_2")


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


def others(vectors: dict[str, np.ndarray], name: str, own: tuple[str, int]) -> np.ndarray:
    """The set's vectors without the anchor itself."""
    return np.array([v for number, v in enumerate(vectors[name]) if (name, number) != own])


@pytest.mark.parametrize("sizes", [(4, 4), (4, 6), (5, 4, 7), (10, 10, 10)])
@pytest.mark.parametrize("avg_n", [1, 3, 50])
def test_leave_one_out_equals_leaving_each_vector_out(sizes: tuple[int, ...], avg_n: int) -> None:
    vectors = unit_vectors(np.random.default_rng(len(sizes)), sizes)
    found = leave_one_out_scores(measurements(vectors), avg_n)
    safe_sets = [name for name in vectors if name != "harmful"]
    place = 0
    for name, rows in vectors.items():
        for number, vector in enumerate(rows):
            mean_cosine = {s: float(vector @ others(vectors, s, (name, number)).mean(axis=0)) for s in vectors}
            largest = {
                s: float(np.mean(sorted(others(vectors, s, (name, number)) @ vector, reverse=True)[:avg_n]))
                for s in vectors
            }
            safe = np.mean([mean_cosine[s] for s in safe_sets])
            assert found["gradient_balanced"][place] == pytest.approx(mean_cosine["harmful"] - safe, abs=1e-12)
            assert found["gradient_bidirectional"][place] == pytest.approx(
                mean_cosine["harmful"] - sum(mean_cosine[s] for s in safe_sets), abs=1e-12
            )
            assert found["representation_bidirectional"][place] == pytest.approx(
                largest["harmful"] - np.mean([largest[s] for s in safe_sets]), abs=1e-12
            )
            place += 1


def test_separation_is_the_auroc_of_harmful_against_all_safe_anchors() -> None:
    vectors = unit_vectors(np.random.default_rng(5), (6, 5, 7))
    scores = leave_one_out_scores(measurements(vectors))
    for name, value in separation(measurements(vectors)).items():
        wins = [1.0 if h > s else 0.5 if h == s else 0.0 for h in scores[name][:6] for s in scores[name][6:]]
        assert value == pytest.approx(np.mean(wins))


def test_anchors_without_a_difference_do_not_separate() -> None:
    """Leaving an anchor in its own set would make any noise look separable."""
    generator = np.random.default_rng(0)
    found = []
    for _ in range(20):
        noise = generator.normal(size=(20, 200))
        noise /= np.linalg.norm(noise, axis=1, keepdims=True)
        found.append(separation(measurements({"harmful": noise[:10], "safe_1": noise[10:]}))["gradient_balanced"])
    assert np.mean(found) < 0.6


def test_only_the_signals_in_use_are_judged() -> None:
    whole = measurements(unit_vectors(np.random.default_rng(1), (4, 4)))
    only_gradient = AnchorMeasurements(whole.order, whole.norms, whole.similarities, None)
    only_features = AnchorMeasurements(whole.order, None, None, whole.cosines)
    assert set(separation(only_gradient)) == {"gradient_balanced", "gradient_bidirectional"}
    assert set(separation(only_features)) == {"representation_bidirectional"}


def test_measurements_survive_json() -> None:
    whole = measurements(unit_vectors(np.random.default_rng(2), (4, 5, 4)))
    kept = ScanAnchors(name="some", sha256="0", measurements=whole).model_dump_json()
    again = ScanAnchors.model_validate_json(kept).measurements
    assert again == whole
    assert tuple(again.by_set()) == SETS
    assert again.safe_sets == 2
    assert again.mean_harmful_norm() == pytest.approx((1 + 2 + 3 + 4) / 4)


@pytest.mark.parametrize("value", [0.0, 0.699, float("nan")])
@pytest.mark.parametrize("column", ["gradient_balanced", "gradient_bidirectional", "representation_bidirectional"])
def test_anchors_that_do_not_separate_are_refused_naming_signal_and_value(column: str, value: float) -> None:
    good = {"gradient_balanced": 0.9, "gradient_bidirectional": 0.9, "representation_bidirectional": 0.9}
    with pytest.raises(RipcurrentError) as caught:
        require_separation("mine.jsonl", {**good, column: value})
    assert f"mine.jsonl do not separate harm from safety on this model: leave-one-out AUROC of {column} is" in str(
        caught.value
    )
    assert f"{value:.2f}" in caught.value.message
    assert "--no-anchor-check" in caught.value.hint
    assert caught.value.code is ExitCode.NOT_MEASURED


def test_anchors_that_separate_pass() -> None:
    require_separation("x", {"gradient_balanced": 0.7, "gradient_bidirectional": 0.71})
    require_separation("x", {"representation_bidirectional": 1.0})
