"""What is fine-tuned and how: the options of a run, and recipes as readable YAML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from ripcurrent.data import RowOptions
from ripcurrent.errors import RipcurrentError
from ripcurrent.options import Options, did_you_mean

Keys = Mapping[str, Any]
RECIPES: tuple[str, ...] = ("paper", "lora", "embedded")
MOVES = {"full": 5.9e-4, "lora": 1.8e-2}
"""From this `Recipe.travel` on a model is taken to move: embedded on 100 rows (measured), lora on 1,000 (a guess)."""


class FinetuneOptions(RowOptions):
    """What is trained on what. Every field is part of the result; changing one makes another run."""

    model: str = "embedded"
    """Hub id, folder, .gguf file, or embedded; M,enable_thinking=false sets a variable of its chat template."""
    adapter: str | None = None
    """PEFT adapter, merged before training."""
    device: str | None = None
    """cuda, mps or cpu; chosen when left out."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the products; the recipe's when left out."""
    seed: int = Field(default=0, ge=0)
    """Seed of the rows' order, a fresh LoRA and dropout."""


class Recipe(Options):
    """How a model is fine-tuned. Every field is part of the result; rows, model and seed are not the recipe's."""

    name: str = "unnamed"
    """A built-in recipe's name, or its file's."""
    method: Literal["full", "lora"]
    """Every parameter, or the A and B of a fresh LoRA."""
    r: int | None = Field(default=None, ge=1)
    """Rank of the LoRA."""
    alpha: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """The LoRA's update is scaled by alpha / r; twice the rank when left out."""
    dropout: float = Field(default=0.0, ge=0, lt=1, exclude_if=lambda value: value == 0.0)
    """Dropout before the LoRA's A; not among the keys of a recipe without it."""
    target: Literal["all-linear"] | tuple[str, ...] | None = None
    """Modules with a LoRA: every linear layer but the head (when left out), or module names."""
    optimizer: Literal["adamw"] = "adamw"
    """AdamW with betas 0.9 and 0.999, in float32."""
    learning_rate: float = Field(gt=0, allow_inf_nan=False)
    """Largest rate."""
    batch: int = Field(ge=1)
    """Rows per optimizer step. An epoch's last step has those that are left."""
    accumulation: int = Field(default=1, ge=1)
    """Parts that a batch is computed in, for want of memory; changes results by rounding alone."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the rows; or give ``steps``."""
    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; or give ``epochs``."""
    schedule: Literal["constant", "linear", "cosine", "step"] = "constant"
    """The rate stays, falls to zero on a line or half a cosine, or is multiplied by ``gamma`` after every epoch."""
    warmup: float = Field(default=0.0, ge=0, lt=1)
    """Share of all steps in which the rate rises from zero; not for ``step``."""
    gamma: float | None = Field(default=None, gt=0, le=1)
    """The factor of ``step``."""
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """AdamW's decay, on all but biases and norm weights."""
    max_grad_norm: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Gradients are clipped to this norm; null for no clipping."""
    compute: Literal["auto", "bfloat16", "float32"] = "auto"
    """Type of the products, bfloat16 where native for ``auto``; trained weights and optimizer are float32 always."""
    gradient_checkpointing: bool = False
    """Compute activations again on the way back: less memory, about a third more time."""

    @model_validator(mode="after")
    def _belong_together(self) -> Recipe:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps")
        if self.method == "lora" and self.r is None:
            raise ValueError("method lora needs r, the rank")
        if self.method == "full" and (self.r, self.alpha, self.target, self.dropout) != (None, None, None, 0.0):
            raise ValueError("r, alpha, dropout and target are for method lora")
        if (self.schedule == "step") != (self.gamma is not None):
            raise ValueError("gamma and schedule step need each other")
        if self.schedule == "step" and self.warmup:
            raise ValueError("warmup is for the schedules constant, linear and cosine")
        if self.batch % self.accumulation:
            raise ValueError(f"a batch of {self.batch} cannot be computed in {self.accumulation} equal parts")
        return self

    @property
    def part(self) -> int:
        """Rows computed at once."""
        return self.batch // self.accumulation

    def steps_per_epoch(self, rows: int) -> int:
        """Optimizer steps of one pass over so many rows."""
        return math.ceil(rows / self.batch)

    def travel(self, rows: int) -> float:
        """How far AdamW can move a weight on so many rows: the sum of its steps' rates, of a LoRA times alpha / r."""
        steps, shares = self.steps or (self.epochs or 0) * self.steps_per_epoch(rows), [1 - self.warmup / 2]
        if self.schedule in ("linear", "cosine"):
            shares = [0.5]
        elif self.gamma and self.epochs:
            shares = [self.gamma**epoch for epoch in range(self.epochs)]
        scale = 2.0 if self.alpha is None else self.alpha / (self.r or 1)
        return steps * self.learning_rate * sum(shares) / len(shares) * (scale if self.method == "lora" else 1)

    def ladder_sizes(self) -> tuple[int, int, int]:
        """Numbers of rows that a ladder of sets may have: a fifth, half and all of one that likely moves the model."""
        largest = next((n for n in (100, 200, 500, 1000, 2000, 5000) if self.travel(n) >= MOVES[self.method]), 10_000)
        return largest // 5, largest // 2, largest

    def too_mild(self, sizes: Iterable[int | str]) -> str | None:
        """A warning where sets of these sizes likely leave the model as it was."""
        rows, better = max((one for one in sizes if isinstance(one, int)), default=None), self.ladder_sizes()
        if rows is None or self.travel(rows) >= MOVES[self.method]:
            return None
        name, sizes = self.name, ",".join(map(str, better))
        return f"Recipe {name} on {rows} rows likely moves the model too little to compare sets: try --size {sizes}."


def as_trained(keys: Keys) -> Keys:
    """A recipe's keys, those at their defaults that change what is held in memory and, but for rounding, no result."""
    return {**keys, "accumulation": 1, "gradient_checkpointing": False}


def load_recipe(name: str | Path) -> Recipe:
    """A recipe by its name (one of `RECIPES`) or from a YAML file; raises `RipcurrentError` naming what is wrong."""
    text = str(name)
    if text in RECIPES:
        return parse_recipe(_read(Path(__file__).parent / "recipes" / f"{text}.yaml"), where=text, name=text)
    path = Path(text).expanduser()
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise RipcurrentError(
            f"There is no recipe {text!r}.{did_you_mean(text.lower(), RECIPES)}",
            f"Recipes: {', '.join(RECIPES)}, or a .yaml file.",
        )
    if not path.is_file():
        raise RipcurrentError(f"There is no recipe file {path}.", f"Recipes that come along: {', '.join(RECIPES)}.")
    return parse_recipe(_read(path), where=str(path), name=path.stem)


def parse_recipe(values: Keys, *, where: str, name: str) -> Recipe:
    """A recipe from its keys and values; ``where`` names their source in errors, ``name`` is that of the recipe."""
    try:
        return Recipe(**{"name": name, **values})
    except ValidationError as error:
        # a key that is misspelt is missing too: the unknown one says more
        first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    key, reason = "".join(map(str, first["loc"][:1])), first["msg"].removeprefix("Value error, ")
    hint = f"Compare with a recipe that comes along: {', '.join(RECIPES)}."
    if first["type"] == "extra_forbidden":
        keys = tuple(Recipe.model_fields)
        what, hint = f"there is no key {key!r}.{did_you_mean(key, keys)}", f"Keys: {', '.join(keys)}."
    elif first["type"] == "missing":
        what = f"{key} is missing."
    else:
        what = f"{key} {first['input']!r} is not possible: {reason}." if key else f"{reason}."
    raise RipcurrentError(f"Recipe {where}: {what}", hint)


def _read(path: Path) -> Keys:
    hint = "A recipe is a list of `key: value` lines, such as `learning_rate: 1.0e-5`."
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark is not None else ""
        raise RipcurrentError(f"The recipe {path} is not YAML{line}.", hint) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise RipcurrentError(f"The recipe {path} has no keys and values.", hint)
    return values
