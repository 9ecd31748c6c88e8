"""The model that is trained: loaded with float32 masters, and written down when it is."""

from __future__ import annotations

import copy
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel

from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune._recipe import Recipe
from ripcurrent.finetune._run import ResultKind
from ripcurrent.finetune._trainer import RowTrainer
from ripcurrent.models import (
    AUTO_DEVICE,
    ChatModel,
    choose_device,
    choose_dtype,
    load_model,
    quiet_libraries,
    split_variables,
    use_grouped_attention,
)


@dataclass(frozen=True, slots=True)
class SettingsBefore:
    """What a trainer overwrites of a model's configuration and must not stay in the result.

    It takes the tokenizer's padding and end tokens for the model's, and turns the generation cache off.
    """

    config: dict[str, Any]
    """Values by name, of those that the configuration has."""
    generation: GenerationConfig
    """Defaults of generation."""

    @classmethod
    def of(cls, model: PreTrainedModel) -> SettingsBefore:
        """The settings of a model before its training."""
        text = model.config.get_text_config()
        names = ("bos_token_id", "eos_token_id", "pad_token_id", "use_cache")
        return cls(
            {name: copy.copy(getattr(text, name)) for name in names if hasattr(text, name)},
            copy.deepcopy(model.generation_config),
        )

    def restore(self, model: PreTrainedModel) -> None:
        """Give them back."""
        text = model.config.get_text_config()
        for name, value in self.config.items():
            setattr(text, name, value)
        model.generation_config = self.generation


def compute_dtype(recipe: Recipe, device: str | None, dtype: str | None) -> torch.dtype:
    """The type of the products: ``dtype`` where given, else the recipe's, else bfloat16 where native.

    Raises:
        RipcurrentError: No such device or type, a second GPU by number, or float16, whose range gradients leave.
    """
    named = dtype or (None if recipe.compute == "auto" else recipe.compute)
    if named == "float16":
        raise RipcurrentError(
            "Nothing is fine-tuned in float16: gradients leave its range.", "Use bfloat16 or float32."
        )
    return choose_dtype(named, training_device(device))


def training_device(device: str | None) -> torch.device:
    """The device to train on.

    Raises:
        RipcurrentError: No such device, a second GPU by number, or ``auto``.
    """
    if device == AUTO_DEVICE:
        raise RipcurrentError(
            "Training runs on one GPU, and --device auto spreads a model over several.",
            "One GPU is needed: leave --device out, or give cuda (in a file device: cuda).",
        )
    chosen = choose_device(device)
    if chosen.index:
        raise RipcurrentError(
            f"Training runs on the first GPU only, not on {device}.",
            f"Make the one that you mean the first: CUDA_VISIBLE_DEVICES={chosen.index}",
        )
    return chosen


def load_for_training(
    name: str, *, adapter: str | None, device: str | None, compute: torch.dtype, recipe: Recipe
) -> ChatModel:
    """The model to start from, an adapter merged into it; weights that will be trained or merged are in float32.

    Raises:
        RipcurrentError: What keeps the model from being loaded, or a second GPU by number.
    """
    chosen = training_device(device)
    # a LoRA's frozen base may lie in the compute type, which is half the memory
    frozen = recipe.method == "lora" and adapter is None
    kept = compute if frozen else torch.float32
    chat_model = load_model(name, adapter=adapter, device=device, dtype=str(kept).removeprefix("torch."))
    model = chat_model.model
    if chosen.type == "cpu" and compute == torch.bfloat16 and model.config._attn_implementation == "sdpa":
        use_grouped_attention(model)
    _mend_generation_config(model)
    return chat_model


def result_kind(recipe: Recipe, adapter: str | None) -> ResultKind:
    """An adapter for a LoRA on a model that can be named, a whole model otherwise.

    A LoRA trained on top of another adapter is merged with both: one name and one adapter could not name it again.
    """
    return "adapter" if recipe.method == "lora" and adapter is None else "model"


def save_result(
    trainer: RowTrainer, chat_model: ChatModel, settings: SettingsBefore, folder: Path, kind: ResultKind
) -> None:
    """Write the trained model or adapter with its tokenizer, in float32 safetensors; the folder appears when whole."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    model = trainer.accelerator.unwrap_model(trainer.model)
    with quiet_libraries():
        if kind == "adapter":
            config = model.peft_config["default"]
            config.base_model_name_or_path, _ = split_variables(chat_model.name)
            config.revision = chat_model.revision
            # PEFT lists them in the order of a set, which changes from run to run
            if isinstance(config.target_modules, set):
                config.target_modules = sorted(config.target_modules)
            model.save_pretrained(part, save_embedding_layers=False)
            # PEFT's card is a form that nobody filled in
            (part / "README.md").unlink(missing_ok=True)
        else:
            whole = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
            settings.restore(whole)
            whole.save_pretrained(part)
        chat_model.tokenizer.save_pretrained(part)
    # a tokenizer with several chat templates has a folder of them
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb") as written:
                os.fsync(written.fileno())
    # left by a run that ended before its manifest was written
    if folder.exists():
        shutil.rmtree(folder)
    part.rename(folder)


def _mend_generation_config(model: PreTrainedModel) -> None:
    """Drop sampling defaults that contradict each other: transformers would refuse to save them, after the training."""
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError:
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )
