"""Unsloth's own preparation of our texts, and its `train_on_responses_only`.

    python -m research.trainer_labels_unsloth FILE COMMIT

FILE is ``unsloth_zoo/dataset_utils.py`` of an unsloth-zoo clone at COMMIT. Writes tests/data/trainers/unsloth.jsonl.
"""

import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from datasets import Dataset

from research.trainer_labels_llamafactory import tokenizer_of
from research.trainer_labels_trl import PLANS, TIDE, turns

FILE = Path("tests/data/trainers/unsloth.jsonl")
CHATML = {"instruction_part": "<|im_start|>user\n", "response_part": "<|im_start|>assistant\n"}
LAST = {**CHATML, "last_response_only": True}
LLAMA3 = {
    "instruction_part": "<|start_header_id|>user<|end_header_id|>\n\n",
    "response_part": "<|start_header_id|>assistant<|end_header_id|>\n\n",
}
GEMMA = {"instruction_part": "<start_of_turn>user\n", "response_part": "<start_of_turn>model\n"}
WORDS = {"instruction_part": "User:", "response_part": "Assistant:"}
ROW = {"messages": turns(*TIDE)}
BODY = {"body": "<s>User: Hi\nAssistant: Ho", "messages": []}

CASES: list[tuple[str, str, int, dict[str, Any], dict[str, Any]]] = [
    ("answers and their ends", "smollm2", 128, CHATML, ROW),
    ("answers in a template without a system text", "chatml", 128, CHATML, ROW),
    ("the last answer alone", "chatml", 128, LAST, ROW),
    ("a system turn", "chatml", 128, CHATML, {"messages": PLANS}),
    ("line feeds that the marker alone joins to one token", "llama3", 128, LLAMA3, ROW),
    ("a template with its own beginning", "llama3", 128, {name: text.strip() for name, text in LLAMA3.items()}, ROW),
    ("a model's turn", "gemma", 128, GEMMA, ROW),
    ("markers of words", "plain", 128, WORDS, {"text": "User: Hi\nAssistant: Ho\nUser: On?\nAssistant: No."}),
    ("a text that begins itself, in a column of its own", "plain", 128, {**WORDS, "dataset_text_field": "body"}, BODY),
    ("the tokenizer begins a text", "none", 128, WORDS, {"text": "User: Hi\nAssistant: Ho"}),
    ("an answer cut", "chatml", 30, CHATML, ROW),
    ("no answer before the cut", "chatml", 10, CHATML, ROW),
    ("the last token opens a question", "chatml", 128, {**CHATML, "instruction_part": "<|im_start|>"},
     {"text": "<|im_start|>assistant\nHo<|im_end|>\n<|im_start|>"}),
    ("the marker is the end", "chatml", 128, CHATML, {"text": "<|im_start|>user\nHi<|im_start|>assistant\n"}),
    ("an answer right behind a question's marker is not seen", "chatml", 128, CHATML,
     {"text": "<|im_start|>assistant\nHo<|im_start|>user\n<|im_start|>assistant\nHe<|im_start|>user\n"}),
    ("an answer of a tool stays in the answer", "chatml", 128, CHATML,
     {"messages": [*turns("Boats?", "Wait."), {"role": "tool", "content": "2"}, *turns("Two.", "Fine.")[1:]]}),
    ("tokens with labels", "chatml", 128, {"instruction_part": "a", "response_part": "b"},
     {"input_ids": [69, 70, 71, 72, 73, 69, 74], "labels": [-100, 70, 71, -100, 73, 69, 74]}),
    ("tokens without", "chatml", 128, {"instruction_part": "a", "response_part": "b"},
     {"input_ids": [69, 70, 71, 72, 68, 69, 70, 74]}),
    ("no answer", "chatml", 128, CHATML, {"messages": turns("Hello?")}),
]  # fmt: skip


def _made(unsloth: Any, case: tuple[str, str, int, dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    _, name, max_tokens, options, row = case
    tokenizer, field = tokenizer_of(name), options.get("dataset_text_field", "text")
    if field not in row and "messages" in row:
        # as its notebooks do
        row = {field: tokenizer.apply_chat_template(row["messages"], tokenize=False)}
    arguments = SimpleNamespace(max_length=max_tokens, dataset_text_field=field, dataset_num_proc=1)
    prepared = unsloth.sft_prepare_dataset(
        SimpleNamespace(), Dataset.from_list([row]), tokenizer, arguments, False, None, "train"
    )
    how = {key: value for key, value in options.items() if key != "dataset_text_field"}
    mask = unsloth.train_on_responses_only(None, **how, tokenizer=tokenizer, return_function=True)
    made = prepared.map(mask, batched=True)[0]
    if all(label == -100 for label in made["labels"]):
        return {"refused": "dropped_by_trainer"}
    return {"input_ids": made["input_ids"], "labels": made["labels"]}


def main() -> None:
    spec = importlib.util.spec_from_file_location("dataset_utils", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    unsloth = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(unsloth)
    made_by = "research/trainer_labels_unsloth.py"
    lines: list[dict[str, Any]] = [
        {"trainer": "unsloth", "version": "unsloth_zoo 2026.8.13", "commit": sys.argv[2], "made_by": made_by}
    ]
    for case in CASES:
        named = dict(zip(("case", "tokenizer", "max_tokens", "options", "row"), case, strict=True))
        lines.append({**named, **_made(unsloth, case)})
    FILE.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
