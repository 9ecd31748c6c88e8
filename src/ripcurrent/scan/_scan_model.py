"""The model of a scan's options, loaded the same way by every command that scores with it."""

from __future__ import annotations

from typing import Any

from ripcurrent.models import WEIGHTS_SHARE, WEIGHTS_SHARE_WITH_DIRECTIONS, ChatModel, load_model, require_chat_template
from ripcurrent.scan._options import ScanOptions, require_positions


def model_options(options: ScanOptions) -> dict[str, Any]:
    """The arguments of :func:`ripcurrent.load_model` that a scan uses."""
    names = ("adapter", "device", "dtype", "scope", "attention", "seed")
    return {"name": options.model, **{name: getattr(options, name) for name in names}}


def load_scan_model(options: ScanOptions, *, for_rows: bool = True) -> ChatModel:
    """The model to score with, or without ``for_rows`` only to look at.

    Raises:
        RipcurrentError: it cannot be loaded, has no chat template, or for rows fewer positions than ``max_tokens``.
    """
    share = WEIGHTS_SHARE_WITH_DIRECTIONS if options.wants_gradient else WEIGHTS_SHARE
    chat_model = load_model(**model_options(options), weights_share=share)
    require_chat_template(chat_model)
    if for_rows:
        require_positions(chat_model, options)
    return chat_model
