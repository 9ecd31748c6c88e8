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

from bench.peers.exchange import DIRECTIONS, Row
from bench.rows import sample
from ripcurrent.anchors import load_anchors
from ripcurrent.data import EncodedRow, encode_anchor
from ripcurrent.gradients import GradientPass
from ripcurrent.models import ChatModel, load_model

FILES = {"short": "rows/instruction-data.json", "long": "rows/alpaca_en_demo.json"}
SCOPES = ("linear", "all")
CHUNK = 1 << 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--short", type=int, required=True, help="rows of the file of short ones")
    parser.add_argument("--long", type=int, required=True, help="rows of the file of long ones")
    parser.add_argument("--anchors", type=int, required=True, help="anchors per direction")
    parser.add_argument("--threads", type=int, required=True)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    chat_model = load_model("embedded", dtype="float32")
    given.folder.mkdir(parents=True, exist_ok=True)
    chat_model.model.save_pretrained(given.folder / "model")
    chat_model.tokenizer.save_pretrained(given.folder / "model")
    counts = {"short": given.short, "long": given.long}
    sets = {name: in_order(sample(chat_model, file, counts[name])) for name, file in FILES.items()}
    anchors = _anchors(chat_model, given.anchors)
    oracle = _Oracle(chat_model)
    directions = {scope: {name: oracle.direction(rows, scope) for name, rows in anchors.items()} for scope in SCOPES}
    for scope, found in directions.items():
        save_file(
            {f"{name}/{key}": tensor for name, direction in found.items() for key, tensor in direction.items()},
            given.folder / f"directions-{scope}.safetensors",
        )
    answers = {name: oracle.answers(rows, directions) for name, rows in sets.items()}
    content = {
        "sets": sets,
        "anchors": anchors,
        "oracle": answers,
        "direction_norms": {
            scope: [sum(_dot(each, each) for each in found[name].values()) ** 0.5 for name in DIRECTIONS]
            for scope, found in directions.items()
        },
        "files": FILES,
        "mean_tokens": {name: sum(len(row["ids"]) for row in rows) / len(rows) for name, rows in sets.items()},
    }
    (given.folder / "prepared.json").write_text(json.dumps(content), encoding="utf-8")


def in_order(rows: Iterable[EncodedRow]) -> list[Row]:
    """Rows as peers take them, shortest first: a kindness to those that batch in the order given."""
    return [as_labels(row) for row in sorted(rows, key=lambda row: len(row.tokens))]


def as_labels(row: EncodedRow) -> Row:
    """A row as token ids and labels."""
    pairs = zip(row.tokens.tolist(), row.loss_mask.tolist(), strict=True)
    return {"ids": row.tokens.tolist(), "labels": [token if bears else -100 for token, bears in pairs]}


def _anchors(chat_model: ChatModel, count: int) -> dict[str, list[Row]]:
    anchors = load_anchors()
    chosen = zip(DIRECTIONS, ("harmful", anchors.safe_sets[0]), strict=True)
    return {
        name: in_order(
            encode_anchor(anchors.anchors[place].messages, chat_model.tokenizer)
            for place in anchors.places(wanted)[:count]
        )
        for name, wanted in chosen
    }


class _Oracle:
    """One row, one backward pass of every parameter, no shortcut."""

    def __init__(self, chat_model: ChatModel) -> None:
        self.model: Any = chat_model.model
        self.named = dict(self.model.named_parameters())
        self.model.requires_grad_(True)
        # The layers of scope "linear" are asked for, so that it means the same here and there.
        linear = linear_names(chat_model)
        self.scopes = {"all": list(self.named), "linear": linear}

    def gradient(self, row: Row) -> dict[str, Tensor]:
        ids, labels = torch.tensor([row["ids"]]), torch.tensor(row["labels"])
        logits = self.model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        loss = torch.nn.functional.cross_entropy(logits, labels[1:], ignore_index=-100)
        gradients = torch.autograd.grad(loss, list(self.named.values()))
        return dict(zip(self.named, gradients, strict=True))

    def direction(self, rows: Sequence[Row], scope: str) -> dict[str, Tensor]:
        total = {name: torch.zeros_like(self.named[name], requires_grad=False) for name in self.scopes[scope]}
        for row in rows:
            gradient = self.gradient(row)
            norm = sum(_dot(gradient[name], gradient[name]) for name in total) ** 0.5
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
            own = {name: _dot(tensor, tensor) for name, tensor in gradient.items()}
            for scope, by_set in directions.items():
                found[scope]["norms"].append(sum(own[name] for name in self.scopes[scope]) ** 0.5)
                found[scope]["dots"].append(
                    [sum(_dot(gradient[key], by_set[name][key]) for key in by_set[name]) for name in DIRECTIONS]
                )
        return found


def linear_names(chat_model: ChatModel) -> list[str]:
    """Names of the parameters in the scope "linear": weights of the linear layers of the base model."""
    return list(GradientPass(replace(chat_model, scope="linear")).layers.parameter_shapes())


def _dot(one: Tensor, other: Tensor) -> float:
    """Inner product: products in float32, their sum in double precision, a chunk at a time."""
    pairs = zip(one.flatten().split(CHUNK), other.flatten().split(CHUNK), strict=True)
    return float(sum((first * second).sum(dtype=torch.float64) for first, second in pairs))


if __name__ == "__main__":
    main()
