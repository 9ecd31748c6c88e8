"""The model that is trained: loaded with float32 masters, and written down when it is."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel

from ripcurrent.data import Row, TrainedTokens, encode_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.finetune._recipe import Recipe
from ripcurrent.finetune._run import ResultKind
from ripcurrent.models import (
    ChatModel,
    choose_device,
    choose_dtype,
    load_model,
    quiet_libraries,
    split_variables,
    use_grouped_attention,
)


def compute_dtype(recipe: Recipe, device: str | None, dtype: str | None) -> torch.dtype:
    """The type of the products: ``dtype``, else the recipe's, else bfloat16 where native; no float16, no second GPU."""
    named = dtype or (None if recipe.compute == "auto" else recipe.compute)
    if named == "float16":
        raise RipcurrentError(
            "Nothing is fine-tuned in float16: gradients leave its range.", "Use bfloat16 or float32."
        )
    chosen = choose_device(device)
    if chosen.index:
        raise RipcurrentError(
            f"Training runs on the first GPU only, not on {device}.",
            f"Make the one that you mean the first: CUDA_VISIBLE_DEVICES={chosen.index}",
        )
    return choose_dtype(named, chosen)


def load_for_training(
    name: str, *, adapter: str | None, device: str | None, compute: torch.dtype, recipe: Recipe
) -> ChatModel:
    """The model to start from, an adapter merged into it; weights that will be trained or merged are in float32."""
    # a LoRA's frozen base may lie in the compute type, which is half the memory
    kept = compute if result_kind(recipe, adapter) == "adapter" else torch.float32
    chat_model = load_model(name, adapter=adapter, device=device, dtype=str(kept).removeprefix("torch."))
    model = chat_model.model
    if chat_model.device.type == "cpu" and compute == torch.bfloat16 and model.config._attn_implementation == "sdpa":
        use_grouped_attention(model)
    config = model.generation_config
    try:
        config.validate(strict=True)
    except ValueError:
        # sampling defaults that contradict each other: transformers would refuse to save them, after the training
        model.generation_config = GenerationConfig(
            bos_token_id=config.bos_token_id, eos_token_id=config.eos_token_id, pad_token_id=config.pad_token_id
        )
    return chat_model


def result_kind(recipe: Recipe, adapter: str | None) -> ResultKind:
    """An adapter for a LoRA on a model that can be named; a whole model otherwise, also on top of another adapter."""
    return "adapter" if recipe.method == "lora" and adapter is None else "model"


def save_result(
    trained: PreTrainedModel, chat_model: ChatModel, settings: tuple[PretrainedConfig, GenerationConfig], folder: Path
) -> None:
    """Write the trained model or adapter with its tokenizer, in float32 safetensors and the ``settings`` of before."""
    part = folder.with_name(folder.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with quiet_libraries():
        if folder.name == "adapter":
            config = trained.peft_config["default"]
            config.base_model_name_or_path, _ = split_variables(chat_model.name)
            config.revision = chat_model.revision
            # PEFT lists them in the order of a set, which changes from run to run
            if isinstance(config.target_modules, set):
                config.target_modules = sorted(config.target_modules)
            trained.save_pretrained(part, save_embedding_layers=False)
            # PEFT's card is a form that nobody filled in
            (part / "README.md").unlink(missing_ok=True)
        else:
            whole = trained.merge_and_unload() if hasattr(trained, "merge_and_unload") else trained
            whole.config, whole.generation_config = settings
            whole.save_pretrained(part)
        chat_model.tokenizer.save_pretrained(part)
    flush(part)
    # left by a run that ended before its manifest was written
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


def flush(folder: Path) -> None:
    """Flush a folder and all that it holds to disk."""
    for path in (*folder.rglob("*"), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def heldout_loss(
    chat_model: ChatModel, rows: Sequence[Row], *, max_tokens: int, trained: TrainedTokens
) -> float | None:
    """Mean cross-entropy in nats over the loss-bearing tokens of all rows; None where there is no such token."""
    losses = []
    for row in encode_rows(rows, chat_model.tokenizer, max_tokens=max_tokens, trained=trained):
        if row.status == "ok":
            tokens = torch.tensor(row.tokens.tolist(), device=chat_model.device)
            bears = torch.tensor(row.loss_mask[1:].tolist(), device=chat_model.device)
            with torch.inference_mode():
                logits = chat_model.model(input_ids=tokens[None], use_cache=False).logits[0, :-1]
            losses.append(torch.nn.functional.cross_entropy(logits[bears].float(), tokens[1:][bears], reduction="none"))
    return float(torch.cat(losses).mean()) if losses else None
