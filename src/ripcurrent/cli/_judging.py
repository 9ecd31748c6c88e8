"""The options of commands that have answers judged."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from ripcurrent.options import Options

if TYPE_CHECKING:
    from ripcurrent.evaluate import JudgeSettings

SETTINGS = ("endpoint", "model", "key_env", "timeout", "concurrency", "max_tokens")
FLAGS = tuple(f"judge_{name}" for name in SETTINGS)


class JudgingOptions(Options):
    """Who judges the answers."""

    judge: tuple[str, ...] = Field(default=(), json_schema_extra={"metavar": "J"})
    """keyword, prefix, rubric, strongreject, file:PATH or classifier:MODEL; prefix and keyword when left out."""
    judge_endpoint: str | None = Field(default=None, json_schema_extra={"metavar": "URL"})
    """OpenAI-compatible endpoint of rubric judges, as http://localhost:8000/v1."""
    judge_model: str | None = Field(default=None, json_schema_extra={"metavar": "NAME"})
    """Name of the judging model at the endpoint."""
    judge_key_env: str | None = Field(default=None, json_schema_extra={"metavar": "VAR"})
    """Environment variable with the endpoint's key; RIPCURRENT_API_KEY when left out."""
    judge_timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for the judging model. Five attempts are made."""
    judge_concurrency: int = Field(default=4, ge=1)
    """Requests to the judging model under way at once."""
    judge_max_tokens: int | None = Field(default=None, ge=1)
    """Longest reply of the judging model, thoughts included; 1024 when left out."""

    def settings(self, device: str | None) -> JudgeSettings:
        """What judges that are models need."""
        from ripcurrent.evaluate import JudgeSettings

        return JudgeSettings(**{name: getattr(self, f"judge_{name}") for name in SETTINGS}, device=device)
