"""A direction or representation that is not finite or zero is an error, and no such direction stays in the cache."""

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.gradients import SetDirection
from ripcurrent.scan import _prepared_anchors as _anchors
from ripcurrent.scan import scan
from tests.tiny_scan import EXACT

FINAL_NORM, LAST_LAYER = "model.norm.weight", "model.layers.1.mlp.down_proj.weight"
TIED_HEAD = "model.embed_tokens.weight"


def filled(tiny_folder: Path, folder: Path, name: str, value: float) -> Path:
    """The tiny model with one value in all of one of its weights; in its tied head for one token alone."""
    shutil.copytree(tiny_folder, folder)
    tensors = load_file(folder / "model.safetensors")
    tensors[name][slice(-1, None) if name == TIED_HEAD else slice(None)] = value
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("signals", "weight", "value", "said"),
    [
        ("gradient", TIED_HEAD, math.nan, "direction of harmful in anchors.jsonl is not finite"),
        ("representation", LAST_LAYER, math.nan, "representations of anchors.jsonl are not finite or zero"),
        ("representation", FINAL_NORM, 0.0, "representations of anchors.jsonl are not finite or zero"),
    ],
    ids=["gradient-nan", "representation-nan", "representation-zero"],
)
def test_anchors_that_a_model_makes_nothing_of_are_an_error(
    signals: str, weight: str, value: float, said: str,
    tmp_path: Path, tiny_folder: Path, anchors_file: Path, rows_file: Path,
) -> None:  # fmt: skip
    model = filled(tiny_folder, tmp_path / "model", weight, value)
    options: dict[str, Any] = {**EXACT, "model": str(model), "anchors": str(anchors_file), "signals": signals}
    with pytest.raises(RipcurrentError) as caught:
        scan(rows_file, tmp_path / "out", **options)
    assert caught.value.message == f"The {said} on this model."
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert "--dtype float32" in caught.value.hint
    assert not (tmp_path / "out" / "scores.parquet").exists()


def zero(direction: SetDirection) -> SetDirection:
    gradient = {name: torch.zeros_like(tensor) for name, tensor in direction.gradient.items()}
    return dataclasses.replace(direction, gradient=gradient)


def infinite(direction: SetDirection) -> SetDirection:
    name, tensor = next(iter(direction.gradient.items()))
    return dataclasses.replace(direction, gradient={**direction.gradient, name: torch.full_like(tensor, math.inf)})


def one_anchor_not_finite(direction: SetDirection) -> SetDirection:
    return dataclasses.replace(direction, norms=np.array([*direction.norms[:-1], math.nan]))


@pytest.mark.parametrize(
    ("spoil", "what", "place"),
    [(zero, "zero", 0), (zero, "zero", 2), (infinite, "not finite", 0), (one_anchor_not_finite, "not finite", 2)],
)
def test_a_direction_of_either_kind_is_refused(
    spoil: Callable[[SetDirection], SetDirection], what: str, place: int, tmp_path: Path, tiny_folder: Path,
    anchors_file: Path, rows_file: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("RIPCURRENT_CACHE", str(tmp_path / "cache"))
    real = _anchors.anchor_directions

    def spoilt(*given: Any) -> Iterator[SetDirection]:
        return (spoil(one) if number == place else one for number, one in enumerate(real(*given)))

    options: dict[str, Any] = {
        **EXACT, "model": str(tiny_folder), "anchors": str(anchors_file), "signals": "gradient", "limit": 2,
    }  # fmt: skip
    monkeypatch.setattr(_anchors, "anchor_directions", spoilt)
    name = ("harmful", "safe_1", "safe_2")[place]
    with pytest.raises(RipcurrentError, match=rf"^The direction of {name} in anchors\.jsonl is {what} on") as caught:
        scan(rows_file, tmp_path / "out", **options)
    assert caught.value.code is ExitCode.NOT_MEASURED
    assert not list((tmp_path / "cache").rglob("measured.json")), "the next scan would take it for whole"
    monkeypatch.setattr(_anchors, "anchor_directions", real)
    assert scan(rows_file, tmp_path / "out", **options).status_counts() == {"ok": 2}


@pytest.mark.parametrize("weight", [FINAL_NORM, LAST_LAYER])
def test_weights_that_are_not_finite_are_named_and_not_taken_for_an_unknown_kind_of_layer(
    weight: str, tmp_path: Path, tiny_folder: Path, anchors_file: Path, rows_file: Path
) -> None:
    model = filled(tiny_folder, tmp_path / "model", weight, math.nan)
    options: dict[str, Any] = {**EXACT, "model": str(model), "anchors": str(anchors_file), "signals": "gradient"}
    with pytest.raises(RipcurrentError, match=f"The layer {weight.removesuffix('.weight')} has weights that are not"):
        scan(rows_file, tmp_path / "out", **options)
