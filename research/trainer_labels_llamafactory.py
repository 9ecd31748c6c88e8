"""LLaMA-Factory's own converter, template and processor on our rows; torchaudio, which no text needs, is stubbed.

    python -m research.trainer_labels_llamafactory CHECKOUT

Fills in the labels of tests/data/trainers/llamafactory.jsonl with a clone of LLaMA-Factory.
"""

import copy
import importlib.machinery
import json
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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


def main() -> None:
    checkout = Path(sys.argv[1])
    stub = types.ModuleType("torchaudio")
    stub.__spec__ = importlib.machinery.ModuleSpec("torchaudio", None)
    sys.modules["torchaudio"] = stub
    sys.path.insert(0, str(checkout / "src"))
    from llamafactory.extras.env import VERSION

    commit = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    _, *cases = map(json.loads, _CASES.read_text().splitlines())
    head = {"trainer": "llamafactory", "version": VERSION, "commit": commit,
            "made_by": "research/trainer_labels_llamafactory.py"}  # fmt: skip
    lines = [head]
    for case in cases:
        asked = {name: case[name] for name in ("case", "options", "max_tokens", "tokenizer", "row")}
        ours = case.get("refused") not in (None, "dropped_by_trainer", "shifted_labels")
        lines.append(asked | ({"refused": case["refused"]} if ours else _made(case, tokenizer_of(case["tokenizer"]))))
    _CASES.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


if __name__ == "__main__":
    main()
