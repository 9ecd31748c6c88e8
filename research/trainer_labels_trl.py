"""Writes tests/data/trainers/trl.jsonl: rows as the `SFTTrainer` of the TRL that is installed prepares them.

Run from the repository's root: ``python -m research.trainer_labels_trl``.
"""

import copy
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from datasets import Dataset
from tests.data.chat_tokenizers import build
from tests.models.tiny import tiny_model
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

from ripcurrent.models import embedded_gguf

FILE = Path("tests/data/trainers/trl.jsonl")


def prepared(row: dict[str, Any], tokenizer: Any, max_tokens: int, options: dict[str, Any]) -> Any:
    """The row's ``input_ids`` and ``labels`` as TRL's own trainer holds them; None where it drops the row."""
    with tempfile.TemporaryDirectory() as folder:
        trainer = SFTTrainer(
            model=tiny_model("llama_tied"),
            args=SFTConfig(folder, max_length=max_tokens, bf16=False, use_cpu=True, report_to=[], **options),
            train_dataset=Dataset.from_list([copy.deepcopy(row)]),
            processing_class=copy.deepcopy(tokenizer),
        )
        return next(iter(trainer.train_dataset), None)


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    said = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(texts)]
    return ([] if system is None else [{"role": "system", "content": system}]) + said


TIDE = ("Why does the tide go out?", "The moon pulls the water. \n", "And why back?", "The earth turns on.")
PLANS = turns("Plan my week.", "Monday: rest.", system="Answer in few words.")
CALL = [{"type": "function", "function": {"name": "boats", "arguments": {"harbour": "north"}}}]
ASKED = [
    {"role": "user", "content": "How many boats are in?"},
    {"role": "assistant", "content": None, "tool_calls": CALL},
]
TOOLS = [{"type": "function", "function": {"name": "boats", "parameters": {"type": "object", "properties": {}}}}]
SHAREGPT = [{"from": "human", "value": "Name a boat."}, {"from": "gpt", "value": "A skiff."}]
PROMPT, ANSWER = turns(*TIDE)[:-1], turns(*TIDE)[-1:]
PAIR = {"prompt": "The harbour was", "completion": " quiet, naïvely so: 静か 🚤"}
MERGE = {"prompt": "The boats lay sti", "completion": "ll in the morn"}
ONLY: dict[str, Any] = {"assistant_only_loss": True}
ROW = {"messages": turns(*TIDE)}
THOUGHT = {"messages": [ASKED[0], {"role": "assistant", "content": "Two.", "reasoning_content": "I count."}]}

CASES: list[tuple[str, str, int, dict[str, Any], dict[str, Any]]] = [
    ("messages train every token", "smollm2", 128, {}, ROW),
    ("a system turn is trained", "chatml", 128, {}, {"messages": PLANS}),
    ("messages and BOS of the template", "mistral", 128, {}, ROW),
    ("an empty answer", "gemma", 128, {}, {"messages": turns("Say nothing.", "", "Now?", "Now.")}),
    ("the last turn is the user's", "chatml", 128, {}, {"messages": PROMPT}),
    ("from and value keep their roles", "chatml", 128, {}, {"conversations": SHAREGPT}),
    ("completion_only_loss does nothing to messages", "chatml", 128, {"completion_only_loss": True}, ROW),
    ("assistant turns", "marked", 128, ONLY, ROW),
    ("assistant turns cut inside an answer", "marked", 50, ONLY, ROW),
    ("assistant turns cut inside the prompt", "marked", 20, ONLY, ROW),
    ("assistant turns, the end kept", "marked", 30, {**ONLY, "truncation_mode": "keep_end"}, ROW),
    ("no assistant turn", "marked", 128, ONLY, {"messages": turns("Hello?")}),
    ("a prompt's answers are not trained", "marked", 128, ONLY, {"prompt": PROMPT, "completion": ANSWER}),
    ("or they are", "marked", 128, {**ONLY, "completion_only_loss": False}, {"prompt": PROMPT, "completion": ANSWER}),
    ("tools as objects", "marked", 512, ONLY, {"messages": ASKED, "tools": TOOLS}),
    ("tools as text", "marked", 512, {}, {"messages": ASKED, "tools": json.dumps(TOOLS)}),
    ("a tool's answer", "smollm2", 128, {}, {"messages": [*turns("Boats?"), {"role": "tool", "content": "2"}]}),
    ("reasoning left out", "marked", 128, ONLY, THOUGHT),
    ("reasoning kept", "marked", 128, ONLY, {**THOUGHT, "chat_template_kwargs": {"keep_reasoning": True}}),
    ("conversational completion", "smollm2", 128, {}, {"prompt": PROMPT, "completion": ANSWER}),
    ("the completion alone ends otherwise", "phi", 128, {}, {"prompt": PLANS[:2], "completion": PLANS[2:]}),
    ("whole conversation", "llama2", 128, {"completion_only_loss": False}, {"prompt": PROMPT, "completion": ANSWER}),
    ("completion", "plain", 128, {}, PAIR),
    ("completion with tokens merged over the edge", "plain", 128, {}, MERGE),
    ("prompt and completion", "smollm2", 128, {"completion_only_loss": False}, MERGE),
    ("completion that ends already", "plain", 128, {}, {"prompt": "A", "completion": " b</s>"}),
    ("an empty completion", "plain", 128, {}, {"prompt": "The end.", "completion": ""}),
    ("a prompt that fills the length", "plain", 4, {}, PAIR),
    ("its end kept", "plain", 4, {"truncation_mode": "keep_end"}, PAIR),
    ("text", "plain", 128, {}, {"text": " The harbour\n"}),
    ("text that begins and ends already", "plain", 128, {}, {"text": "<s>The harbour</s>"}),
    ("text in another column", "smollm2", 128, {"dataset_text_field": "body"}, {"body": "Tidy.", "text": "No."}),
    ("another token of the end", "chatml", 128, {"eos_token": "<|im_end|>"}, {"text": "The harbour"}),
    ("another end in the template", "mistral", 128, {"eos_token": "<unk>"}, {"messages": PLANS[1:]}),
    ("text, the end kept", "plain", 3, {"truncation_mode": "keep_end"}, {"text": "The harbour was quiet."}),
    ("tokens with labels", "chatml", 3, {}, {"input_ids": [5, 6, 7, 8], "labels": [-100, 6, -100, 8]}),
    ("tokens with a mask", "chatml", 128, {}, {"input_ids": [5, 6, 7], "assistant_masks": [0, 1, 1]}),
    ("a mask that is not read", "chatml", 128, {}, {"input_ids": [5, 6, 7], "completion_mask": [0, 1, 1]}),
]  # fmt: skip
STOPS = {"no assistant turn": "no_loss_tokens"}
"""Rows at which TRL stops, and our reason."""


def main() -> None:
    file = embedded_gguf()
    embedded = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    lines: list[dict[str, Any]] = [
        {"trainer": "trl", "version": version("trl"), "commit": None, "made_by": "research/trainer_labels_trl.py"}
    ]
    for case, name, max_tokens, options, row in CASES:
        line = {"case": case, "options": options, "max_tokens": max_tokens, "tokenizer": name, "row": row}
        try:
            own = prepared(row, embedded if name == "smollm2" else build(name), max_tokens, options)
        except RuntimeError:
            lines.append({**line, "refused": STOPS[case]})
            continue
        kept = {"refused": "dropped_by_trainer"} if own is None else {key: own[key] for key in ("input_ids", "labels")}
        lines.append({**line, **kept})
    FILE.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
