"""Variables of a chat template, given behind a model's name: ``owner/name,enable_thinking=false``."""

from __future__ import annotations

import json
import re
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from ripcurrent.errors import RipcurrentError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Value = bool | int | float | str


def split_variables(name: str) -> tuple[str, dict[str, Value]]:
    """A model's name as it is found by, and the template variables behind it; a file or folder so called has none.

    Raises:
        RipcurrentError: What stands behind a comma sets no variable.
    """
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
    """True, false or a number where it is written as one, else the text; None without any."""
    try:
        value = yaml.safe_load(text) if text else None
    except yaml.YAMLError:
        return text
    # a date is text to a template
    return text if isinstance(value, date) else value


def set_variables(tokenizer: PreTrainedTokenizerBase, variables: dict[str, Value], name: str) -> None:
    """Make them part of the tokenizer's template, so that its hash, and what is saved of it, has them too.

    Raises:
        RipcurrentError: There is no single template, or it has no such variable.
    """
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
