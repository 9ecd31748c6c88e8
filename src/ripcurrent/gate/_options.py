"""The options of a gate."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ripcurrent.evaluate import as_share
from ripcurrent.scan import ScanOptions


class GateOptions(ScanOptions):
    """How rows are scored, which score is compared, and what counts as worse."""

    by: str | None = Field(default=None, json_schema_extra={"metavar": "COLUMN"})
    """Score that is compared; the scan's own ranking unless named."""
    alpha: Annotated[float, BeforeValidator(as_share)] = Field(default=0.05, ge=0.001, le=0.5)
    """Most false alarms."""
    must_see: Annotated[float, BeforeValidator(as_share)] = Field(default=0.2, gt=0, le=1)
    """For ok, so large a share from the riskiest tenth of comparable rows would be found at 80 % power."""
    level: Literal["scores", "check"] = "scores"
    """check trains the added rows by --recipe instead, and asks the model before and after."""
    recipe: str | None = None
    """Recipe that rows are trained with: paper, lora, embedded, or a YAML file."""
    runs: int = Field(default=1, ge=1)
    """Trainings of the rows, each in another order."""
    prompts: tuple[str, ...] = ("builtin",)
    """``builtin``, ``builtin:AXIS``, a file or ``hf:owner/name``."""
