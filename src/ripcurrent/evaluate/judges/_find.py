"""From the name a user gives to a judge."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate.judges._rubric import BUILTIN_RUBRICS, Rubric, builtin_rubric, read_rubric
from ripcurrent.evaluate.judges._rules import KEYWORD, PREFIX
from ripcurrent.evaluate.judges._types import Judge
from ripcurrent.options import did_you_mean

JUDGES: tuple[Judge, ...] = (KEYWORD, PREFIX)
"""The judges that need nothing but the answer, in the order of tables."""

FILE_PREFIX, CLASSIFIER_PREFIX = "file:", "classifier:"
_NAMES = (*(judge.name for judge in JUDGES), *BUILTIN_RUBRICS)
_KINDS = f"Judges: {', '.join(_NAMES)}, {FILE_PREFIX}PATH, {CLASSIFIER_PREFIX}MODEL."


@dataclass(frozen=True, slots=True)
class JudgeSettings:
    """What judges that are models need; judges by rule need none of it."""

    endpoint: str | None = None
    """Base URL of the OpenAI-compatible endpoint that is asked, as in ``http://localhost:8000/v1``."""
    model: str | None = None
    """The judging model's name there."""
    key_env: str | None = None
    """Environment variable with the endpoint's key; else the one that `Endpoint` looks into."""
    timeout: float = 60.0
    max_retries: int = 4
    concurrency: int = 4
    max_tokens: int | None = None
    cache: Path | None = None
    """Folder of replies; ``judge-replies`` in the user's cache unless set."""
    device: str | None = None
    on_judged: Callable[[int], None] | None = None
    """Called with the number of answers that a model judged since the last call."""


def find_judge(name: str, settings: JudgeSettings | None = None) -> Judge:
    """The judge of that name.

    ``keyword``, ``prefix``, ``rubric``, ``strongreject``, ``file:PATH`` (a judge file) or ``classifier:MODEL`` (a
    sequence-classification model that reads the answer alone).

    Raises:
        RipcurrentError: No such judge, a judge file or a classifier that is not possible, or no endpoint or key.
    """
    for judge in JUDGES:
        if judge.name == name:
            return judge
    chosen = settings or JudgeSettings()
    if name in BUILTIN_RUBRICS:
        return _from_rubric(builtin_rubric(name), chosen)
    if name.startswith(FILE_PREFIX):
        rubric = read_rubric(Path(name.removeprefix(FILE_PREFIX)).expanduser())
        if rubric.name in _NAMES:
            raise RipcurrentError(
                f"The judge of {name.removeprefix(FILE_PREFIX)} is called {rubric.name}, like one that comes along.",
                "Give the file, or the name in its head, another name.",
            )
        return _from_rubric(rubric, chosen)
    if name.startswith(CLASSIFIER_PREFIX):
        model = name.removeprefix(CLASSIFIER_PREFIX)
        if not model:
            raise RipcurrentError(f"{name!r} names no model.", _KINDS)
        short = model.rstrip("/").rpartition("/")[2] or model
        template = Rubric(name=f"{CLASSIFIER_PREFIX}{short}", text="{completion}", reply="label", classifier=model)
        return _from_rubric(template, chosen)
    raise RipcurrentError(f"No judge is named {name!r}.{did_you_mean(name, _NAMES)}", _KINDS)


def find_judges(names: Sequence[str | Judge], settings: JudgeSettings | None = None) -> tuple[Judge, ...]:
    """The judges of those names, in order; a judge among the names stands for itself.

    Raises:
        RipcurrentError: As `find_judge`; no name at all; or two judges under one name, which tables could not tell
            apart.
    """
    if not names:
        raise RipcurrentError("No judge is named.", _KINDS)
    judges: list[Judge] = []
    for name in names:
        judge = find_judge(name, settings) if isinstance(name, str) else name
        if judge.name in {earlier.name for earlier in judges}:
            raise RipcurrentError(
                f"Two judges are called {judge.name!r}.",
                "Name each once; a judge file may say another name in its head.",
            )
        judges.append(judge)
    return tuple(judges)


def _from_rubric(rubric: Rubric, settings: JudgeSettings) -> Judge:
    if rubric.classifier is not None:
        from ripcurrent.evaluate.judges._classifier import load_classifier

        return load_classifier(rubric, device=settings.device, on_judged=settings.on_judged)
    from ripcurrent.evaluate._endpoint import Endpoint
    from ripcurrent.evaluate.judges._language_model import MAX_TOKENS, LanguageModelJudge, ReplyCache
    from ripcurrent.models import cache_folder

    if settings.endpoint is None or settings.model is None:
        missing = "no endpoint is" if settings.endpoint is None else "the model there is not"
        raise RipcurrentError(
            f"The judge {rubric.name!r} asks a language model, and {missing} named.",
            "Name both, as in: --judge-endpoint http://localhost:8000/v1 --judge-model NAME",
        )
    key = None
    if settings.key_env is not None:
        key = os.environ.get(settings.key_env)
        if not key:
            raise RipcurrentError(
                f"The environment variable {settings.key_env}, which should hold the judge's key, is not set.",
                "Set it, or name another with --judge-key-env.",
            )
    return LanguageModelJudge(
        rubric=rubric,
        endpoint=Endpoint(
            settings.endpoint,
            settings.model,
            api_key=key,
            key_variable=settings.key_env,
            timeout=settings.timeout,
            max_retries=settings.max_retries,
            concurrency=settings.concurrency,
        ),
        cache=ReplyCache(settings.cache or cache_folder() / "judge-replies"),
        max_tokens=settings.max_tokens or MAX_TOKENS,
        on_judged=settings.on_judged,
    )
