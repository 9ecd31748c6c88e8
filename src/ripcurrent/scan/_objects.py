"""What a scan is given that is no file: rows in memory, a trainer, a model. Rows are written beside the run folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ripcurrent.data import canonical_json
from ripcurrent.errors import RipcurrentError
from ripcurrent.models import ChatModel, held_model
from ripcurrent.runs import written_whole
from ripcurrent.scan._options import Execution, ScanOptions

TOKEN_COLUMNS = ("input_ids", "labels", "attention_mask", "position_ids", "seq_lengths")
"""What is kept of a trainer's rows, which may have the columns that they were made of, too."""


@contextmanager
def as_files(
    dataset: Any,
    out: str | Path | None,
    options: ScanOptions | None,
    tokenizer: Any,
    changes: Mapping[str, Any],
    execution: Execution,
) -> Iterator[tuple[str | Path, ScanOptions, ChatModel | None]]:
    """The dataset's path, the options, and the model if it is in memory; of a trainer its own rows and model."""
    changes = dict(changes)
    if (processed := getattr(dataset, "train_dataset", None)) is not None:
        names = getattr(processed, "column_names", None) or ()
        if not {"input_ids", "labels"} <= set(names) or not hasattr(processed, "__len__"):
            raise RipcurrentError(
                f"The {type(dataset).__name__} has no processed dataset: its rows have "
                f"{', '.join(names) or 'no columns'}, and not input_ids and labels.",
                "Give a trainer that has tokenized its rows (of TRL: SFTTrainer, without skip_prepare_dataset).",
            )
        longest = max(map(len, processed["input_ids"]))
        changes = {"model": dataset.model, "trainer": "tokenized", "max_tokens": max(longest, 8), **changes}
        tokenizer = tokenizer or dataset.processing_class
        tokens = processed.select_columns([name for name in TOKEN_COLUMNS if name in names])
        # for people who look at the page
        dataset = tokens.add_column("text", [tokenizer.decode(ids) for ids in processed["input_ids"]])
    model = changes.pop("model", None)
    in_memory = model is not None and not isinstance(model, str | Path)
    if in_memory and execution.executor == "ray":
        raise RipcurrentError("Ray's workers load a model by its name.", "Save the model, and name its folder.")
    chosen = ScanOptions.resolve(options, changes if in_memory or model is None else {**changes, "model": str(model)})
    with ExitStack() as stack:
        held = stack.enter_context(held_model(model, tokenizer, scope=chosen.scope)) if in_memory else None
        if held is not None:
            chosen = ScanOptions.resolve(chosen, {"model": held.name})
        if not isinstance(dataset, str | Path):
            dataset = _written(dataset, None if out is None else Path(out))
        yield dataset, chosen, held


def _written(rows: Any, out: Path | None) -> Path:
    """A file of rows in memory, beside the run folder: Parquet of a `datasets.Dataset`, else JSON lines."""
    if out is None:
        raise RipcurrentError("Rows in memory have no name for a run folder.", 'Name one: scan(rows, "runs/mine").')
    if hasattr(rows, "to_parquet"):
        with written_whole(path := out.with_name(f"{out.name}.rows.parquet")) as part:
            rows.to_parquet(str(part))
        return path
    if not isinstance(rows, Iterable) or isinstance(rows, bytes | Mapping):
        raise RipcurrentError(
            f"A {type(rows).__name__} holds no rows.", "Give a path, a datasets.Dataset or an iterable of dictionaries."
        )
    with written_whole(path := out.with_name(f"{out.name}.rows.jsonl")) as part, part.open("wb") as file:
        for row in rows:
            file.write(canonical_json(row) + b"\n")
    return path
