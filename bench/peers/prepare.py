"""What every peer is given: the model as a folder, rows, anchors, directions, and the oracle's answers.

``python -m bench.peers.prepare FOLDER``. The model is the embedded one with its guard merged, in float32. The oracle is
plain autograd in float32, one row at a time, with sums in double precision; for each scope it gives the anchors' mean
normalised gradients (the directions) and every row's dots with them and norm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from bench.measure import sample
from bench.peers.exchange import DIRECTIONS, Row
from ripcurrent.anchors import load_anchors
from ripcurrent.data import EncodedRow, encode_anchor
from ripcurrent.gradients import GradientPass
from ripcurrent.models import ChatModel, load_model

FILES = {"short": "rows/instruction-data.json", "long": "rows/alpaca_en_demo.json"}
CHUNK = 1 << 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("short", "long", "anchors", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    chat_model = load_model("embedded", dtype="float32")
    given.folder.mkdir(parents=True, exist_ok=True)
    chat_model.model.save_pretrained(given.folder / "model")
    chat_model.tokenizer.save_pretrained(given.folder / "model")
    sets = {name: in_order(sample(chat_model, file, getattr(given, name))) for name, file in FILES.items()}
    anchors = _anchors(chat_model, given.anchors)
    oracle = Oracle(chat_model)
    directions = {
        scope: {name: oracle.direction(rows, scope) for name, rows in anchors.items()} for scope in oracle.scopes
    }
    for scope, both in directions.items():
        tensors = {f"{name}/{key}": tensor for name, direction in both.items() for key, tensor in direction.items()}
        save_file(tensors, given.folder / f"directions-{scope}.safetensors")
    norms = {scope: [_norm(both[name], both[name]) for name in DIRECTIONS] for scope, both in directions.items()}
    content = {
        "sets": sets,
        "anchors": anchors,
        "oracle": {name: oracle.answers(rows, directions) for name, rows in sets.items()},
        "direction_norms": norms,
        "files": FILES,
        "mean_tokens": {name: sum(len(row["ids"]) for row in rows) / len(rows) for name, rows in sets.items()},
    }
    (given.folder / "prepared.json").write_text(json.dumps(content), encoding="utf-8")


def in_order(rows: Iterable[EncodedRow]) -> list[Row]:
    """Rows as peers take them, shortest first: a kindness to those that batch in the order given."""
    found = []
    for row in sorted(rows, key=lambda row: len(row.tokens)):
        pairs = zip(row.tokens.tolist(), row.loss_mask.tolist(), strict=True)
        found.append({"ids": row.tokens.tolist(), "labels": [token if bears else -100 for token, bears in pairs]})
    return found


def _anchors(chat_model: ChatModel, count: int) -> dict[str, list[Row]]:
    anchors = load_anchors()
    chosen = {
        name: [anchors.anchors[place] for place in anchors.places(wanted)[:count]]
        for name, wanted in zip(DIRECTIONS, ("harmful", anchors.safe_sets[0]), strict=True)
    }
    return {
        name: in_order(encode_anchor(one.messages, chat_model.tokenizer) for one in own) for name, own in chosen.items()
    }


class Oracle:
    """One row, one backward pass of every parameter, no shortcut."""

    def __init__(self, chat_model: ChatModel) -> None:
        self.model: Any = chat_model.model
        self.named: dict[str, Tensor] = dict(self.model.requires_grad_(True).named_parameters())
        # what scope "linear" is is asked of the package, so that it means the same here and there
        linear = GradientPass(replace(chat_model, scope="linear")).layers.parameter_shapes()
        self.scopes = {"linear": list(linear), "all": list(self.named)}

    def gradient(self, row: Row) -> dict[str, Tensor]:
        """Every parameter's gradient."""
        logits = self.model(input_ids=torch.tensor([row["ids"]]), use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, torch.tensor(row["labels"])[1:], ignore_index=-100)
        return dict(zip(self.named, torch.autograd.grad(loss, list(self.named.values())), strict=True))

    def direction(self, rows: Sequence[Row], scope: str) -> dict[str, Tensor]:
        """The mean of the rows' normalised gradients."""
        total = {name: torch.zeros_like(self.named[name], requires_grad=False) for name in self.scopes[scope]}
        for row in rows:
            gradient = self.gradient(row)
            norm = _norm(gradient, total)
            for name, tensor in total.items():
                tensor.add_(gradient[name], alpha=1.0 / (norm * len(rows)))
        return total

    def answers(
        self, rows: Sequence[Row], directions: dict[str, dict[str, dict[str, Tensor]]]
    ) -> dict[str, dict[str, list[Any]]]:
        """Scope to every row's ``dots`` with both directions and ``norms``."""
        found: dict[str, dict[str, list[Any]]] = {scope: {"dots": [], "norms": []} for scope in directions}
        for row in rows:
            gradient = self.gradient(row)
            for scope, both in directions.items():
                found[scope]["norms"].append(_norm(gradient, self.scopes[scope]))
                dots = [sum(dot(gradient[key], own) for key, own in both[name].items()) for name in DIRECTIONS]
                found[scope]["dots"].append(dots)
        return found


def _norm(gradient: dict[str, Tensor], names: Iterable[str]) -> float:
    return sum(dot(gradient[name], gradient[name]) for name in names) ** 0.5


def dot(one: Tensor, other: Tensor) -> float:
    """Inner product: products in float32, their sum in double precision, a chunk at a time."""
    pairs = zip(one.flatten().split(CHUNK), other.flatten().split(CHUNK), strict=True)
    return float(sum((first * second).sum(dtype=torch.float64) for first, second in pairs))


if __name__ == "__main__":
    main()
