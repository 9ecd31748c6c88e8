"""ripcurrent, the batch-1 loop and the reference's way: ``python -m bench.peers.run_own NAME TASK``."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from torch import Tensor

from bench.loops import BatchOneLoop, ReferenceWay
from bench.peers.exchange import Row, Task
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import GradientPass, make_batch, plan_batches, stack_directions
from ripcurrent.models import ChatModel, load_model

TOKENS = 512
"""Padded tokens per batch, the default of ``ripcurrent scan``."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=RUNNERS)
    parser.add_argument("task", type=Path)
    given = parser.parse_args()
    task = Task(given.task)
    chat_model = load_model(task.model, dtype=task.dtype, scope=task.scope)  # type: ignore[arg-type]
    stacked = task.read_directions()
    directions = [{name: both[number] for name, both in stacked.items()} for number in range(2)]
    del stacked
    runner, settings = RUNNERS[given.name]
    run = runner(chat_model, directions)
    del directions
    for name in task.sets:
        task.keep(name, task.time(name, lambda rows: run([encoded(row) for row in rows])))
    task.write(settings, left_out="embeddings, head, norms" if task.scope == "linear" else "")


def _ripcurrent(chat_model: ChatModel, directions):  # type: ignore[no-untyped-def]
    gradient_pass = GradientPass(chat_model)
    stacked = stack_directions(gradient_pass.layers, directions, chat_model.dtype)

    def run(rows: list[EncodedRow]) -> np.ndarray:  # type: ignore[type-arg]
        found = np.zeros((len(rows), 2))
        for places in plan_batches([len(row.tokens) for row in rows], TOKENS):
            signals = gradient_pass.measure(make_batch([rows[p] for p in places], chat_model.device), stacked)
            found[places] = signals.dots / np.sqrt(signals.squared_norm)[:, None]
        return found

    return run


def _loop(chat_model: ChatModel, directions):  # type: ignore[no-untyped-def]
    loop = BatchOneLoop(chat_model, directions)

    def run(rows: list[EncodedRow]) -> Tensor:
        dots, squared = loop.run(rows)
        return dots / squared.sqrt().unsqueeze(1)

    return run


RUNNERS = {
    "ripcurrent": (_ripcurrent, f"batches of {TOKENS} tokens"),
    "batch-1 loop": (_loop, "one row at a time, unpadded"),
    "the reference's way": (
        lambda *given: ReferenceWay(*given).run,
        "one row at a time, padded to 512 tokens, a whole pass per direction",
    ),
}


def encoded(row: Row) -> EncodedRow:
    """A row of the task as a scan has it."""
    mask = np.array(row["labels"]) != -100
    return EncodedRow(
        index=0, status="ok", tokens=np.array(row["ids"], dtype=np.int32), loss_mask=mask,
        prompt_tokens=int((~mask).sum()), response_tokens=int(mask.sum()), truncated=False,
    )  # fmt: skip


if __name__ == "__main__":
    main()
