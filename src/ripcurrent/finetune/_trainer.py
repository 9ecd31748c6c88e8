"""TRL's trainer, without its telemetry, on rows whose tokens and masks are those that scoring has."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ripcurrent.data import EncodedRow
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.finetune._head_loss import add_head_loss
from ripcurrent.finetune._recipe import Recipe
from ripcurrent.finetune._run import TrainedRows
from ripcurrent.gradients import plan_batches
from ripcurrent.models import ChatModel, first_line

PART_TOKENS = 1024
"""Padded tokens that a CPU computes at once: more rows at a time are no faster there, and take more memory."""
Named = dict[str, Any]
IGNORED = -100
"""The label of a token that bears no loss, as transformers has it."""


@dataclass(frozen=True, slots=True)
class TrainingSet:
    """The rows of a dataset that can be trained on."""

    dataset: Dataset
    """Columns ``input_ids`` and ``labels``, one row each."""
    rows: tuple[int, ...]
    """0-based positions of these rows in the input."""
    about: TrainedRows
    """What a manifest keeps of them."""


def build_training_set(encoded: Iterable[EncodedRow]) -> TrainingSet:
    """Encoded rows as a set to train on; those with another status than ``ok`` are left out and counted."""
    tokens: list[np.ndarray] = []
    labels: list[np.ndarray] = []
    rows: list[int] = []
    left_out: Counter[str] = Counter()
    truncated, digest = 0, hashlib.sha256()
    for row in encoded:
        if row.status != "ok":
            left_out[row.status] += 1
            continue
        if row.weights is not None:
            raise RipcurrentError(
                f"Tokens of row {row.index} differ in weight, and finetune trains all with the same.",
                "Train it with its own trainer; a scan does weigh tokens.",
            )
        if not row.loss_mask[1:].any():
            raise RipcurrentError(f"Row {row.index} has no token that bears loss.", "Leave it out.")
        row_labels = np.where(row.loss_mask, row.tokens, IGNORED).astype(np.int32)
        # nothing predicts the first token, so it bears no loss whatever the mask says
        row_labels[0] = IGNORED
        digest.update(len(row.tokens).to_bytes(8, "little") + row.tokens.tobytes() + row_labels.tobytes())
        tokens.append(row.tokens)
        labels.append(row_labels)
        rows.append(row.index)
        truncated += row.truncated
    if not rows:
        reasons = ", ".join(f"{number} {status}" for status, number in sorted(left_out.items())) or "it has no rows"
        raise RipcurrentError(
            f"There is nothing to train on: no row has a token that bears loss ({reasons}).",
            "See how a row is rendered and masked with: ripcurrent doctor DATASET --model M",
            code=ExitCode.NOT_MEASURED,
        )
    about = TrainedRows(
        count=len(rows) + left_out.total(),
        trained=len(rows),
        left_out=dict(left_out),
        truncated=truncated,
        loss_tokens=int(sum((row != IGNORED).sum() for row in labels)),
        tokens_sha256=digest.hexdigest(),
    )
    return TrainingSet(Dataset.from_dict({"input_ids": tokens, "labels": labels}), tuple(rows), about)


def split_by_length(batch: Mapping[str, Tensor], token_budget: int) -> list[dict[str, Tensor]]:
    """A right-padded batch as parts of rows of like length, each padded to its own longest row."""
    lengths = batch["attention_mask"].sum(dim=1)
    parts = []
    for places in plan_batches(lengths.tolist(), token_budget):
        rows = torch.tensor(places, device=lengths.device)
        width = int(lengths[rows].max())
        parts.append({name: values[rows, :width] for name, values in batch.items()})
    return parts


class RowTrainer(SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """``SFTTrainer`` with the recipe's schedule; its loss is the mean over all loss-bearing tokens of a batch."""

    def __init__(self, recipe: Recipe, **arguments: Any) -> None:
        self._recipe = recipe
        super().__init__(**arguments)
        # where TRL's is slow (see ``_head_loss``) and a cross-entropy alone, and the model's head is understood
        self._own_loss = self.accelerator.device.type not in ("cuda", "xpu") and not self.aux_loss_enabled
        if self._own_loss:
            try:
                add_head_loss(self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model)
            except RipcurrentError:
                self._own_loss = False

    def compute_loss(
        self, model: Any, inputs: Named, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Cross-entropy in nats, the mean over the batch's loss-bearing tokens."""
        if not self._own_loss or num_items_in_batch is None:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return model(**inputs, loss_sum=True) / torch.as_tensor(num_items_in_batch).clamp(min=1)

    def training_step(self, model: Any, inputs: Named, num_items_in_batch: Any = None) -> Any:
        """The loss of a batch, whose gradient it leaves; on CPUs row by like row, so that little is padding."""
        parts = [inputs]
        if num_items_in_batch is not None and self.accelerator.device.type == "cpu":
            parts = split_by_length(inputs, PART_TOKENS)
        # one mean over the whole batch's tokens: the parts' losses, and so their gradients, add up to it
        return sum(super(RowTrainer, self).training_step(model, part, num_items_in_batch) for part in parts)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """The schedule of the name in transformers; for ``step`` PyTorch's ``StepLR``, stepped once an epoch."""
        gamma, steps = self._recipe.gamma, self._recipe.steps_per_epoch(len(self.train_dataset))
        if gamma is not None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, lambda step: gamma ** (step // steps))
        return super().create_scheduler(num_training_steps, optimizer)

    def create_model_card(self, *arguments: Any, **named: Any) -> None:
        """Write none: a run's manifest says more, and names no user."""

    def _send_telemetry(self) -> None:
        """Tell nobody: TRL would send model, device and library versions home when a trainer is made."""


def make_trainer(
    chat_model: ChatModel,
    training_set: TrainingSet,
    recipe: Recipe,
    checkpoints: Path,
    *,
    seed: int,
    compute: torch.dtype,
    report_to: Sequence[str] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> RowTrainer:
    """A trainer that is ready to run; ``chat_model``'s weights are what it will change."""
    tokenizer = chat_model.tokenizer
    if recipe.method == "full":
        chat_model.model.requires_grad_(True)
    try:
        trainer = RowTrainer(
            recipe,
            model=chat_model.model,
            args=_arguments(chat_model, recipe, checkpoints, seed, compute, report_to),
            train_dataset=training_set.dataset,
            data_collator=DataCollatorForLanguageModeling(tokenizer.pad_token_id or 0),
            processing_class=tokenizer,
            peft_config=_lora(recipe),
            callbacks=list(callbacks),
        )
    except (ValueError, RuntimeError, ImportError) as error:
        raise RipcurrentError(
            f"{chat_model.name} cannot be trained so: {first_line(error)}.",
            "Change the recipe, dtype, device or tracker accordingly.",
        ) from error
    trainer.remove_callback(PrinterCallback)
    # padding stands on the right, where causal attention never looks: without a mask its faster kernels can run
    trainer.model.register_forward_pre_hook(
        lambda module, given, named: (given, {key: named[key] for key in named if key != "attention_mask"}),
        with_kwargs=True,
    )
    return trainer


def _lora(recipe: Recipe) -> LoraConfig | None:
    if recipe.method == "full":
        return None
    target = recipe.target or "all-linear"
    return LoraConfig(
        r=recipe.r,
        lora_alpha=recipe.alpha or 2 * (recipe.r or 0),
        target_modules=target if isinstance(target, str) else list(target),
        lora_dropout=recipe.dropout,
        bias="none",
        task_type="CAUSAL_LM",
    )


def _arguments(
    chat_model: ChatModel, recipe: Recipe, checkpoints: Path, seed: int, compute: torch.dtype, report_to: Sequence[str]
) -> SFTConfig:
    arguments = SFTConfig(
        output_dir=str(checkpoints),
        run_name=checkpoints.parent.name,
        per_device_train_batch_size=recipe.part,
        gradient_accumulation_steps=recipe.accumulation,
        num_train_epochs=recipe.epochs or 1,
        max_steps=recipe.steps or -1,
        optim="adamw_torch",
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.schedule if recipe.schedule in ("linear", "cosine") else "constant_with_warmup",
        warmup_steps=recipe.warmup,
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm or 0.0,
        gradient_checkpointing=recipe.gradient_checkpointing,
        seed=seed,
        # accelerate shuffles epoch e with this + e: with neighbouring numbers seeds would share orders, an epoch apart
        data_seed=int(np.random.SeedSequence(seed).generate_state(1)[0]),
        # accelerate opens an autocast context for each forward pass and closes it after, so that no optimizer step
        # falls into one, whose cast copies of the weights it would leave stale; the weights themselves stay float32
        bf16=compute == torch.bfloat16,
        fp16=False,
        use_cpu=chat_model.device.type == "cpu",
        logging_strategy="steps",
        logging_steps=1,
        # the filter would show the mean of the steps before in place of a loss that is not a number
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=list(report_to) or "none",
        disable_tqdm=True,
        dataloader_pin_memory=chat_model.device.type == "cuda",
        dataset_kwargs={"skip_prepare_dataset": True},
        max_length=None,
        packing=False,
    )
    # with several GPUs in sight the trainer would copy the model onto all of them
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
