"""Anchors that a scan refuses: directions or features that are not finite or zero, and sets that do not separate."""

import dataclasses
import math
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import SetDirection
from ripcurrent.scan import ScanAnchors, _prepared_anchors, scan
from ripcurrent.scan._separation import AnchorMeasurements, leave_one_out_scores, require_separation, separation

FINAL_NORM, LAST_LAYER = "model.norm.weight", "model.layers.1.mlp.down_proj.weight"
TIED_HEAD = "model.embed_tokens.weight"
NOT_FINITE = r"representations of anchors\.jsonl are not finite or zero"


@pytest.mark.parametrize(
    ("signals", "weight", "value", "said"),
    [
        ("gradient", TIED_HEAD, math.nan, r"direction of harmful in anchors\.jsonl is not finite"),
        ("representation", LAST_LAYER, math.nan, NOT_FINITE),
        ("representation", FINAL_NORM, 0.0, NOT_FINITE),
        # not taken for an unknown kind of layer
        ("gradient", FINAL_NORM, math.nan, r"The layer model\.norm has weights that are not"),
        ("gradient", LAST_LAYER, math.nan, r"The layer model\.layers\.1\.mlp\.down_proj has weights that are not"),
    ],
)
def test_a_model_whose_weights_make_nothing_of_anchors_is_an_error(
    signals, weight, value, said, tmp_path, rows_file, exact
):
    model = shutil.copytree(exact["model"], tmp_path / "model") / "model.safetensors"
    tensors = load_file(model)
    # of the tied head one token alone
    tensors[weight][slice(-1, None) if weight == TIED_HEAD else slice(None)] = value
    save_file(tensors, model, {"format": "pt"})
    with pytest.raises(RipcurrentError, match=said) as caught:
        scan(rows_file, tmp_path / "out", signals=signals, **{**exact, "model": str(model.parent)})
    if "weights" not in said:
        assert caught.value.code is ExitCode.NOT_MEASURED
        assert "--dtype float32" in caught.value.hint
    assert not (tmp_path / "out" / "scores.parquet").exists()


def spoilt(direction: SetDirection, how: str) -> SetDirection:
    if how == "norms":
        return dataclasses.replace(direction, norms=np.array([*direction.norms[:-1], math.nan]))
    name, tensor = next(iter(direction.gradient.items()))
    gradient = {**direction.gradient, name: torch.full_like(tensor, math.inf)}
    if how == "zero":
        gradient = {name: torch.zeros_like(tensor) for name, tensor in direction.gradient.items()}
    return dataclasses.replace(direction, gradient=gradient)


@pytest.mark.parametrize(
    ("how", "what", "place"),
    [("zero", "zero", 0), ("zero", "zero", 2), ("infinite", "not finite", 0), ("norms", "not finite", 2)],
)
def test_a_direction_of_either_kind_is_refused(
    how, what, place, tmp_path, rows_file, exact,
    monkeypatch,
):  # fmt: skip
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    real = _prepared_anchors.anchor_directions

    def spoiling(*given: Any) -> Iterator[SetDirection]:
        return (spoilt(one, how) if number == place else one for number, one in enumerate(real(*given)))

    options = {**exact, "signals": "gradient", "limit": 2}
    name = ("harmful", "safe_1", "safe_2")[place]
    with monkeypatch.context() as patch:
        patch.setattr(_prepared_anchors, "anchor_directions", spoiling)
        with pytest.raises(RipcurrentError, match=rf"^The direction of {name} in anchors\.jsonl is {what} ") as caught:
            scan(rows_file, tmp_path / "out", **options)
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert not list((tmp_path / "cache").rglob("measured.json")), "the next scan would take it for whole"
    assert scan(rows_file, tmp_path / "out", **options).status_counts() == {"ok": 2}


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
