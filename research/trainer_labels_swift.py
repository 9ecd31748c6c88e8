"""ms-swift's own preprocessor, template and loss scale on our rows; the model's own description is a stand-in.

    python -m research.trainer_labels_swift CHECKOUT

Fills in the labels of tests/data/trainers/swift.jsonl with a clone of ms-swift.
"""

import json
import subprocess
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from research.trainer_labels_llamafactory import tokenizer_of

_CASES = Path("tests/data/trainers/swift.jsonl")


def made(case: Mapping[str, Any], tokenizer: Any) -> dict[str, Any]:
    """What ms-swift trains of a row."""
    from datasets import Dataset
    from swift.dataset.preprocessor import AutoPreprocessor
    from swift.template import TEMPLATE_MAPPING

    options = case["options"]
    meta = TEMPLATE_MAPPING[options["template"]]
    strategy = options.get("truncation_strategy", "delete")
    template = meta.template_cls(
        None,
        meta,
        options.get("system"),
        case["max_tokens"],
        truncation_strategy="raise" if strategy == "delete" else strategy,
        loss_scale=options.get("loss_scale", "default"),
    )
    tokenizer.model_info = types.SimpleNamespace(config=None, task_type="causal_lm", max_model_len=None)
    tokenizer.model_meta = types.SimpleNamespace(is_multimodal=False)
    template.init_processor(tokenizer)
    template.set_mode("train")
    rows = AutoPreprocessor()(Dataset.from_list([case["row"]]), enable_auto_mapping=True, load_from_cache_file=False)
    if not len(rows):
        return {"refused": "dropped_by_trainer"}
    try:
        encoded = template.encode({name: value for name, value in rows[0].items() if value is not None})
    except (ValueError, AssertionError) as error:
        print(case["case"], repr(error)[:200], file=sys.stderr)
        return {"refused": "dropped_by_trainer"}
    assert "loss_scale" not in encoded
    return {"input_ids": encoded["input_ids"], "labels": encoded["labels"]}


def main() -> None:
    checkout = Path(sys.argv[1])
    sys.path.insert(0, str(checkout))
    from swift.version import __version__

    asked = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    commit = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()
    _, *cases = map(json.loads, _CASES.read_text().splitlines())
    head = {"trainer": "swift", "version": __version__, "commit": commit, "made_by": "research/trainer_labels_swift.py"}
    lines = [head]
    for case in cases:
        kept = {name: case[name] for name in ("case", "options", "max_tokens", "tokenizer", "row")}
        ours = case.get("refused") not in (None, "dropped_by_trainer")
        lines.append(kept | ({"refused": case["refused"]} if ours else made(case, tokenizer_of(case["tokenizer"]))))
    _CASES.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


if __name__ == "__main__":
    main()
