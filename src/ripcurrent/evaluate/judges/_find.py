"""From the name a user gives to a judge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._endpoint import Endpoint
from ripcurrent.evaluate.judges._rubric import BUILTIN_RUBRICS, LanguageModelJudge, Rubric, read_rubric
from ripcurrent.evaluate.judges._rules import KEYWORD, PREFIX
from ripcurrent.evaluate.judges._types import Judge
from ripcurrent.evaluate.judges._wording import WORDING
from ripcurrent.options import did_you_mean

JUDGES: tuple[Judge, ...] = (KEYWORD, PREFIX, WORDING)
"""The judges that need nothing but the answer, in the order of tables."""

_NAMES = (*(judge.name for judge in JUDGES), *BUILTIN_RUBRICS)
_KINDS = f"Judges: {', '.join(_NAMES)}, file:PATH, classifier:MODEL."


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
    """Longest reply, reasoning included; 1024 unless set."""
    cache: Path | None = None
    """Folder of replies; ``judge-replies`` in the user's cache unless set."""
    device: str | None = None
    on_judged: Callable[[int], None] = lambda count: None
    """Called with the number of answers that a model judged since the last call."""


def find_judge(name: str, settings: JudgeSettings | None = None) -> Judge:
    """The judge of that name.

    ``keyword``, ``prefix``, ``wording``, ``rubric``, ``strongreject``, ``file:PATH`` (a judge file) or
    ``classifier:MODEL`` (a sequence-classification model that reads the answer alone).

    Raises:
        RipcurrentError: No such judge, a judge file or a classifier that is not possible, or no endpoint or key.
    """
    kind, _, place = name.partition(":")
    for judge in JUDGES:
        if judge.name == name:
            return judge
    if name in BUILTIN_RUBRICS:
        rubric = read_rubric(BUILTIN_RUBRICS[name])
    elif kind == "file" and place:
        rubric = read_rubric(Path(place).expanduser())
        if rubric.name in _NAMES:
            raise RipcurrentError(
                f"The judge of {place} is called {rubric.name}, like one that comes along.",
                "Give the file, or the name in its head, another name.",
            )
    elif kind == "classifier" and place:
        short = place.rstrip("/").rpartition("/")[2] or place
        rubric = Rubric(name=f"classifier:{short}", text="{completion}", reply="label", classifier=place)
    else:
        raise RipcurrentError(f"No judge is named {name!r}.{did_you_mean(name, _NAMES)}", _KINDS)
    return _from_rubric(rubric, settings or JudgeSettings())


def find_judges(names: Sequence[str | Judge], settings: JudgeSettings | None = None) -> tuple[Judge, ...]:
    """The judges of those names, in order; a judge among the names stands for itself.

    Raises:
        RipcurrentError: As `find_judge`; no name at all; or two judges under one name, which tables cannot tell apart.
    """
    if not names:
        raise RipcurrentError("No judge is named.", _KINDS)
    judges = tuple(find_judge(name, settings) if isinstance(name, str) else name for name in names)
    named = [judge.name for judge in judges]
    if twice := next((name for name in named if named.count(name) > 1), None):
        hint = "Name each once; a judge file may say another name in its head."
        raise RipcurrentError(f"Two judges are called {twice!r}.", hint)
    return judges


def _from_rubric(rubric: Rubric, settings: JudgeSettings) -> Judge:
    from ripcurrent.files import cache_folder

    if rubric.classifier is not None:
        from ripcurrent.evaluate.judges._classifier import load_classifier

        return load_classifier(rubric, settings.device, settings.on_judged)
    if settings.endpoint is None or settings.model is None:
        missing = "no endpoint is" if settings.endpoint is None else "the model there is not"
        raise RipcurrentError(
            f"The judge {rubric.name!r} asks a language model, and {missing} named.",
            "Name both: --judge-endpoint http://localhost:8000/v1 --judge-model NAME (in a file, judge_endpoint and "
            "judge_model).",
        )
    endpoint = Endpoint(
        settings.endpoint,
        settings.model,
        key_env=settings.key_env,
        timeout=settings.timeout,
        max_retries=settings.max_retries,
        concurrency=settings.concurrency,
    )
    cache = settings.cache or cache_folder() / "judge-replies"
    return LanguageModelJudge(rubric, endpoint, cache, settings.max_tokens or 1024, settings.on_judged)
