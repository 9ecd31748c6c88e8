"""torchtune's own message transforms and Qwen 2.5 tokenizer on our rows; what no text needs is stubbed.

    PYTHONPATH=CHECKOUT python -m research.trainer_labels_torchtune COMMIT

Writes tests/data/trainers/torchtune.jsonl with a clone of torchtune at COMMIT, and the vocabulary of a tokenizer of the
tests.
"""

import json
import sys
import tempfile
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

from tests.data.chat_tokenizers import build

from research.trainer_labels_trl import PLANS, SHAREGPT, TIDE, turns

_STUBBED = {"torchao", "torchvision", "omegaconf", "tiktoken", "sentencepiece", "blobfile", "kagglehub", "hf_transfer"}
FILE = Path("tests/data/trainers/torchtune.jsonl")
ALL, LAST = {"masking_strategy": "train_on_all"}, {"masking_strategy": "train_on_last"}
ROW = {"messages": turns(*TIDE)}
ALPACA = {"instruction": "Name the colour.", "input": "Of the sky.", "output": "Blue."}
PAIR = {"input": "Hi", "output": "Ho"}

CASES: list[tuple[str, str, int, dict[str, Any], dict[str, Any]]] = [
    ("answers", "OpenAIToMessages", 128, {}, ROW),
    ("the last answer alone", "OpenAIToMessages", 128, LAST, ROW),
    ("all but the system turn", "OpenAIToMessages", 128, ALL, {"messages": PLANS}),
    ("an answer cut, and its end put there", "OpenAIToMessages", 40, {}, ROW),
    ("from and value", "ShareGPTToMessages", 128, {}, {"conversations": SHAREGPT}),
    ("input and output", "InputOutputToMessages", 128, {"new_system_prompt": "Be kind."}, PAIR),
    ("alpaca trains the prompt too", "AlpacaToMessages", 256, {}, ALPACA),
    ("or not", "AlpacaToMessages", 256, {"masking_strategy": "train_on_assistant"}, {**ALPACA, "input": ""}),
]  # fmt: skip


class _Stubs(MetaPathFinder, Loader):
    """Modules that take everything."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.partition(".")[0] in _STUBBED else None

    def create_module(self, spec: ModuleSpec) -> Any:
        return MagicMock(__path__=[])

    def exec_module(self, module: Any) -> None:
        pass


def main() -> None:
    sys.meta_path.append(_Stubs())
    from torchtune import data
    from torchtune.datasets._sft import SFTTransform
    from torchtune.models.qwen2_5._tokenizer import Qwen2_5Tokenizer

    tokenizer = build("chatml")
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    specials = {name: model["vocab"][name] for name in ("<|im_start|>", "<|im_end|>")}
    specials |= {name: model["vocab"]["</s>"] for name in ("<|endoftext|>", "<tool_call>", "</tool_call>")}
    lines: list[dict[str, Any]] = [
        {
            "trainer": "torchtune",
            "version": "0.7.0",
            "commit": sys.argv[1],
            "made_by": f"research/{Path(__file__).name}",
        }
    ]
    for case, transform, max_tokens, options, row in CASES:
        with tempfile.TemporaryDirectory() as folder:
            vocabulary, merges = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
            vocabulary.write_text(json.dumps(model["vocab"]), encoding="utf-8")
            merges.write_text("\n".join(" ".join(pair) for pair in model["merges"]), encoding="utf-8")
            own = Qwen2_5Tokenizer(str(vocabulary), str(merges), specials, max_tokens)

        def tokenized(sample: Any, own: Any = own) -> dict[str, Any]:
            ids, mask = own.tokenize_messages(sample["messages"])
            return {"tokens": ids, "mask": mask}

        made = SFTTransform(getattr(data, transform)(**options), tokenized)(row)
        kept = {"tokens": made["tokens"], "mask": made["mask"], "labels": [int(one) for one in made["labels"]]}
        # the first token is predicted from nothing
        pairs = list(zip(made["tokens"], [True, *made["mask"][1:]], strict=True))
        labels = [-100 if masked else token for token, masked in pairs]
        line = {"case": f"{transform}: {case}", "options": {}, "max_tokens": max_tokens, "tokenizer": "chatml"}
        lines.append({**line, "row": kept, "input_ids": made["tokens"], "labels": labels})
    FILE.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
