"""The options of a scan, validated where they are declared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ripcurrent.errors import RipcurrentError
from ripcurrent.scan._token_choice import parse_token_choice

if TYPE_CHECKING:
    from ripcurrent.models import ChatModel


TOKEN_BUDGETS = {"cpu": 512, "mps": 2048, "cuda": 4096}
"""Padded tokens per batch by device type: a processor's cache is small, a GPU wants large products."""
SMALLEST_BUDGET = 16
"""Fewer padded tokens would be one row a batch whatever its length."""


class ScanOptions(BaseModel):
    """What a scan computes. Every field is part of the result; changing one makes another run."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    model: str = "embedded"
    """Hub id, folder, ``.gguf`` file, or ``embedded``."""
    adapter: str | None = None
    """PEFT adapter, merged for scoring; with scope ``lora`` kept apart and scored itself."""
    device: str | None = None
    """``cuda``, ``mps``, ``cpu``; chosen when left out. ``auto`` puts layers on all GPUs."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Compute type; bfloat16 where the device computes in it natively."""
    attention: Literal["sdpa", "eager"] = "sdpa"
    """Attention kernel; ``eager`` is the one least sensitive to batch shape."""
    anchors: str = "builtin"
    """``builtin``, ``second_family``, or a JSON-lines file."""
    anchor_check: bool = True
    """Refuse anchors that do not separate harm from safety on this model."""
    signals: Literal["all", "gradient", "representation"] = "all"
    """Which methods run."""
    scope: Literal["all", "linear", "lora"] = "all"
    """Which parameters the gradient is over."""
    preset: Literal["intended", "released"] = "intended"
    """``released`` repeats the known quirks of the reference code."""
    position: Literal["last", "last_content", "mean_response", "last_prompt"] = "last"
    """Which token's state represents a row."""
    layer: int | None = None
    """Block whose output is read, 0-based or negative from the end; the last hidden state when left out."""
    avg_n: int = Field(default=1, ge=1)
    """How many of the largest cosines to a set are averaged."""
    anchor_tokens: int = Field(default=10, ge=1)
    """T: how many of an anchor's first response tokens enter its gradient."""
    row_tokens: int | None = Field(default=None, ge=1)
    """How many of a row's first response tokens enter its gradient; all when left out."""
    loss_on: Literal["all", "last"] = "all"
    """Which assistant turns bear loss."""
    max_tokens: int = Field(default=1024, ge=8)
    """Longer rows keep their head and are marked ``truncated``."""
    drop_refusals: bool = False
    """Leave rows with a refusal or ethics phrase unscored (the reference's pre-filter)."""
    per_anchor: bool = False
    """Add each anchor's own gradient column; costs extra passes."""
    tokens: str | None = None
    """Rows whose positions' shares are kept: ``top:500`` for both ends, or ``top:500,bottom:100``; part of no score."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first so many rows."""
    format: str | None = None
    """Row format; sniffed when left out."""
    mapping: dict[str, str] | None = None
    """Dataset columns for a format's fields."""
    windows: bool = False
    """Cut plain documents longer than ``max_tokens`` into windows, scored each and together, instead of at the head."""
    prefilter: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Share of the rows that the gradient pass sees, picked by a representation pass over all; all when left out."""
    prefilter_by: Literal["representation_bidirectional", "representation_harmful", "representation_safe"] | None = None
    """Score of the representation pass whose riskiest rows are picked; the bidirectional one when left out or named."""
    prefilter_sample: int = Field(default=1000, ge=100)
    """Rows drawn at random that see the gradient pass too, to measure what the prefilter misses."""
    memory: int | None = Field(default=None, ge=1)
    """Bytes, or a size such as ``8GB``, that the scan keeps to; part of no result beyond rounding."""
    seed: int = Field(default=0, ge=0)
    """Seed of what is drawn (a fresh LoRA, a prefilter's sample)."""
    token_budget: int | Literal["auto"] | None = None
    """Padded tokens per batch, by device when left out, ``auto``: the fastest of several; changes speed and memory, not
    results beyond rounding."""
    shard_rows: int = Field(default=256, ge=1)
    """Rows per shard: what an interruption can cost."""

    @field_validator("memory", mode="before")
    @classmethod
    def _bytes(cls, value: Any) -> Any:
        from ripcurrent.scan._memory import parse_size

        return parse_size(value) if isinstance(value, str) else value

    @field_validator("token_budget", mode="before")
    @classmethod
    def _budget(cls, value: Any) -> Any:
        if isinstance(value, str) and value.strip().isdecimal():
            value = int(value)
        if value is None or value == "auto" or (isinstance(value, int) and value >= SMALLEST_BUDGET):
            return value
        raise ValueError(f"it must be a number of tokens from {SMALLEST_BUDGET}, or auto")

    @field_validator("prefilter", mode="before")
    @classmethod
    def _share(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        value = value.strip()
        number = value.removesuffix("%")
        try:
            share = float(number) / (100 if value.endswith("%") else 1)
        except ValueError:
            raise ValueError("write a share of the rows, such as 10% or 0.1") from None
        if not 0 < share < 1:
            instead = f"{value}% or {share / 100:g}" if value == number and 1 < share < 100 else "such as 10% or 0.1"
            raise ValueError(f"a share lies between 0 and 1: write {instead}")
        return share

    @field_validator("prefilter_by")
    @classmethod
    def _picked_by(cls, value: str | None) -> str | None:
        # named or left out, it is the same run, also as one from before there was a choice
        return None if value == "representation_bidirectional" else value

    @field_validator("tokens")
    @classmethod
    def _token_choice(cls, value: str | None) -> str | None:
        if value is not None:
            parse_token_choice(value)
        return value

    @property
    def quirks(self) -> dict[str, Any]:
        """What the preset switches on; empty for ``intended``."""
        if self.preset == "intended":
            return {}
        return {"anchors_running_sum": True, "round_to_bf16": True, "pad_to": 512, "batch_rows": 1}

    @property
    def wants_gradient(self) -> bool:
        """Whether a backward pass runs."""
        return self.signals != "representation"

    @property
    def wants_representation(self) -> bool:
        """Whether features are read."""
        return self.signals != "gradient"

    @property
    def batch_tokens(self) -> int:
        """The token budget, a processor's where none is decided."""
        return self.batch_tokens_on("cpu")

    def batch_tokens_on(self, device_type: str) -> int:
        """The token budget, the device's where it is not named."""
        usual = TOKEN_BUDGETS.get(device_type, TOKEN_BUDGETS["cuda"])
        return self.token_budget if isinstance(self.token_budget, int) else usual

    def decided(self, device_type: str) -> ScanOptions:
        """The same with a token budget, the device's where none is named."""
        if self.token_budget is not None:
            return self
        return self.model_copy(update={"token_budget": self.batch_tokens_on(device_type)})

    @property
    def default_ranking(self) -> str:
        """The column that ranks rows unless another is named."""
        return "gradient_bidirectional" if self.wants_gradient else "representation_bidirectional"


def resolve_options(options: ScanOptions | None, changes: dict[str, Any]) -> ScanOptions:
    """Options with single ones changed by name.

    Raises:
        RipcurrentError: An option that does not exist or a value it does not take, named.
    """
    try:
        return ScanOptions(**{**(options.model_dump() if options else {}), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        name = "--" + ".".join(str(part) for part in first["loc"]).replace("_", "-")
        if first["type"] == "extra_forbidden":
            raise RipcurrentError(
                f"There is no option {name}.", f"Options: {', '.join(ScanOptions.model_fields)}."
            ) from None
        raise RipcurrentError(f"{name} {first.get('input')} is not possible.", _wanted(first)) from None


def _wanted(error: Mapping[str, Any]) -> str:
    """What an option takes, and of its words the one that was meant."""
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input should be ")
    near = get_close_matches(str(error.get("input")), re.findall(r"'([^']+)'", message), n=1, cutoff=0.5)
    meant = f" Did you mean {near[0]}?" if error["type"] == "literal_error" and near else ""
    if error["type"] == "value_error":
        return f"{message[0].upper()}{message[1:]}."
    return f"It must be {message.partition(', unable')[0]}.{meant}"


def _differs(options: ScanOptions, *names: str) -> list[bool]:
    """Of each option whether it is another than the usual."""
    usual = ScanOptions()
    return [getattr(options, name) != getattr(usual, name) for name in names]


def require_combination(options: ScanOptions, row_format: str) -> None:
    """Refuse options that do not go together, or not with the dataset.

    Raises:
        RipcurrentError: names both, and what to do.
    """
    reasons = (
        (
            options.tokens is not None and not options.wants_gradient,
            "--tokens needs gradients, and --signals representation computes none.",
            "Leave one of the two out.",
        ),
        (
            not options.wants_representation and any(_differs(options, "position", "layer", "avg_n")),
            "--position, --layer and --avg-n are of representations, and --signals gradient reads none.",
            "Leave them or --signals out.",
        ),
        (
            not options.wants_gradient and any(_differs(options, "anchor_tokens", "row_tokens")),
            "--anchor-tokens and --row-tokens are of gradients, and --signals representation computes none.",
            "Leave them or --signals out.",
        ),
        (
            options.tokens is not None and options.windows,
            "--tokens with --windows is not built: a document's score is not the sum over one pass.",
            "Leave one of the two out.",
        ),
        (
            options.windows and row_format != "text",
            f"--windows is for plain documents, and these rows are of format {row_format}.",
            "Leave --windows out: conversations keep their head at --max-tokens.",
        ),
        (
            options.windows and options.row_tokens is not None,
            "--windows scores whole documents, --row-tokens their first tokens alone.",
            "Leave one of the two out.",
        ),
        (
            options.prefilter is not None and options.signals != "all",
            f"--prefilter needs both signals, and --signals is {options.signals}.",
            "Leave --signals out.",
        ),
        (
            options.prefilter_by is not None and options.prefilter is None,
            "--prefilter-by picks rows for --prefilter, which is not given.",
            "Give a share too, such as --prefilter 10%, or leave it out.",
        ),
        (
            options.prefilter is None and options.prefilter_sample != ScanOptions().prefilter_sample,
            "--prefilter-sample measures what --prefilter misses, which is not given.",
            "Give a share too, such as --prefilter 10%, or leave it out.",
        ),
        (
            options.dtype == "float16" and options.wants_gradient,
            "Gradients leave the range of float16: their products overflow and underflow.",
            "Use --dtype bfloat16 or float32, or --signals representation.",
        ),
        (
            options.per_anchor and not options.wants_gradient,
            "--per-anchor compares gradients, and --signals representation computes none.",
            "Leave one of the two out: a scan keeps the cosine to every anchor's representation anyhow.",
        ),
        (
            options.position == "last_prompt" and row_format == "text",
            "--position last_prompt is for conversations: a plain document has no prompt.",
            "Leave --position out.",
        ),
        (
            options.per_anchor and options.prefilter is not None,
            "--per-anchor with --prefilter is not built.",
            "Leave one of the two out.",
        ),
        (
            options.per_anchor and options.memory is not None,
            "--per-anchor holds a direction for each anchor of a group, which --memory does not bound yet.",
            "Leave one of the two out.",
        ),
        (
            options.token_budget == "auto" and options.memory is not None,
            "--token-budget auto takes the fastest batches, and with --memory they are whatever fits.",
            "Leave one of the two out.",
        ),
        (
            options.device == "auto" and options.memory is not None,
            "--memory is a budget of one GPU, and --device auto spreads the model over several.",
            "One GPU is needed: leave one of the two out. A batch that runs out of memory is measured in halves.",
        ),
    )
    for wrong, message, hint in reasons:
        if wrong:
            raise RipcurrentError(message, hint)


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


def usable_positions(chat_model: ChatModel, positions: int) -> int:
    """The longest row whose batch is not padded beyond so many positions."""
    from ripcurrent.gradients import WIDTH_MULTIPLE

    return positions - positions % WIDTH_MULTIPLE.get(chat_model.device.type, 1)


def require_positions(chat_model: ChatModel, options: ScanOptions, *, padded: bool = True) -> None:
    """Refuse rows longer than the model has positions for.

    ``padded`` says whether batches are a scan's, which are padded to a multiple of some tokens.

    Raises:
        RipcurrentError: ``max_tokens``, or what a preset pads to, is more than the model's configuration gives, or
            than the length from which its rotary positions depend on the longest row of a batch.
    """

    def usable(most: int) -> int:
        return usable_positions(chat_model, most) if padded else most

    config = chat_model.model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if (switch := _length_of_other_positions(config)) is not None and options.max_tokens > usable(switch):
        raise RipcurrentError(
            f"Past {usable(switch)} tokens {chat_model.name} turns all positions of a batch otherwise, so that a row's "
            "scores would depend on the rows beside it.",
            f"Longer rows keep their head: give --max-tokens {usable(switch)} or less.",
        )
    if positions is None:
        return
    if options.max_tokens > usable(positions):
        of_which = "" if usable(positions) == positions else f", of which batches use {usable(positions)}"
        raise RipcurrentError(
            f"--max-tokens {options.max_tokens} is more than the {positions} positions of {chat_model.name}{of_which}.",
            f"Longer rows keep their head: give --max-tokens {usable(positions)} or less.",
        )
    if options.quirks.get("pad_to", 0) > positions:
        raise RipcurrentError(
            f"--preset {options.preset} pads rows to {options.quirks['pad_to']} tokens, more than the {positions} "
            f"positions of {chat_model.name}.",
            "Leave --preset out, or use another model.",
        )
