"""Scans of what is in memory: rows, models, and a trainer that is about to train."""

import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

import ripcurrent as rc
from ripcurrent.errors import RipcurrentError
from tests.scan_fixtures import assert_same_table, good_rows, write_jsonl

MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{% else %}"
    "{{ message['content'] + '<|im_end|>' }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CONVERSATIONS = [
    {"messages": [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["response"]}]}
    for row in good_rows(6)
]
TEXTS = [{"text": f"<|im_start|>user\n{row['prompt']} {row['response']}"} for row in good_rows(6)]


def test_rows_and_a_model_in_memory_have_the_scores_of_files(tmp_path, exact):
    named = rc.scan(write_jsonl(tmp_path / "rows.jsonl", CONVERSATIONS), tmp_path / "file", **exact)
    model, tokenizer = (kind.from_pretrained(exact["model"]) for kind in (AutoModelForCausalLM, AutoTokenizer))
    model.train()
    options = {**exact, "model": model, "tokenizer": tokenizer}
    for name, rows in (("list", CONVERSATIONS), ("dataset", Dataset.from_list(CONVERSATIONS))):
        held = rc.scan(rows, tmp_path / name, **options)
        assert_same_table(held.scores_path, named.scores_path)
        assert held.dataset().count_and_hash()[0] == len(CONVERSATIONS)
        again = rc.scan(rows, tmp_path / name, **options)
        assert again.manifest.timings["rows_scored_in_this_call"] == 6
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    lora = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM"))
    merged = rc.scan(CONVERSATIONS, tmp_path / "lora", **{**options, "model": lora})
    # a fresh LoRA changes nothing
    assert_same_table(merged.scores_path, named.scores_path)


@pytest.mark.parametrize(("given", "assistant_only"), [(CONVERSATIONS, False), (CONVERSATIONS, True), (TEXTS, False)])
def test_a_trainer_is_scored_on_the_tokens_that_it_trains(tmp_path, exact, given, assistant_only):
    tokenizer = AutoTokenizer.from_pretrained(exact["model"])
    if assistant_only:
        tokenizer.chat_template = MARKED
    arguments = SFTConfig(
        str(tmp_path / "out"), use_cpu=True, bf16=False, report_to="none", assistant_only_loss=assistant_only
    )
    model = AutoModelForCausalLM.from_pretrained(exact["model"], dtype=torch.float32)
    trainer = SFTTrainer(model, arguments, train_dataset=Dataset.from_list(given), processing_class=tokenizer)
    options = {name: value for name, value in exact.items() if name not in ("model", "dtype", "device")}
    run = rc.scan(trainer, tmp_path / "trainer", **options)
    path = write_jsonl(tmp_path / "rows.jsonl", given)
    policy = f"trl,assistant_only_loss={assistant_only}".lower()
    tokenizer.save_pretrained(tmp_path / "model")
    model.save_pretrained(tmp_path / "model")
    saved = {**exact, "model": str(tmp_path / "model")}
    from_disk = rc.scan(path, tmp_path / "disk", trainer=policy, **saved)
    for column in (
        "gradient_bidirectional",
        "representation_bidirectional",
        "gradient_norm",
        "loss",
        "is_list",
        "has_refusal",
    ):
        one, other = (pq.read_table(each.scores_path)[column].to_pylist() for each in (run, from_disk))
        assert one == pytest.approx(other, abs=1e-6), column
    assert next(iter(run.dataset())).response.startswith("<|im_start|>user")
    assert trainer.train().training_loss > 0, "it trains as before"


@pytest.mark.parametrize(
    ("rows", "changes", "said"),
    [
        (3, {}, "A int holds no rows"),
        (CONVERSATIONS, {"model": torch.nn.Linear(2, 2)}, "A Linear is no model"),
        (Dataset.from_list([{"input_ids": [1, 2], "labels": [1]}]), {}, "No row of"),
    ],
)
def test_what_is_no_dataset_or_model_is_said(tmp_path, exact, rows, changes, said):
    with pytest.raises(RipcurrentError, match=said):
        rc.scan(rows, tmp_path / "run", **{**exact, **changes})
