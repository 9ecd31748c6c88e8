"""TRL's trainer on rows that are tokens already, without its telemetry, with checkpoints that are whole."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, PeftModel
from torch.optim.lr_scheduler import LambdaLR
from transformers import PrinterCallback, TrainerCallback
from transformers.trainer_utils import rotate_checkpoints
from trl import SFTConfig, SFTTrainer
from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune._checkpoints import seal
from ripcurrent.finetune._head_loss import add_head_loss
from ripcurrent.finetune._recipe import Recipe
from ripcurrent.finetune._rows import TrainingSet, split_by_length
from ripcurrent.models import ChatModel, first_line

PART_TOKENS = 1024
"""Padded tokens that a processor computes at once: more rows at a time are no faster there, and take more memory."""

Named = dict[str, Any]
"""Arguments of a model by name."""


class RowTrainer(SFTTrainer):  # type: ignore[misc]  # TRL has no types
    """``SFTTrainer`` with the recipe's schedule.

    Its loss is the mean over all loss-bearing tokens of a batch (``num_items_in_batch``, over all of the batch's
    parts), so a long row weighs more than a short one; a score's loss is the mean over one row's own tokens.
    """

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
        """The loss of a batch, whose gradient it leaves; on processors row by like row, so that little is padding."""
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

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
        seal(folder)
        rotate_checkpoints(self.args.output_dir, save_total_limit=1)


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
    """A trainer that is ready to run; ``chat_model``'s weights are what it will change.

    Raises:
        RipcurrentError: A tracker that is unknown or not installed, a compute type that the device lacks, or a LoRA
            target that the model has not.
    """
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
    # Padding stands on the right, where causal attention never looks back at it. Without the mask the kernels for plain
    # causal attention can run, which is faster.
    trainer.model.register_forward_pre_hook(_without_mask, with_kwargs=True)
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
        data_seed=order_seed(seed),
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


def order_seed(seed: int) -> int:
    """The seed of the rows' order: far from every other seed's.

    accelerate shuffles epoch e with seed + e, so that with the bare numbers seed 1 would begin with the order of seed
    0's second epoch, and the spread between seeds would be understated.
    """
    return int(np.random.SeedSequence(seed).generate_state(1)[0])


def _without_mask(module: torch.nn.Module, arguments: tuple[Any, ...], named: Named) -> Any:
    return arguments, {key: value for key, value in named.items() if key != "attention_mask"}
