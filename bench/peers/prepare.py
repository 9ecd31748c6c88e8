"""What every peer is given: the model as a folder, rows, anchors, directions, and the oracle's answers.

``python -m bench.peers.prepare FOLDER``. The model is the embedded one with its guard merged, in float32. The oracle is
plain autograd in float32, one row at a time, with sums in double precision; for each scope it gives the anchors' mean
normalised gradients (the directions) and every row's dots with them and norm.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from bench.loops import Oracle, norm
from bench.measure import sample
from bench.peers.exchange import DIRECTIONS, Row
from ripcurrent.anchors import load_anchors
from ripcurrent.data import EncodedRow, encode_anchor
from ripcurrent.gradients import GradientPass
from ripcurrent.models import ChatModel, load_model

FILES = {"short": "rows/instruction-data.json", "long": "rows/alpaca_en_demo.json"}


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
    sets = {name: shortest_first(sample(chat_model, file, getattr(given, name))) for name, file in FILES.items()}
    anchors = _anchors(chat_model, given.anchors)
    oracle, answers, norms = Oracle(chat_model.model), {name: {} for name in sets}, {}
    # what scope "linear" is is asked of the package, so that it means the same here and there
    linear = GradientPass(replace(chat_model, scope="linear")).layers.parameter_shapes()
    for scope, names in {"linear": list(linear), "all": list(oracle.named)}.items():
        directions = [oracle.direction(rows, names) for rows in anchors.values()]
        tensors = {f"{n}/{key}": t for n, one in zip(DIRECTIONS, directions, strict=True) for key, t in one.items()}
        save_file(tensors, given.folder / f"directions-{scope}.safetensors")
        norms[scope] = [norm(one) for one in directions]
        for name, rows in sets.items():
            dots, of_rows = oracle.products(rows, directions)
            answers[name][scope] = {"dots": dots.tolist(), "norms": of_rows.tolist()}
    content = {
        "sets": {name: [as_labels(row) for row in rows] for name, rows in sets.items()},
        "anchors": {name: [as_labels(row) for row in rows] for name, rows in anchors.items()},
        "oracle": answers,
        "direction_norms": norms,
        "files": FILES,
        "mean_tokens": {name: sum(len(row.tokens) for row in rows) / len(rows) for name, rows in sets.items()},
    }
    (given.folder / "prepared.json").write_text(json.dumps(content), encoding="utf-8")


def shortest_first(rows: Iterable[EncodedRow]) -> list[EncodedRow]:
    """The order in which peers are given rows: a kindness to those that batch in the order given."""
    return sorted(rows, key=lambda row: len(row.tokens))


def as_labels(row: EncodedRow) -> Row:
    """A row as token ids and labels."""
    pairs = zip(row.tokens.tolist(), row.loss_mask.tolist(), strict=True)
    return {"ids": row.tokens.tolist(), "labels": [token if bears else -100 for token, bears in pairs]}


def _anchors(chat_model: ChatModel, count: int) -> dict[str, list[EncodedRow]]:
    anchors, found = load_anchors(), {}
    for name, wanted in zip(DIRECTIONS, ("harmful", anchors.safe_sets[0]), strict=True):
        chosen = [anchors.anchors[place].messages for place in anchors.places(wanted)[:count]]
        found[name] = shortest_first(encode_anchor(messages, chat_model.tokenizer) for messages in chosen)
    return found


if __name__ == "__main__":
    main()
