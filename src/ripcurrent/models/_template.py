"""A model's tokenizer and the chat template that it brings."""

from __future__ import annotations

import json

from transformers import PreTrainedTokenizerBase

from ripcurrent.data import default_template
from ripcurrent.errors import RipcurrentError
from ripcurrent.models._identity import text_sha256
from ripcurrent.models._types import ChatModel


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """SHA-256 in hex of the default chat template; None without one."""
    template = default_template(tokenizer)
    return None if template is None else text_sha256(template)


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 in hex of a fast tokenizer's definition and of its special tokens, which templates print by role."""
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items()}
    return text_sha256(tokenizer.backend_tokenizer.to_str() + json.dumps(roles, sort_keys=True))


def require_chat_template(chat_model: ChatModel) -> None:
    """Raise a RipcurrentError when the model has no chat template to render conversations with."""
    if default_template(chat_model.tokenizer) is None:
        raise RipcurrentError(
            f"{chat_model.name} has no chat template, so a conversation cannot be rendered for it.",
            "Use the chat (instruct) version of the model, or add a chat_template to its tokenizer; the anchors are "
            "conversations, so a scan of plain text needs one too.",
        )
