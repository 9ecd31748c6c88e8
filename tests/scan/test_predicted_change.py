"""The forecast column against what a step of plain gradient descent on one row does to the harmful openings."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from ripcurrent.anchors import load_anchors
from ripcurrent.data import encode, encode_anchor, read_rows
from ripcurrent.models import load_model
from ripcurrent.scan import scan
from tests.gradients.oracle import inner, row_gradient
from tests.models.tiny import save_tiny

STEP = 1e-4
"""Learning rate of the step."""


def stepped(model: Any, gradient: dict[str, torch.Tensor], rate: float) -> Any:
    """A copy after one step of plain gradient descent."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter -= rate * gradient[name].to(parameter.dtype)
    return moved


@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "gpt2"])
def test_a_small_step_on_a_row_changes_the_openings_loss_as_forecast(
    kind: str, rows_file: Path, tmp_path: Path, exact: dict[str, Any]
) -> None:
    folder = save_tiny(tmp_path / "model", kind)
    if kind == "llama_tied":
        # PyTorch gives looked-up entries of the padding's row no gradient (docs/methods.md), though a step moves it
        # through a tied head: where it is not zero, that is less than 1 % of the change
        tensors = load_file(folder / "model.safetensors")
        tensors["model.embed_tokens.weight"][2] = tensors["model.embed_tokens.weight"][1].flip(0)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    options = {**exact, "model": str(folder), "signals": "gradient", "max_tokens": 256, "limit": 6}
    forecast = scan(rows_file, tmp_path / "out", **options).floats("predicted_harmful_loss_change")
    chat: Any = load_model(folder, device="cpu", dtype="float32")
    # the float32 model's weights; losses in float64, since their change is small
    model = chat.model.double()
    harmful = [one for one in load_anchors(exact["anchors"]).anchors if one.set == "harmful"]
    openings = [encode_anchor(one.messages, chat.tokenizer, first_tokens=10) for one in harmful]
    gradients = [row_gradient(model, opening) for opening in openings]
    norms = np.array([inner(gradient, gradient) ** 0.5 for gradient in gradients])

    def losses(of: Any) -> np.ndarray:
        with torch.no_grad():
            return np.array([float(row_loss_double(of, opening)) for opening in openings])

    rows = [encode(row, chat.tokenizer) for row in read_rows(rows_file, limit=6)]
    changes = []
    for place in np.argsort(forecast)[[0, 1, -2, -1]]:
        moved = losses(stepped(model, row_gradient(model, rows[place]), STEP)) - losses(model)
        # each opening's loss weighted by mean norm / own norm: docs/methods.md, 2
        changes.append((norms.mean() / norms * moved).mean())
        assert changes[-1] / STEP == pytest.approx(forecast[place], rel=0.05)
        # and the unweighted mean moves the same way
        assert moved.mean() * forecast[place] > 0
    assert min(changes) < 0


def row_loss_double(model: Any, row: Any) -> torch.Tensor:
    """As the oracle's, whose logits become float32."""
    ids = torch.tensor([row.tokens.tolist()])
    logs = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    places = [place for place in range(1, len(row.tokens)) if row.loss_mask[place]]
    assert 0 < len(places) <= 10
    return -torch.stack([logs[place - 1, ids[0, place]] for place in places]).mean()
