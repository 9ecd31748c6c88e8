"""The options of what is read and trained, which verbs that take a dataset share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import BeforeValidator, Field, field_validator, model_validator

from ripcurrent.data._spec import RowSpec
from ripcurrent.options import Options

if TYPE_CHECKING:
    from ripcurrent.data._read import Dataset
    from ripcurrent.data._trained_tokens import TrainedTokens


class TokenOptions(Options):
    """How rows are read, and which of their tokens bear loss."""

    trainer: str = Field(default="completion", json_schema_extra={"metavar": "NAME[,OPTION=VALUE]"})
    """Trainer whose tokens bear loss (trl, unsloth, axolotl, llamafactory, swift, torchtune, openai), or its YAML."""
    max_tokens: int = Field(default=1024, ge=8)
    """Truncate rows to N tokens; such rows are marked."""
    format: str | None = None
    """Row format, when it is not recognised."""
    mapping: dict[str, str] | None = Field(default=None, json_schema_extra={"flag": "--map"})
    """Column that holds a field of the format."""
    spec: Annotated[RowSpec | None, BeforeValidator(RowSpec.read)] = Field(
        default=None, json_schema_extra={"metavar": "FILE"}
    )
    """How records in no known format are read."""

    @model_validator(mode="before")
    @classmethod
    def _reads_config(cls, given: dict[str, object]) -> dict[str, object]:
        """A trainer's own file says how long rows are, too."""
        from ripcurrent.data._trained_tokens import is_training_file, read_training_file

        if not is_training_file(named := str(given.get("trainer", ""))):
            return given
        policy, longest = read_training_file(Path(named))
        return {"max_tokens": longest, **given, "trainer": str(policy)}

    @field_validator("trainer")
    @classmethod
    def _names_trainer(cls, value: str) -> str:
        from ripcurrent.data._trained_tokens import trained_tokens

        return str(trained_tokens(value))

    @property
    def trained(self) -> TrainedTokens:
        """Which tokens of a row bear loss."""
        from ripcurrent.data._trained_tokens import trained_tokens

        return trained_tokens(self.trainer)


class RowOptions(TokenOptions):
    """Which rows are read, and which of their tokens bear loss."""

    limit: int | None = Field(default=None, ge=1)
    """Read only the first N rows."""

    def open(self, dataset: str | Path) -> Dataset:
        """The rows; those in no format of ours are read for a trainer that is named."""
        from ripcurrent.data._read import read_rows

        other = not self.trainer.startswith("completion")
        return read_rows(dataset, self.format, self.mapping, self.spec, limit=self.limit, any_fields=other)
