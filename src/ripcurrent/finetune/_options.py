"""The options of fine-tuning."""

from typing import Literal

from pydantic import Field

from ripcurrent.options import Options


class FinetuneOptions(Options):
    """What is trained on what. Every field is part of the result; changing one makes another run."""

    model: str = "embedded"
    """Hub id, folder, .gguf file, or embedded; M,enable_thinking=false sets a variable of its chat template."""
    adapter: str | None = None
    """PEFT adapter, merged before training."""
    device: str | None = None
    """cuda, mps or cpu; chosen when left out."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Type of the products; the recipe's when left out."""
    loss_on: Literal["all", "last"] = "all"
    """Which assistant turns bear loss."""
    max_tokens: int = Field(default=1024, ge=8)
    """Truncate rows to N tokens."""
    limit: int | None = Field(default=None, ge=1)
    """Read only the first N rows."""
    format: str | None = None
    """Row format; recognised when left out."""
    mapping: dict[str, str] | None = Field(default=None, json_schema_extra={"flag": "--map"})
    """The dataset's column for a field of the format."""
    seed: int = Field(default=0, ge=0)
    """Seed of the rows' order, a fresh LoRA and dropout."""
