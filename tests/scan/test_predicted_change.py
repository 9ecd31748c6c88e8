"""The forecast column against what a step of plain gradient descent on one row does to the harmful openings."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ripcurrent.anchors import load_anchors
from ripcurrent.data import encode, encode_anchor, read_rows
from ripcurrent.models import load_model
from ripcurrent.scan import scan
from tests.gradients.oracle import inner, row_gradient
from tests.models.tiny import save_tiny
from tests.scan_fixtures import table_of
from tests.tiny_scan import EXACT

STEP = 1e-4
"""Learning rate of the step."""


def saved(folder: Path, kind: str) -> Path:
    """A tiny model whose row of padding is not zero, where the norm after it bends most.

    PyTorch gives looked-up entries of that row no gradient (docs/methods.md), though a step moves it through a tied
    head: of a row like the others that is less than 1 % of the change.
    """
    save_tiny(folder, kind)
    if kind == "llama_tied":
        tensors = load_file(folder / "model.safetensors")
        tensors["model.embed_tokens.weight"][2] = tensors["model.embed_tokens.weight"][1].flip(0)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def stepped(model: Any, gradient: dict[str, torch.Tensor], rate: float) -> Any:
    """A copy after one step of plain gradient descent."""
    moved = copy.deepcopy(model)
    with torch.no_grad():
        for name, parameter in moved.named_parameters():
            parameter -= rate * gradient[name].to(parameter.dtype)
    return moved


@pytest.mark.usefixtures("shared_cache")
@pytest.mark.parametrize("kind", ["llama_tied", "llama_untied", "gpt2"])
def test_a_small_step_on_a_row_changes_the_openings_loss_as_forecast(
    kind: str, rows_file: Path, tmp_path: Path, anchors_file: Path
) -> None:
    folder = saved(tmp_path / "model", kind)
    options = {
        "model": str(folder),
        "anchors": str(anchors_file),
        "signals": "gradient",
        "max_tokens": 256,
        "limit": 6,
        **EXACT,
    }
    table = table_of(scan(rows_file, tmp_path / "out", **options))
    forecast = table["predicted_harmful_loss_change"].to_pylist()
    chat: Any = load_model(folder, device="cpu", dtype="float32")
    # the float32 model's weights; losses in float64, since their change is small
    model = chat.model.double()
    openings = [
        encode_anchor(one.messages, chat.tokenizer, first_tokens=10)
        for one in load_anchors(anchors_file).anchors
        if one.set == "harmful"
    ]
    gradients = [row_gradient(model, opening) for opening in openings]
    norms = [inner(gradient, gradient) ** 0.5 for gradient in gradients]
    mean_norm = sum(norms) / len(norms)

    def losses(of: Any) -> list[float]:
        with torch.no_grad():
            return [float(row_loss_double(of, opening)) for opening in openings]

    before = losses(model)
    rows = [encode(row, chat.tokenizer) for row in read_rows(rows_file, limit=6)]
    both_ends = sorted(range(len(rows)), key=lambda place: forecast[place])
    changes = []
    for place in (*both_ends[:2], *both_ends[-2:]):
        after = losses(stepped(model, row_gradient(model, rows[place]), STEP))
        # each opening's loss weighted by mean norm / own norm: docs/methods.md, 2
        changes.append(
            sum(mean_norm / norm * (b - a) for norm, a, b in zip(norms, before, after, strict=True)) / len(norms)
        )
        assert changes[-1] / STEP == pytest.approx(forecast[place], rel=0.05)
        # and the unweighted mean moves the same way
        assert (sum(after) - sum(before)) * forecast[place] > 0
    assert min(changes) < 0


def row_loss_double(model: Any, row: Any) -> torch.Tensor:
    """As the oracle's, whose logits become float32."""
    ids = torch.tensor([row.tokens.tolist()])
    logs = torch.log_softmax(model(input_ids=ids).logits[0], dim=-1)
    places = [place for place in range(1, len(row.tokens)) if row.loss_mask[place]]
    assert 0 < len(places) <= 10
    return -torch.stack([logs[place - 1, ids[0, place]] for place in places]).mean()
