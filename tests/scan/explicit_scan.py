"""The oracle of a whole scan: load, encode, and then one autograd pass per anchor and row, every gradient held."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ripcurrent.anchors import load_anchors
from ripcurrent.data import Row, encode, encode_anchor, read_rows
from ripcurrent.models import load_model
from tests.gradients.oracle import inner, row_gradient, row_loss

Gradient = dict[str, torch.Tensor]


@dataclass
class Explicit:
    """Every gradient and feature, formed, and each anchor's set."""

    sets: list[str]
    anchor_gradients: list[Gradient]
    anchor_features: list[np.ndarray]
    row_gradients: list[Gradient]
    row_features: list[np.ndarray]
    losses: list[float]
    first_losses: list[float]

    def mean_unit_gradient(self, name: str) -> Gradient:
        """(1/n) Σ g/‖g‖ over one set."""
        own = [g for g, of in zip(self.anchor_gradients, self.sets, strict=True) if of == name]
        lengths = [inner(gradient, gradient) ** 0.5 for gradient in own]
        return {key: sum(g[key] / length for g, length in zip(own, lengths, strict=True)) / len(own) for key in own[0]}


def cosine_to_unit(gradient: Gradient, direction: Gradient) -> float:
    """``<ĝ, direction>``: the direction is not normalised again."""
    return inner(gradient, direction) / inner(gradient, gradient) ** 0.5


def explicit(
    dataset: Path, model: str | Path, anchors: str | Path, scope: str = "all", adapter: Path | None = None
) -> Explicit:
    chat: Any = load_model(model, adapter=adapter, device="cpu", dtype="float32", scope=scope)  # type: ignore[arg-type]
    causal = chat.model.get_base_model() if hasattr(chat.model, "peft_config") else chat.model
    names = None
    if scope == "linear":
        names = {
            f"{name}.{key}"
            for name, module in causal.base_model.named_modules(prefix=causal.base_model_prefix)
            if isinstance(module, torch.nn.Linear)
            for key, _ in module.named_parameters(recurse=False)
        }
    if scope == "lora":
        names = {name for name, _ in causal.named_parameters() if "lora_" in name}

    def feature(row: Any) -> np.ndarray:
        with torch.no_grad():
            ids = torch.tensor(row.tokens.astype(np.int64)).unsqueeze(0)
            state = causal(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        return (state / state.norm()).numpy()

    held = load_anchors(anchors).anchors
    short = [encode_anchor(anchor.messages, chat.tokenizer) for anchor in held]
    whole = [encode(Row(0, "", anchor.messages, None, {}), chat.tokenizer) for anchor in held]
    rows = [encode(row, chat.tokenizer) for row in read_rows(dataset)]
    return Explicit(
        sets=[anchor.set for anchor in held],
        anchor_gradients=[row_gradient(causal, row, names) for row in short],
        anchor_features=[feature(row) for row in whole],
        row_gradients=[row_gradient(causal, row, names) for row in rows],
        row_features=[feature(row) for row in rows],
        losses=[float(row_loss(causal, row)) for row in rows],
        first_losses=[float(row_loss(causal, row, 10)) for row in rows],
    )
