"""A direction or representation that is not finite or zero is an error, and no such direction stays in the cache."""

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
from ripcurrent.scan import _prepared_anchors, scan

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
