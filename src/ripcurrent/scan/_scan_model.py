"""The model of a scan's options, loaded the same way by every command that scores with it."""

from collections.abc import Mapping
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.gradients import WIDTH_MULTIPLE
from ripcurrent.models import WEIGHTS_SHARE, WEIGHTS_SHARE_WITH_DIRECTIONS, ChatModel, load_model, require_chat_template
from ripcurrent.scan._options import ScanOptions


def load_scan_model(options: ScanOptions) -> ChatModel:
    """The model to score with.

    Raises:
        RipcurrentError: it cannot be loaded, has no chat template, or fewer positions than ``max_tokens``.
    """
    named = options.model_dump(include={"adapter", "device", "dtype", "scope", "attention", "seed"})
    share = WEIGHTS_SHARE_WITH_DIRECTIONS if options.wants_gradient else WEIGHTS_SHARE
    chat_model = load_model(name=options.model, **named, weights_share=share)
    require_chat_template(chat_model)
    require_positions(chat_model, options.max_tokens)
    return chat_model


def usable_positions(chat_model: ChatModel, positions: int) -> int:
    """The longest row whose batch is not padded beyond the model's positions."""
    return positions - positions % WIDTH_MULTIPLE.get(chat_model.device.type, 1)


def require_positions(chat_model: ChatModel, max_tokens: int, *, padded: bool = True) -> None:
    """Refuse rows longer than the model has positions for.

    ``padded`` says whether batches are a scan's, which are padded to a multiple of some tokens.

    Raises:
        RipcurrentError: ``max_tokens`` is more than the model's configuration gives, or than the length from which its
            rotary positions depend on the longest row of a batch.
    """
    config = chat_model.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    switch = _length_of_other_positions(config)
    usable, usable_switch = (
        most if most is None or not padded else usable_positions(chat_model, most) for most in (positions, switch)
    )
    if usable_switch is not None and max_tokens > usable_switch:
        raise RipcurrentError(
            f"Past {usable_switch} tokens {chat_model.name} turns all positions of a batch otherwise, so that a row's "
            "scores would depend on the rows beside it.",
            f"Give --max-tokens {usable_switch} (in a file max_tokens) or less: longer rows are truncated.",
        )
    if usable is not None and max_tokens > usable:
        of_which = "" if usable == positions else f", of which batches use {usable}"
        raise RipcurrentError(
            f"--max-tokens {max_tokens} is more than the {positions} positions of {chat_model.name}{of_which}.",
            f"Give --max-tokens {usable} (in a file max_tokens) or less: longer rows are truncated.",
        )


def _length_of_other_positions(config: Any) -> int | None:
    """Tokens from which a model's rotary frequencies depend on the batch's width (LongRoPE, dynamic); None: none."""
    given = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    # some models have one set of parameters for each kind of layer
    kinds = [given, *(value for value in given.values() if isinstance(value, Mapping))]
    lengths = [
        one.get("original_max_position_embeddings")
        or getattr(config, "original_max_position_embeddings", None)
        or getattr(config, "max_position_embeddings", None)
        for one in kinds
        if one.get("rope_type", one.get("type")) in ("longrope", "dynamic")
    ]
    return min((int(length) for length in lengths if length), default=None)
