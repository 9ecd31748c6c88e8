"""Axolotl's own preparation of our rows; posthog and numba, which no row needs, are stubbed.

    PYTHONPATH=CHECKOUT/src python -m research.trainer_labels_axolotl CHECKOUT

Fills in the labels of tests/data/trainers/axolotl.jsonl with a clone of Axolotl; addict and colorama are needed too.
"""

import copy
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from datasets import Dataset
from jinja2.exceptions import TemplateError
from tests.data.chat_tokenizers import build
from transformers import AutoTokenizer

from ripcurrent.models import embedded_gguf

_CASES = Path("tests/data/trainers/axolotl.jsonl")
_WHOLE = ("train_on_inputs", "eot_tokens", "chat_template_kwargs", "excess_length_strategy", "min_sample_len")
"""Options of a whole file, not of a data set."""


def _tokenizer(name: str) -> Any:
    if name != "smollm2":
        return copy.deepcopy(build(name))
    file = embedded_gguf()
    return AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)


def _prepared(case: Mapping[str, Any]) -> list[Any]:
    """What Axolotl makes of a data set of one row, its options checked by its own schema."""
    from axolotl.utils.data.utils import handle_long_seq_in_dataset
    from axolotl.utils.data.wrappers import get_dataset_wrapper
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.datasets import SFTDataset

    longest, options = case["max_tokens"], case["options"]
    whole = {name: value for name, value in options.items() if name in _WHOLE}
    own = {"type": "chat_template", **{name: value for name, value in options.items() if name not in _WHOLE}}
    config = DictDefault({"train_on_inputs": False, "sequence_len": longest, **whole})
    entry = DictDefault(SFTDataset(path="rows", **own).model_dump(exclude_none=True))
    base, _, style = own["type"].partition(":")
    row = Dataset.from_list([copy.deepcopy(case["row"])])
    made, _ = get_dataset_wrapper(entry, _tokenizer(case["tokenizer"]), config, base, row, style or None)
    return list(handle_long_seq_in_dataset(made, longest, config))


def _outcome(case: Mapping[str, Any]) -> dict[str, Any]:
    try:
        made = _prepared(case)
    except TemplateError:
        return {"refused": "template_mismatch"}
    if len(made) != 1:
        # several rows are refused, too: each is trained without the others
        return {"refused": "too_long" if made else "dropped_by_trainer"}
    return {name: made[0][name] for name in ("input_ids", "labels")}


def main(checkout: Path) -> None:
    sys.modules |= {name: MagicMock() for name in ("posthog", "numba")}
    _, *cases = map(json.loads, _CASES.read_text(encoding="utf-8").splitlines())
    commit = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    head = {
        "trainer": "axolotl",
        "version": (checkout / "VERSION").read_text(encoding="utf-8").strip(),
        "commit": commit.stdout.strip(),
        "made_by": "research/trainer_labels_axolotl.py",
    }
    given = ("case", "options", "max_tokens", "tokenizer", "row")
    lines = [head, *({name: case[name] for name in given} | _outcome(case) for case in cases)]
    _CASES.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
