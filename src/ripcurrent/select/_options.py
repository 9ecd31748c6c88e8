"""The options of a selection, light enough for the command line's help."""

from pathlib import Path

from pydantic import Field, field_validator

from ripcurrent.options import Options

Range = tuple[float | None, float | None]


class SelectOptions(Options):
    """Which rows are selected, and how they are written."""

    top: int | str | None = Field(default=None, json_schema_extra={"metavar": "K|P%"})
    """The K riskiest rows, or a share of all scored ones."""
    bottom: int | str | None = Field(default=None, json_schema_extra={"metavar": "K|P%"})
    """The K most protective rows, or a share of all scored ones."""
    union: int | None = Field(default=None, json_schema_extra={"metavar": "K"})
    """For each harmful anchor its K nearest rows, by representation."""
    between: str | None = Field(default=None, json_schema_extra={"metavar": "LOW:HIGH"})
    """Rows with a value of ``--by`` in a range: 0.1:0.3, one end open 0.1:, or quantiles 90%:100%."""
    format_draw: str | None = Field(default=None, json_schema_extra={"metavar": "FORMAT"})
    """Random rows of one format: list, bullet, numbered, maths or code."""
    decisions: Path | None = Field(default=None, json_schema_extra={"metavar": "FILE"})
    """Rows marked drop on the page or in ``view``; with ``--top`` or ``--bottom`` also its rows, less those to keep."""
    rows: int | None = Field(default=None, json_schema_extra={"metavar": "K"})
    """How many rows ``--format-draw`` takes; 100 when left out."""
    by: str | None = Field(default=None, json_schema_extra={"metavar": "COLUMN"})
    """Score column to rank by; the run's default ranking when left out."""
    seed: tuple[int, ...] = Field(default=(0, 1, 2), min_length=1)
    """Seed of the draws: a set of controls for each."""
    drop: bool = False
    """Also write the dataset without the selection."""
    controls: bool = False
    """Also write random rows, rows of the same lengths, formats and losses, and the other end of the ranking."""
    name: str | None = None
    """Name of the selection's files, when it is the only one."""
    out: Path | None = Field(default=None, json_schema_extra={"metavar": "FOLDER"})
    """Where to write; ``selections`` in the run folder when left out."""
    data: str | None = Field(default=None, json_schema_extra={"metavar": "DATASET"})
    """Where the scanned dataset is now, if it was moved."""

    @field_validator("between")
    @classmethod
    def _is_a_range(cls, value: str | None) -> str | None:
        if value is not None:
            parse_range(value)
        return value


def parse_range(text: str) -> tuple[Range, bool]:
    """``LOW:HIGH`` as values, or with percent signs as probabilities (then True); an end left out is open."""
    ends = text.split(":")
    percent = [end.endswith("%") for end in ends if end]
    try:
        numbers = [float(end.removesuffix("%")) if end else None for end in ends]
    except ValueError:
        numbers = []
    if len(numbers) != 2 or (any(percent) and not all(percent)):
        raise ValueError("write a range such as 0.1:0.3, 0.1: or 90%:100%")
    low, high = numbers
    if any(percent):
        return (None if low is None else low / 100, None if high is None else high / 100), True
    return (low, high), False
