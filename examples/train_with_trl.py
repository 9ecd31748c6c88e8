"""Trains one arm of an experiment with TRL: a LoRA on the answers of rows with `messages`. To copy and change.

In the experiment's file:

    model: HuggingFaceTB/SmolLM2-135M-Instruct
    train: python train_with_trl.py {model} {rows} {out} {seed}
"""

import sys

import torch
from datasets import load_dataset
from peft import LoraConfig
from transformers import set_seed
from trl import SFTConfig, SFTTrainer

model, rows, out, seed = sys.argv[1:]
# before the LoRA is made: its first weights are random
set_seed(int(seed))
dataset = load_dataset("json", data_files=rows, split="train")
dataset = dataset.map(
    # TRL trains every token of `messages`, and of prompt and completion the completion alone, as the scan scores
    lambda row: {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]},
    remove_columns=dataset.column_names,
)
trainer = SFTTrainer(
    model=model,
    args=SFTConfig(
        output_dir=out,
        seed=int(seed),
        num_train_epochs=2,
        per_device_train_batch_size=5,
        learning_rate=2e-4,
        max_length=1024,
        bf16=torch.cuda.is_available(),
        save_strategy="no",
        report_to="none",
    ),
    train_dataset=dataset,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
)
trainer.train()
trainer.save_model(out)
