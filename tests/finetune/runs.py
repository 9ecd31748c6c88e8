"""What tests of training share: a chat model in memory, rows as tokens, and a run with all that it fed the model."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ripcurrent.data import EncodedRow, Message, Row, encode_rows
from ripcurrent.finetune import Recipe, TrainingFacts
from ripcurrent.finetune._train import train
from ripcurrent.finetune._trainer import build_training_set
from ripcurrent.models import ChatModel
from tests.gradients import oracle
from tests.models.tiny import tiny_model, tiny_tokenizer
from tests.scan_fixtures import good_rows


def chat_model(kind: str = "llama_tied", *, tokenizer: Any = None) -> ChatModel:
    """A tiny model as loading gives it: frozen, in eval mode, in float32."""
    bare = oracle.chat_model(tiny_model(kind))
    return replace(bare, name=f"tiny-{kind}", tokenizer=tokenizer or tiny_tokenizer())


def rows(count: int) -> list[Row]:
    """One question and one answer each, all different."""
    return [
        Row(number, str(number), (Message("user", row["prompt"]), Message("assistant", row["response"])), None, row)
        for number, row in enumerate(good_rows(count))
    ]


def encoded_rows(count: int, tokenizer: Any = None) -> list[EncodedRow]:
    """The same as tokens."""
    return list(encode_rows(rows(count), tokenizer or tiny_tokenizer()))


def recipe(**changes: Any) -> Recipe:
    """A short recipe: full, batches of 4, 2 epochs; ``None`` takes a key out."""
    keys = {"method": "full", "learning_rate": 1e-3, "batch": 4, "epochs": 2, **changes}
    return Recipe(**{key: value for key, value in keys.items() if value is not None})


def total_steps(how: Recipe, rows: int) -> int:
    """Optimizer steps on so many rows."""
    return how.steps or (how.epochs or 0) * how.steps_per_epoch(rows)


@dataclass
class Run:
    """A run that is over."""

    record: TrainingFacts
    weights: dict[str, torch.Tensor]
    """The model's own, after training."""
    fed: list[tuple[torch.Tensor, torch.Tensor]]
    """Ids and labels of every forward pass, in order."""

    def orders(self, rows: list[EncodedRow]) -> list[int]:
        """The rows of all passes, in the order in which they came."""
        lines = [line for ids, _ in self.fed for line in ids.tolist()]
        known = [(row.index, row.tokens.tolist()) for row in rows]
        return [next(index for index, tokens in known if line[: len(tokens)] == tokens) for line in lines]


def run(
    folder: Path,
    how: Recipe,
    *,
    model: ChatModel | None = None,
    count: int = 10,
    seed: int = 0,
    compute: torch.dtype = torch.float32,
    **options: Any,
) -> Run:
    """Train a tiny model and note what it was fed."""
    chosen = model or chat_model()
    fed: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(_: torch.nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
        if named.get("labels") is not None:
            fed.append((named["input_ids"].clone(), named["labels"].clone()))

    chosen.model.register_forward_pre_hook(note, with_kwargs=True)
    given = build_training_set(encoded_rows(count))
    record = train(chosen, given, how, folder, seed=seed, compute=compute, **options)
    weights = {name: value.detach().clone() for name, value in chosen.model.state_dict().items()}
    return Run(record, weights, fed)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Whether two models have the same weights to the bit."""
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
