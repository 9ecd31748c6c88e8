"""The options of commands that have answers judged."""

from pydantic import Field

from ripcurrent.evaluate import JudgeOptions

FLAGS = tuple(JudgeOptions.model_fields)


class JudgingOptions(JudgeOptions):
    """Who judges the answers."""

    judge: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "J"})
    """keyword, prefix, rubric, strongreject, file:PATH or classifier:MODEL; prefix and keyword when left out."""
