"""A tokenizer's chat template, its hash, and variables given behind a model's name: ``NAME,enable_thinking=false``."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ripcurrent.data import default_template
from ripcurrent.errors import RipcurrentError
from ripcurrent.models._identity import text_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ripcurrent.models._types import ChatModel

Value = bool | int | float | str


def split_variables(name: str) -> tuple[str, dict[str, Value]]:
    """A model's name as it is found by, and the template variables behind it; a file or folder so called has none."""
    bare, *settings = name.split(",")
    if not any("=" in one for one in settings) or Path(name).expanduser().exists():
        return name, {}
    variables = {}
    for one in settings:
        key, sign, text = (part.strip() for part in one.partition("="))
        value = _value(text)
        if not sign or not key.isidentifier() or not isinstance(value, Value):
            raise RipcurrentError(
                f"{one!r} in {name} sets no variable of a chat template.",
                f"Write it as in {bare},enable_thinking=false",
            )
        variables[key] = value
    return bare, variables


def _value(text: str) -> Any:
    """True, false or a number where it is written as one, else the text; a date is text to a template."""
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return text
    return text if isinstance(value, date) else value


def set_variables(tokenizer: PreTrainedTokenizerBase, variables: dict[str, Value], name: str) -> None:
    """Make them part of the tokenizer's template, so that its hash, and what is saved of it, has them too."""
    if not variables:
        return
    template = tokenizer.chat_template
    if not isinstance(template, str):
        raise RipcurrentError(
            f"{name} has {'several chat templates' if template else 'no chat template'}: no variable of it can be set.",
            "Leave what stands behind the comma out.",
        )
    for key in variables:
        if not re.search(rf"\b{key}\b", template):
            raise RipcurrentError(
                f"The chat template of {name} has no variable {key}.",
                "See the model's card for what its template takes, such as enable_thinking.",
            )
    lines = [f"{{% set {key} = {json.dumps(value, ensure_ascii=False)} %}}" for key, value in variables.items()]
    # a template that was saved with a variable sets it at its beginning
    for key in variables:
        template = re.sub(rf"\A((?:\{{% set \w+ = [^\n]*? %\}})*?)\{{% set {key} = [^\n]*? %\}}", r"\1", template)
    tokenizer.chat_template = "".join(lines) + template


def template_sha256(tokenizer: PreTrainedTokenizerBase) -> str | None:
    template = default_template(tokenizer)
    return None if template is None else text_sha256(template)


def tokenizer_sha256(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 in hex of a fast tokenizer's definition and of its special tokens, which templates print by role."""
    roles = {role: str(token) for role, token in tokenizer.special_tokens_map.items()}
    return text_sha256(tokenizer.backend_tokenizer.to_str() + json.dumps(roles, sort_keys=True))


def require_chat_template(chat_model: ChatModel) -> None:
    if default_template(chat_model.tokenizer) is None:
        raise RipcurrentError(
            f"{chat_model.name} has no chat template, so a conversation cannot be rendered for it.",
            "Use the chat (instruct) version of the model, or add a chat_template to its tokenizer; the anchors are "
            "conversations, so a scan of plain text needs one too.",
        )
