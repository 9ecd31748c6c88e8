"""How a ladder's runs were trained, asked and judged, and in what that differs from a calibration's."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ripcurrent.finetune import as_trained
from ripcurrent.forecast._calibration import Calibration, JudgedBy, NamedHash


@dataclass(frozen=True, slots=True)
class Conditions:
    """What every run of a ladder has in common."""

    recipe: dict[str, Any]
    """The recipe, its name included."""
    finetune: dict[str, Any]
    """``max_tokens`` and ``loss_on`` of fine-tuning."""
    prompts: NamedHash
    """The harmful requests."""
    system: str | None
    """Their system prompt."""
    max_new_tokens: int
    """Longest answer."""
    judge: JudgedBy
    """Who judged."""


def differences(own: Conditions, made: Calibration) -> Iterator[tuple[str, Any, Any]]:
    """What differs in asking, judging and cutting rows: its name, the calibration's value, and one's own."""
    for what, then, here in (
        ("system prompt", made.system, own.system),
        ("longest answer", made.max_new_tokens, own.max_new_tokens),
        ("judge", f"{made.judge.name} {made.judge.version}", f"{own.judge.name} {own.judge.version}"),
        ("max_tokens", made.finetune.get("max_tokens"), own.finetune.get("max_tokens")),
        ("loss_on", made.finetune.get("loss_on"), own.finetune.get("loss_on")),
    ):
        if then != here:
            yield what, then, here


def harmful_sha256(prompts: Sequence[str]) -> str:
    """Hash of harmful requests, by which a calibration knows its own."""
    return hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()


def recipe_sha256(recipe: Mapping[str, Any]) -> str:
    """A recipe's hash; neither its name counts nor what changes memory alone."""
    kept = {key: value for key, value in as_trained(recipe).items() if key != "name"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()
