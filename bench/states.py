"""Does any state of the forward pass order rows as their gradients do? ``python -m bench.states RUN``.

Every block's output and the last hidden state, at three positions, from one forward pass over the rows of a finished
scan with gradients: the representation scores from it against the scan's own gradient column.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.scanned import open_run
from ripcurrent.anchors import load_anchors
from ripcurrent.data import EncodedRow, Row, encode, encode_rows
from ripcurrent.gradients import FeatureReader, make_batch
from ripcurrent.gradients._plan_batches import plan_batches
from ripcurrent.gradients._types import Position
from ripcurrent.models import ChatModel
from ripcurrent.scan._score import representation_scores
from ripcurrent.scan._separation import AnchorMeasurements, separation
from ripcurrent.scan._signal_stage import unit
from ripcurrent.statistics import spearman

POSITIONS: tuple[Position, ...] = ("last", "last_content", "mean_response")
SCORES = ("representation_bidirectional", "representation_harmful")
TOP = 100

State = tuple[int | None, Position]


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="a finished scan with gradients")
    parser.add_argument("--by", default="gradient_bidirectional")
    arguments = parser.parse_args(argv)
    scanned, chat_model = open_run(arguments.run)
    options = scanned.options
    scores = scanned.scored.scores(arguments.by).tolist()
    true = {row: score for row, score in zip(scanned.scored.rows.tolist(), scores, strict=True) if isfinite(score)}
    anchor_set = load_anchors(options.anchors)
    states = _states(chat_model)
    tokenised = encode_rows(
        scanned.dataset.iter_from(0), chat_model.tokenizer, max_tokens=options.max_tokens, loss_on=options.loss_on
    )
    encoded = [row for row in tokenised if row.index in true]
    told = [
        encode(Row(number, str(number), anchor.messages, None, {}), chat_model.tokenizer, loss_on="last")
        for number, anchor in enumerate(anchor_set.anchors)
    ]
    anchors, features = _features(chat_model, states, told), _features(chat_model, states, encoded)
    values = np.array([true[row.index] for row in encoded])
    riskiest = set(np.argsort(-values, kind="stable")[:TOP].tolist())
    print(
        f"{len(encoded)} rows of {scanned.dataset.name}. Spearman with {arguments.by}; how many of the {TOP} "
        f"riskiest by it are\namong the {TOP} riskiest by the score ({TOP * TOP / len(encoded):.0f} by chance), and "
        f"what these have of it on average (its own {TOP}: {np.sort(values)[-TOP:].mean():+.4f}, all rows: "
        f"{values.mean():+.4f}).\n"
    )
    places = AnchorMeasurements(anchor_set.order).by_set()
    print("position       layer  anchors  cosines  " + "".join(f"{name:<30}" for name in SCORES))
    for layer, position in states:
        known = anchors[layer, position]
        cosines = (features[layer, position] @ known.T).astype(float)
        apart = separation(AnchorMeasurements(anchor_set.order, cosines=(known @ known.T).tolist()))
        for name, count in (("largest", 1), ("mean", len(places["harmful"]))):
            scores = representation_scores(cosines, places, count)
            cells = (_compared(values, scores[column], riskiest) for column in SCORES)
            layer_name = "end" if layer is None else str(layer)
            print(f"{position:<14} {layer_name:<6} {min(apart.values()):.2f}     {name:<8} {''.join(cells)}")


def _compared(values: npt.NDArray[Any], scores: npt.NDArray[Any], riskiest: set[int]) -> str:
    top = np.argsort(-scores, kind="stable")[:TOP]
    both = len(riskiest & set(top.tolist()))
    return f"{spearman(values.tolist(), scores.tolist()):+.2f}  {both:>3}  {values[top].mean():+.4f}".ljust(30)


def _states(chat_model: ChatModel) -> list[State]:
    blocks = chat_model.model.config.get_text_config().num_hidden_layers
    return [(layer, position) for position in POSITIONS for layer in (*range(blocks), None)]


def _features(
    chat_model: ChatModel, states: Sequence[State], rows: Sequence[EncodedRow]
) -> dict[State, npt.NDArray[np.float32]]:
    """Unit features of each state, shape ``(rows, width)``."""
    readers = {state: FeatureReader(chat_model, layer=state[0], position=state[1]) for state in states}
    model: Any = chat_model.model
    base = getattr(model, model.base_model_prefix)
    found: dict[State, list[npt.NDArray[np.float32]]] = {state: [np.empty(0)] * len(rows) for state in states}
    for places in plan_batches([len(row.tokens) for row in rows], 2048):
        batch = make_batch([rows[place] for place in places], chat_model.device)
        with torch.inference_mode(), ExitStack() as stack:
            readings = {state: stack.enter_context(reader.reading(batch)) for state, reader in readers.items()}
            hidden = base(input_ids=batch.ids, use_cache=False).last_hidden_state
            for state, reading in readings.items():
                for place, feature in zip(places, reading.features(hidden), strict=True):
                    found[state][place] = feature
    return {state: unit(np.stack(features)) for state, features in found.items()}


if __name__ == "__main__":
    main()
