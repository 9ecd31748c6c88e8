"""Exactness against one-row autograd on the embedded model: ``python -m bench.exactness [--rows N]``."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from torch import Tensor

from bench.rows import sample
from ripcurrent.data import EncodedRow
from ripcurrent.engine import plan_batches
from ripcurrent.models import load_model
from ripcurrent.scoring import spearman
from ripcurrent.signals import GradientPass, make_batch, norm_of, set_direction, stack_directions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=48)
    parser.add_argument("--file", default="rows/alpaca_en_demo.json")
    arguments = parser.parse_args()
    exact = load_model("embedded", dtype="float32")
    gradient_pass = GradientPass(exact)
    rows = sample(exact, arguments.file, arguments.rows + 16)
    directions = [set_direction(gradient_pass, rows[start : start + 8]).gradient for start in (0, 8)]
    rows = rows[16:]
    oracle, norms = _oracle(exact.model, rows, directions)
    lengths = np.array([norm_of(direction) for direction in directions])
    print(
        f"{len(rows)} rows of {arguments.file}, directions of 8 rows each, cosines against one-row autograd in float32"
    )
    for dtype, budgets in (("float32", (512, 1024, 4096)), ("bfloat16", (512, 1024))):
        chat_model = exact if dtype == "float32" else load_model("embedded", dtype=dtype)
        measured = gradient_pass if dtype == "float32" else GradientPass(chat_model)
        stacked = stack_directions(measured.catalogue, list(directions), chat_model.dtype)
        for budget in budgets:
            dots, squared = np.zeros((len(rows), 2)), np.zeros(len(rows))
            for places in plan_batches([len(row.tokens) for row in rows], budget):
                signals = measured.measure(make_batch([rows[p] for p in places], chat_model.device), stacked)
                dots[places], squared[places] = signals.dots, signals.squared_norm
            found = dots / np.sqrt(squared)[:, None] / lengths
            expected = oracle / norms[:, None] / lengths
            print(
                f"  {dtype:<9} budget {budget:>5}: largest cosine difference {np.abs(found - expected).max():.1e}, "
                f"largest relative norm difference {np.abs(np.sqrt(squared) / norms - 1).max():.1e}, "
                f"Spearman {min(spearman(found[:, n], expected[:, n]) for n in (0, 1)):.6f}"
            )


def _oracle(model: torch.nn.Module, rows: list[EncodedRow], directions: list[dict[str, Tensor]]):  # type: ignore[no-untyped-def]
    named = dict(model.named_parameters())
    for parameter in named.values():
        parameter.requires_grad_(True)
    dots, norms = np.zeros((len(rows), len(directions))), np.zeros(len(rows))
    for place, row in enumerate(rows):
        ids = torch.from_numpy(row.tokens.astype("int64")).unsqueeze(0)
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none")
        gradients = torch.autograd.grad(losses[torch.from_numpy(row.loss_mask[1:])].mean(), list(named.values()))
        norms[place] = sum(float(gradient.double().square().sum()) for gradient in gradients) ** 0.5
        for number, direction in enumerate(directions):
            dots[place, number] = sum(
                float((gradient.double() * direction[name].double()).sum())
                for name, gradient in zip(named, gradients, strict=True)
            )
    for parameter in named.values():
        parameter.requires_grad_(False)
    return dots, norms


if __name__ == "__main__":
    main()
