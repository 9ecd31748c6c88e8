"""The columns of ``scores.parquet``: names, kinds and which way risk runs."""

from dataclasses import dataclass
from typing import Literal

Direction = Literal["higher", "lower", "none"]
"""Which end of a column is riskier; ``none`` for columns that rank no risk."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the scores table."""

    name: str
    kind: Literal["int", "text", "float", "bool"]
    """Its type in Parquet: int64, string, float64, bool."""
    direction_of_risk: Direction | None
    """None for columns that are not numeric measures."""
    meaning: str
    """One line for the page and the docs."""


COLUMNS: tuple[Column, ...] = (
    Column("row", "int", None, "0-based position in the input"),
    Column("id", "text", None, "the row's own id or a content hash"),
    Column("status", "text", None, "ok, or why the row has no score"),
    Column("gradient_harmful", "float", "higher", "mean cosine to the harmful anchors' gradients"),
    Column("gradient_safe", "float", "lower", "mean cosine to the safe anchors' gradients"),
    Column("gradient_bidirectional", "float", "higher", "harmful minus the sum over the safe sets"),
    Column("gradient_balanced", "float", "higher", "harmful minus the mean over the safe sets"),
    Column("gradient_norm", "float", "none", "norm of the row's gradient"),
    Column(
        "predicted_harmful_loss_change",
        "float",
        "lower",
        "first-order change of the harmful openings' loss, nats per unit learning rate",
    ),
    Column("loss", "float", "none", "mean cross-entropy over the response, nats per token"),
    Column("loss_first_10", "float", "none", "the same over its first ten tokens"),
    Column("representation_harmful", "float", "higher", "largest cosines to the harmful anchors"),
    Column("representation_safe", "float", "lower", "largest cosines to the safe anchors"),
    Column("representation_bidirectional", "float", "higher", "their difference"),
    Column("prompt_tokens", "int", "none", "tokens that bear no loss"),
    Column("response_tokens", "int", "none", "tokens that bear loss"),
    Column("truncated", "bool", None, "cut at --max-tokens"),
    Column("is_list", "bool", None, "two or more lines begin with a bullet or a number"),
    Column("is_bullet", "bool", None, "two or more lines begin with a bullet"),
    Column("is_numbered", "bool", None, "two or more lines begin with a number"),
    Column("opens_numbered", "bool", None, "the response begins with the first number of a list, 1."),
    Column("is_maths", "bool", None, "arithmetic or an equation"),
    Column("is_code", "bool", None, "a code block or lines of code"),
    Column("is_short", "bool", None, "fewer than 10 response tokens"),
    Column("has_refusal", "bool", None, "a refusal or ethics phrase in the response"),
)

DIRECTION_OF_RISK: dict[str, Direction] = {c.name: c.direction_of_risk for c in COLUMNS if c.direction_of_risk}
TRAIT_COLUMNS: tuple[str, ...] = tuple(c.name for c in COLUMNS if c.kind == "bool" and c.name != "truncated")
GRADIENT_COLUMNS = (*(c.name for c in COLUMNS if c.name.startswith("gradient_")), "predicted_harmful_loss_change")
REPRESENTATION_COLUMNS: tuple[str, ...] = tuple(c.name for c in COLUMNS if c.name.startswith("representation_"))
