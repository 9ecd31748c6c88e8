"""ripcurrent, the batch-1 loop and the reference's way on a peer's task.

``python -m bench.peers.run_own TASK --as NAME``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.peers.exchange import Row, Task
from bench.rivals import BatchOneLoop, ReferenceWay
from ripcurrent.data import EncodedRow
from ripcurrent.gradients import GradientPass, make_batch, plan_batches, stack_directions
from ripcurrent.models import ChatModel, load_model

NAMES = ("ripcurrent", "batch-1 loop", "the reference's way")
TOKENS = 512
"""Padded tokens per batch, the default of ``ripcurrent scan``."""

LINEAR_LEAVES_OUT = "embeddings, head, norms"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path)
    parser.add_argument("--as", dest="name", choices=NAMES, required=True)
    given = parser.parse_args()
    name, task = given.name, Task(given.task)
    chat_model = load_model(task.model, dtype=task.dtype, scope=task.scope)  # type: ignore[arg-type]
    task.result["measure"] = "cosine"
    task.result["left_out"] = LINEAR_LEAVES_OUT if task.scope == "linear" else ""
    if name == NAMES[0]:
        _ripcurrent(task, chat_model)
    elif name == NAMES[1]:
        _loop(task, chat_model)
    else:
        _reference(task, chat_model)
    task.write()


def _ripcurrent(task: Task, chat_model: ChatModel) -> None:
    gradient_pass = GradientPass(chat_model)
    stacked = task.read_directions()
    directions = stack_directions(
        gradient_pass.layers,
        [{name: both[number] for name, both in stacked.items()} for number in range(2)],
        chat_model.dtype,
    )
    del stacked

    def measure(given: list[Row]) -> npt.NDArray[np.float64]:
        rows = [encoded(row) for row in given]
        found = np.zeros((len(rows), 2))
        for places in plan_batches([len(row.tokens) for row in rows], TOKENS):
            signals = gradient_pass.measure(make_batch([rows[p] for p in places], chat_model.device), directions)
            assert signals.dots is not None
            assert signals.squared_norm is not None
            found[places] = signals.dots / np.sqrt(signals.squared_norm)[:, None]
        return found

    for name in task.sets:
        task.keep(name, task.time(name, measure))
    task.result["settings"] = f"batches of {TOKENS} tokens"


def _loop(task: Task, chat_model: ChatModel) -> None:
    stacked = task.read_directions()
    loop = BatchOneLoop(chat_model, [{name: both[number] for name, both in stacked.items()} for number in range(2)])
    del stacked
    for name in task.sets:
        dots, squared = task.time(name, lambda given: loop.run([encoded(row) for row in given], "sdpa"))
        task.keep(name, dots / squared.sqrt().unsqueeze(1))
    task.result["settings"] = "one row at a time, unpadded"


def _reference(task: Task, chat_model: ChatModel) -> None:
    stacked = task.read_directions()
    way = ReferenceWay(chat_model, [{name: both[number] for name, both in stacked.items()} for number in range(2)])
    del stacked
    for name in task.sets:
        task.keep(name, task.time(name, partial(_run_reference, way)))
    task.result["settings"] = "one row at a time, padded to 512 tokens, a whole pass per direction"


def _run_reference(way: ReferenceWay, given: list[Row]) -> object:
    return way.run([encoded(row) for row in given])


def encoded(row: Row) -> EncodedRow:
    """A row of the task as a scan has it."""
    mask = np.array(row["labels"]) != -100
    return EncodedRow(
        index=0,
        status="ok",
        tokens=np.array(row["ids"], dtype=np.int32),
        loss_mask=mask,
        prompt_tokens=int((~mask).sum()),
        response_tokens=int(mask.sum()),
        truncated=False,
        last_prompt=int(mask.argmax()) - 1,
        last_content=len(mask) - 1,
    )


if __name__ == "__main__":
    main()
