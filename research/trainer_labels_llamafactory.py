"""LLaMA-Factory's own converter, template and processor, and v1's renderer, on our rows; what no text needs is stubbed.

    python -m research.trainer_labels_llamafactory CHECKOUT COMMIT

Fills in the labels of tests/data/trainers/llamafactory.jsonl with a clone of LLaMA-Factory.
"""

import copy
import importlib.machinery
import itertools
import json
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from tests.data.chat_tokenizers import build

from ripcurrent.models import embedded_gguf

_CASES = Path("tests/data/trainers/llamafactory.jsonl")
_COLUMNS = ("prompt", "query", "response", "history", "messages", "system", "tools", "images", "videos", "audios",
            "kto_tag")  # fmt: skip
_INFO = ("formatting", "columns", "tags")


def tokenizer_of(name: str) -> Any:
    """A fresh tokenizer of the tests, by its name in the lines."""
    from transformers import AutoTokenizer

    if name != "smollm2":
        return copy.deepcopy(build(name))
    file = embedded_gguf()
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _made(case: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What LLaMA-Factory trains of a row."""
    from llamafactory.data import converter, parser, template
    from llamafactory.data.processor import supervised

    options = case["options"]
    attributes = parser.DatasetAttr("file", dataset_name="rows")
    attributes.join({name: options[name] for name in _INFO if name in options})
    defaults = {"template": None, "mask_history": False, "train_on_prompt": False, "default_system": None,
                "enable_thinking": True, "preserve_thinking": False, "tool_format": None,
                "cutoff_len": case["max_tokens"]}  # fmt: skip
    arguments = types.SimpleNamespace(**defaults | {name: options[name] for name in options if name not in _INFO})
    registered = copy.deepcopy(template.TEMPLATES)
    try:
        turns = template.get_template_and_fix_tokenizer(tokenizer, arguments)
        # a table has every column in every row
        columns = [value for name, value in vars(attributes).items() if name in _COLUMNS and value]
        row = dict.fromkeys(columns) | case["row"]
        aligned = converter.get_dataset_converter(attributes.formatting, attributes, arguments)(row)
        processor = supervised.SupervisedDatasetProcessor(turns, tokenizer, None, arguments)
        made = processor.preprocess_dataset({name: [value] for name, value in aligned.items()})
    finally:
        template.TEMPLATES.update(registered)
    if not made:
        return {"refused": "dropped_by_trainer"}
    (ids,), (labels,) = made["input_ids"], made["labels"]
    if any(label not in (-100, own) for label, own in zip(labels, ids, strict=True)):
        return {"refused": "shifted_labels"}
    return {"input_ids": ids, "labels": labels}


def _made_by_v1(case: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What LLaMA-Factory v1 trains of a row: of its samples the longest, with the weights of all."""
    from llamafactory.v1.core.data_engine import DataEngine
    from llamafactory.v1.core.rendering.rendering import Renderer

    row, longest = case["row"], case["max_tokens"]
    cuts = [cut for cut in DataEngine._prefix_cuts(row) if cut is not None]
    if not cuts:
        return {"refused": "no_loss_tokens"}
    weights: list[float] = []
    shorter: list[int] = []
    for cut in cuts:
        try:
            (made,) = Renderer(tokenizer).process_samples([{**row, "messages": row["messages"][:cut]}])
        except ValueError as error:
            return {"refused": "template_mismatch" if "prefix" in str(error) else "invalid_conversation"}
        if made["input_ids"][: len(shorter)] != shorter:
            # ours: samples that differ are no one row
            return {"refused": "template_mismatch"}
        shorter = made["input_ids"]
        weights = [max(pair) for pair in itertools.zip_longest(weights, made["loss_weights"], fillvalue=0.0)]
    if not any(weights[:longest]):
        return {"refused": "dropped_by_trainer"}
    return {"input_ids": made["input_ids"][:longest], "weights": weights[:longest]}


def main() -> None:
    checkout = Path(sys.argv[1])
    for name in ("torchaudio", "omegaconf"):
        sys.modules[name] = MagicMock(__spec__=importlib.machinery.ModuleSpec(name, None))
    sys.path.insert(0, str(checkout / "src"))
    from llamafactory.extras.env import VERSION

    head, *cases = map(json.loads, _CASES.read_text().splitlines())
    lines = [head | {"version": VERSION, "commit": sys.argv[2]}]
    for case in cases:
        asked = {name: case[name] for name in ("case", "options", "max_tokens", "tokenizer", "row")}
        ours = case.get("refused") not in (None, "dropped_by_trainer", "shifted_labels")
        make = _made_by_v1 if case["options"].get("formatting") == "v1" else _made
        lines.append(asked | ({"refused": case["refused"]} if ours else make(case, tokenizer_of(case["tokenizer"]))))
    _CASES.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


if __name__ == "__main__":
    main()
