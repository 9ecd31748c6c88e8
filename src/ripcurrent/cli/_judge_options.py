"""The options of commands that judge answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ripcurrent.evaluate import JudgeSettings

JUDGE = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        metavar="J",
        help="keyword, prefix, rubric, strongreject, file:PATH or classifier:MODEL; repeatable.",
    ),
]
JUDGE_ENDPOINT = Annotated[
    str | None,
    typer.Option(metavar="URL", help="OpenAI-compatible endpoint of rubric judges, as http://localhost:8000/v1."),
]
JUDGE_MODEL = Annotated[str | None, typer.Option(metavar="NAME", help="Name of the judging model at the endpoint.")]
JUDGE_KEY_ENV = Annotated[
    str | None,
    typer.Option(metavar="VAR", help="Environment variable with the endpoint's key; RIPCURRENT_API_KEY unless named."),
]
JUDGE_TIMEOUT = Annotated[
    float,
    typer.Option(metavar="S", min=0.1, help="Seconds that the judging model may be silent, in one attempt of five."),
]
JUDGE_CONCURRENCY = Annotated[
    int, typer.Option(metavar="N", min=1, help="Requests to the judging model under way at once.")
]


JUDGE_MAX_TOKENS = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="Longest reply of the judging model, thoughts included; 1024 unless named."),
]


def judge_settings(
    endpoint: str | None,
    model: str | None,
    key_env: str | None,
    timeout: float,
    concurrency: int,
    max_tokens: int | None,
    device: str | None = None,
) -> JudgeSettings:
    """The settings that the options name."""
    from ripcurrent.evaluate import JudgeSettings

    return JudgeSettings(
        endpoint=endpoint,
        model=model,
        key_env=key_env,
        timeout=timeout,
        concurrency=concurrency,
        max_tokens=max_tokens,
        device=device,
    )
