"""The options of a scan, validated where they are declared."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ByteSize, Field, ValidationError, ValidatorFunctionWrapHandler, field_validator

from ripcurrent.data import RowOptions
from ripcurrent.errors import RipcurrentError
from ripcurrent.options import Options

TOKEN_BUDGETS = {"cpu": 512, "mps": 2048, "cuda": 4096}
"""Padded tokens per batch by device type: a CPU's cache is small, a GPU wants large products."""


class ScanOptions(RowOptions):
    """What a scan computes. Every field is part of the result; changing one makes another run."""

    model: str = Field(default="embedded", json_schema_extra={"metavar": "M"})
    """Hub id, folder, .gguf file, or embedded; M,enable_thinking=false sets a variable of its chat template."""
    adapter: str | None = Field(default=None, json_schema_extra={"metavar": "A"})
    """PEFT adapter: folder or hub id. Merged for scoring; --scope lora takes gradients over it instead."""
    device: str | None = None
    """cuda, mps or cpu; the best one there is unless named."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Compute type; bfloat16 where the device computes in it natively."""
    anchors: str = Field(default="builtin", json_schema_extra={"metavar": "FILE"})
    """builtin, second_family, or a JSON-lines file."""
    anchor_check: bool = Field(
        default=True, json_schema_extra={"off": "Go on with anchors that do not separate harm from safety."}
    )
    """Refuse anchors that do not separate harm from safety on this model."""
    signals: Literal["all", "gradient", "representation"] = "all"
    """Which methods run."""
    scope: Literal["all", "linear", "lora"] = "all"
    """Parameters that gradients are taken over."""
    avg_n: int = Field(default=1, ge=1)
    """Number of largest cosines to a set that are averaged."""
    anchor_tokens: int = Field(default=10, ge=1, json_schema_extra={"metavar": "T"})
    """First tokens of an anchor's response that enter its gradient."""
    row_tokens: int | None = Field(default=None, ge=1)
    """First tokens of a row's response that enter its gradient; all unless named."""
    drop_refusals: bool = False
    """Leave rows with a refusal phrase unscored."""
    tokens: str | None = Field(default=None, json_schema_extra={"metavar": "top:N"})
    """Show which tokens carry the score, for the N riskiest and the N most protective rows."""
    memory: ByteSize | None = Field(default=None, ge=1, json_schema_extra={"metavar": "SIZE"})
    """Most memory to use, such as 8GB; on CUDA the GPU's."""
    token_budget: int | None = Field(default=None, ge=16)
    """Padded tokens per batch: 512 on a CPU, 2048 on MPS, 4096 on CUDA unless named."""
    shard_rows: int = Field(default=256, ge=1)
    """Rows per shard on disk: what an interruption can cost."""
    seed: int = Field(default=0, ge=0)
    """Seed of a fresh LoRA."""

    @field_validator("memory", mode="wrap")
    @classmethod
    def _bytes(cls, value: object, parse: ValidatorFunctionWrapHandler) -> object:
        try:
            found = parse(value)
        except ValidationError:
            found = 0
        # a text without its unit, such as 8, would be a few bytes
        if found is not None and found < (10**6 if isinstance(value, str) else 1):
            raise ValueError("write a size such as 8GB, 500MB or 6GiB")
        return found

    @field_validator("tokens")
    @classmethod
    def _names_rows(cls, value: str | None) -> str | None:
        if value is not None:
            parse_token_choice(value)
        return value

    @property
    def wants_gradient(self) -> bool:
        """Whether a backward pass runs."""
        return self.signals != "representation"

    @property
    def wants_representation(self) -> bool:
        """Whether features are read."""
        return self.signals != "gradient"

    @property
    def default_ranking(self) -> str:
        """The column that ranks rows unless another is named."""
        return "gradient_bidirectional" if self.wants_gradient else "representation_bidirectional"

    @property
    def batch_tokens(self) -> int:
        """The token budget; a CPU's where none is decided."""
        return self.token_budget or TOKEN_BUDGETS["cpu"]

    def decided(self, device_type: str) -> ScanOptions:
        """The same with the token budget of a device, unless one is named."""
        budget = self.token_budget or TOKEN_BUDGETS.get(device_type, TOKEN_BUDGETS["cuda"])
        return self.model_copy(update={"token_budget": budget})


class Execution(Options):
    """Who computes a scan. Not part of the result: another choice goes on in the same run folder."""

    executor: Literal["local", "ray"] = "local"
    """This process, or Ray's workers, here or on a cluster."""
    workers: int | None = Field(default=None, ge=1)
    """Ray's worker processes; one for each GPU, or one for each machine, when left out."""
    ray_address: str | None = None
    """A running Ray cluster, or auto; a Ray of this machine when left out."""


def parse_token_choice(text: str) -> tuple[int, int]:
    """Number of rows at the riskiest and at the protective end; ``top:500`` is 500 of each, ``bottom:100`` one end."""
    entries = [re.fullmatch(r"(top|bottom):(\d{1,9})", entry.strip()) for entry in text.split(",")]
    counts = {entry[1]: int(entry[2]) for entry in entries if entry is not None}
    if None in entries or len(counts) < len(entries) or not any(counts.values()):
        raise RipcurrentError(
            f"--tokens {text!r} names no rows.",
            "Write top:500 for the 500 riskiest and the 500 most protective rows, top:500,bottom:100 for each its own "
            "number, or bottom:100 for the protective ones alone.",
        )
    top = counts.get("top", 0)
    return top, counts.get("bottom", top)


def require_combination(
    options: ScanOptions, row_format: str, *, in_part: bool = False, execution: Execution | None = None
) -> None:
    """Refuse options that do not go together, or not with the dataset or with who computes."""
    usual, execution = ScanOptions(), execution or Execution()
    on_ray, how = execution.executor == "ray", "--shard" if in_part else "--executor ray"
    tokens, capped = options.tokens is not None, options.memory is not None
    changed = {name for name in ScanOptions.model_fields if getattr(options, name) != getattr(usual, name)}
    one = "Leave one of the two out."
    forbidden = (
        (not options.wants_representation and "avg_n" in changed, "--avg-n works only with representations.", one),
        (
            not options.wants_gradient and changed & {"anchor_tokens", "row_tokens", "tokens"},
            "--anchor-tokens, --row-tokens and --tokens are of gradients, and --signals representation computes none.",
            "Leave them or --signals out.",
        ),
        (
            options.dtype == "float16" and options.wants_gradient,
            "Gradients leave the range of float16: their products overflow and underflow.",
            "Use --dtype bfloat16 or float32, or --signals representation.",
        ),
        (
            capped and on_ray,
            "--memory does not go with --executor ray: it is measured in the process that keeps to it.",
            "Use --shard, or leave it out and name a smaller --token-budget if a worker has too little memory.",
        ),
        (
            tokens and (in_part or on_ray),
            f"--tokens does not go with {how}: it needs one process to see all rows.",
            f"Leave it out, and give the whole scan again with --tokens, without {how}, at the end.",
        ),
        (
            not on_ray and (execution.workers or execution.ray_address),
            f"{'--workers' if execution.workers else '--ray-address'} is an option of --executor ray.",
            "Add --executor ray, or leave it out.",
        ),
    )
    for wrong, message, hint in forbidden:
        if wrong:
            raise RipcurrentError(message, hint)
