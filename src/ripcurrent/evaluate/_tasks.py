"""Scores on tasks of the lm-evaluation-harness: what a model is good for, beside its safety."""

from __future__ import annotations

import functools
import io
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from pydantic import BaseModel
from yaml import YAMLError

from ripcurrent.errors import MissingExtraError, RipcurrentError
from ripcurrent.files import write_json
from ripcurrent.options import did_you_mean

if TYPE_CHECKING:
    from ripcurrent.models import ChatModel

PYTHON_ERRORS = (LookupError, ValueError, OSError, TypeError, AttributeError, RuntimeError, ImportError, AssertionError)


class TaskScore(BaseModel, frozen=True):
    """A model's score on a task, or a group of tasks, by one metric; its standard error is over the questions."""

    task: str
    metric: str
    score: float
    stderr: float | None
    questions: int
    higher_is_better: bool | None
    version: str


class TaskChange(BaseModel, frozen=True):
    """A task before and after fine-tuning; after is the mean over its runs."""

    task: str
    metric: str
    questions: int
    higher_is_better: bool | None
    before: float
    before_stderr: float | None
    after: float
    after_stderr: float | None


class StoredScores(BaseModel, frozen=True):
    """``tasks.json`` beside a model's answers."""

    tasks: tuple[str, ...]
    limit: int | None
    scores: tuple[TaskScore, ...]

    @classmethod
    def read(cls, folder: Path) -> StoredScores | None:
        path = folder / "tasks.json"
        return cls.model_validate_json(path.read_text(encoding="utf-8")) if path.is_file() else None


def store_task_scores(
    chat_model: ChatModel, folder: Path, tasks: Sequence[str], limit: int | None, batch_size: int | None
) -> None:
    """Leave a model's `task_scores` in a folder, unless they are there."""
    stored = StoredScores.read(folder)
    if stored is None or (stored.tasks, stored.limit) != (tuple(tasks), limit):
        scores = task_scores(chat_model, tasks, limit, batch_size)
        made = StoredScores(tasks=tuple(tasks), limit=limit, scores=scores)
        write_json(folder / "tasks.json", made.model_dump(mode="json"))


def task_changes(before: Path, after: Sequence[Path]) -> Iterator[TaskChange]:
    """What `store_task_scores` left of a base and of the runs of its training."""
    base, *tuned = (found.scores if (found := StoredScores.read(one)) else () for one in (before, *after))
    for one, *others in zip(base, *tuned, strict=True):
        errors = [other.stderr for other in others if other.stderr is not None]
        yield TaskChange(
            **one.model_dump(include={"task", "metric", "questions", "higher_is_better"}),
            before=one.score,
            before_stderr=one.stderr,
            after=fmean(other.score for other in others),
            after_stderr=fmean(errors) if errors else None,
        )


def check_tasks(tasks: Sequence[str]) -> None:
    """Load tasks and their questions: what cannot be run is refused, as `task_scores` does, before a model is there."""
    with _harness(tasks) as manager:
        manager.load([*tasks])


def task_scores(
    chat_model: ChatModel, tasks: Sequence[str], limit: int | None = None, batch_size: int | None = None
) -> tuple[TaskScore, ...]:
    """A model's scores on tasks of the lm-evaluation-harness, without a chat template, as the harness does by default.

    ``tasks`` are its names, or paths of task files; of a group, its own score where it has one. ``limit`` takes the
    first N questions of each task. Questions are fetched only for a task that names a dataset on the hub.

    Raises:
        RipcurrentError: The harness is not installed, there is no such task, or it cannot be loaded or scored.
    """
    with _harness(tasks) as manager:
        from lm_eval import simple_evaluate
        from lm_eval.models.huggingface import HFLM

        # in bfloat16 the probabilities of many choices would tie
        how = {"batch_size": batch_size or 1, "softmax_dtype": "float32"}
        model = HFLM(pretrained=chat_model.model, tokenizer=chat_model.tokenizer, **how)
        found = simple_evaluate(model, tasks=[*tasks], task_manager=manager, limit=limit, bootstrap_iters=1000)
    inner = {one for group in found.get("groups", ()) for one in found["group_subtasks"][group]}
    return tuple(
        TaskScore(
            task=task,
            metric=key.removesuffix(",none"),
            score=score,
            stderr=stderr if isinstance(stderr := values.get(f"{name}_stderr,{answers}"), float) else None,
            questions=values["sample_len"],
            higher_is_better=found["higher_is_better"].get(task, {}).get(name),
            version=str(found["versions"].get(task)),
        )
        for task, values in found["results"].items()
        for key, score in values.items()
        for name, _, answers in [key.partition(",")]
        if answers and not name.endswith("_stderr") and isinstance(score, int | float) and task not in inner
    )


@contextmanager
def _harness(tasks: Sequence[str]) -> Iterator[Any]:
    """The harness's manager of tasks, silent; its errors become ours."""
    named = [one for one in tasks if not Path(one).is_file()]
    manager = _manager(bool(named))
    if missing := [one for one in named if one not in manager.all_tasks]:
        near = did_you_mean(missing[0], tuple(manager.all_tasks))
        hint = "`lm_eval ls tasks` lists the names; a file of your own is named by its path."
        raise RipcurrentError(f"There is no task {missing[0]!r}, neither a name nor a file.{near}", hint)
    said = io.StringIO()
    try:
        with redirect_stdout(said), redirect_stderr(said):
            yield manager
    except (*PYTHON_ERRORS, TemplateError, YAMLError) as error:
        message = f"The harness cannot run {', '.join(tasks)}: {type(error).__name__}: {error}".strip().split("\n")[0]
        hint = f"Try it there: lm_eval run --model dummy --limit 1 --tasks {','.join(tasks)}"
        raise RipcurrentError(message, "\n".join([hint, *said.getvalue().strip().split("\n")[-1:]])) from error


@functools.cache
def _manager(bundled: bool) -> Any:
    """A manager that knows task files, and the harness's own names if asked, which takes half a minute."""
    # a metric that the harness lacks would be fetched as code, and run
    os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
    try:
        from lm_eval.tasks import TaskManager
    except ImportError:
        raise MissingExtraError("lm_eval", "lm-eval") from None
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_defaults=bundled)
