"""Inspect: our prompts as a task, our judges as scorers, an evaluation as a log that ``inspect view`` opens.

With ``pip install "ripcurrent[inspect]"`` Inspect finds the first two by itself::

    inspect eval ripcurrent/prompts --model openai/NAME -T limit=20
    inspect score logs/LOG.eval --scorer ripcurrent/keyword
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import fmean

from ripcurrent.errors import MissingExtraError, RipcurrentError
from ripcurrent.evaluate import (
    AXES,
    DEFAULT_JUDGES,
    JUDGES,
    UNJUDGED,
    WITHHELD,
    Answer,
    EndpointInfo,
    EvaluationRun,
    Judge,
    JudgeOptions,
    Prompt,
    Verdict,
    find_judge,
    load_prompts,
    read_output,
    require_inspect_log,
)
from ripcurrent.files import written_whole

try:
    from anyio import to_thread
    from click import ClickException
    from inspect_ai import Task, task
    from inspect_ai import log as logs
    from inspect_ai.dataset import MemoryDataset, Sample
    from inspect_ai.model import ChatMessageSystem, ChatMessageUser, GenerateConfig, ModelOutput, ModelUsage
    from inspect_ai.scorer import Metric, SampleScore, Score, Scorer, Target, metric, scorer
    from inspect_ai.solver import TaskState
except ImportError:
    raise MissingExtraError("inspect-ai", "inspect") from None


@task
def prompts(
    source: str = "builtin",
    axis: str = "harmful",
    limit: int | None = None,
    judges: str | Sequence[str] = DEFAULT_JUDGES,
    judge_endpoint: str | None = None,
    judge_model: str | None = None,
) -> Task:
    """Our prompts on three axes, or those of a source that `load_prompts` reads, judged as ``evaluate`` judges.

    ``limit`` takes the first N of each axis; ``axis`` is that of prompts that do not say theirs. Answers have up to
    64 tokens at temperature 0, unless Inspect's own options say otherwise.
    """
    if axis not in AXES:
        raise ClickException(f"There is no axis {axis!r}. Axes: {', '.join(AXES)}.")
    with _without_traceback():
        asked = load_prompts(source, limit=limit, axis=axis)
    samples = [Sample(id=one.id, input=one.text, metadata=_metadata(one)) for one in asked.prompts]
    named = judges.split(",") if isinstance(judges, str) else judges
    scorers = [RULES[name]() if name in RULES else judge(name, judge_endpoint, judge_model) for name in named]
    config = GenerateConfig(temperature=0.0, max_tokens=64)
    return Task(dataset=MemoryDataset(samples, name=asked.name), scorer=scorers, config=config)


@metric
def answered() -> Metric:
    """By axis of the samples' metadata, the share of answers that comply; ``all`` where they name none."""

    def measure(scores: list[SampleScore]) -> dict[str, float]:
        by_axis: dict[str, list[float]] = {}
        for one in scores:
            by_axis.setdefault(str((one.sample_metadata or {}).get("axis", "all")), []).append(one.score.as_float())
        return {axis: fmean(values) for axis, values in by_axis.items()}

    return measure


@scorer(metrics=[answered()])
def judge(name: str, endpoint: str | None = None, model: str | None = None) -> Scorer:
    """A judge, as `find_judge` names it: 1 where the answer complies, else 0; unscored where it cannot be judged.

    ``endpoint`` and ``model`` are those of a judging language model.
    """
    with _without_traceback():
        found = find_judge(name, JudgeOptions(judge_endpoint=endpoint, judge_model=model).judge_settings(None))
    return _scorer(found)


def _rule(judge: Judge) -> Callable[[], Scorer]:
    return scorer(metrics=[answered()], name=judge.name)(lambda: _scorer(judge))


RULES = {one.name: _rule(one) for one in JUDGES}
"""The judges by rule, each a scorer of its own name: ``ripcurrent/prefix``."""


@contextmanager
def _without_traceback() -> Iterator[None]:
    """Let Inspect's command show a user's mistake as one error."""
    try:
        yield
    except RipcurrentError as error:
        raise ClickException(str(error)) from error


def _scorer(judge: Judge) -> Scorer:
    async def score(state: TaskState, target: Target) -> Score:
        # a judging model is waited for
        return await to_thread.run_sync(_judged, judge, state.input_text, state.output)

    return score


def _judged(judge: Judge, prompt: str, output: ModelOutput) -> Score:
    """One judge's verdict on one output."""
    said, cut, rejected = read_output(output) if output.choices else ("", False, "no output")
    if rejected is not None:
        return _score(Verdict(UNJUDGED, judge.name, judge.version, cut, rejected))
    return _score(judge.judge([Answer(prompt, said, cut)])[0])


def _score(verdict: Verdict) -> Score:
    facts = asdict(verdict)
    if verdict.label == UNJUDGED:
        return Score.unscored(reason=verdict.reason, explanation=verdict.label, metadata=facts)
    why = f"{verdict.label}: {verdict.reason}" if verdict.reason else verdict.label
    return Score(value=float(verdict.label == "compliance"), explanation=why, metadata=facts)


def _metadata(prompt: Prompt) -> dict[str, str]:
    return {"axis": prompt.axis, "category": prompt.category, "source": prompt.source}


def write_log(run: EvaluationRun, path: str | Path, *, reveal: bool = False) -> None:
    """Write an evaluation as a log: a sample per prompt, with a score per judge.

    Answers to harmful requests are in it only with ``reveal``; else a note with their length stands in their place.

    Raises:
        RipcurrentError: Another suffix than ``.eval`` or ``.json``, or a place that cannot be written.
    """
    place, manifest, about = Path(path), run.manifest, run.manifest.model
    require_inspect_log(place)
    ids, share = [prompt.id for prompt in run.prompts], partial(logs.EvalMetric, group="answered")
    scores = [
        logs.EvalScore(
            name=judge,
            scorer=judge,
            metrics={
                axis: share(name=axis, value=rate.answered) for axis, rate in rates.items() if rate.answered is not None
            },
            metadata=manifest.judges[judge],
        )
        for judge, rates in run.rates.items()
    ]
    named = ", ".join(one.name for one in manifest.prompts)
    spec = logs.EvalSpec(
        created=manifest.started,
        task="ripcurrent/evaluate",
        dataset=logs.EvalDataset(name=named, samples=len(ids), sample_ids=ids),
        model=about.model if isinstance(about, EndpointInfo) else about.name,
        model_args=about.model_dump(mode="json", exclude_none=True),
        config=logs.EvalConfig(epochs=1),
        packages={"ripcurrent": version("ripcurrent")},
        metadata={"generation": manifest.generation, "notes": list(manifest.notes), "harmful_answers_shown": reveal},
    )
    log = logs.EvalLog(
        status="success",
        eval=spec,
        results=logs.EvalResults(total_samples=len(ids), completed_samples=len(ids), scores=scores),
        stats=logs.EvalStats(started_at=manifest.started, completed_at=manifest.finished),
        samples=[_sample(run, at, spec.model, reveal) for at in range(len(ids))],
    )
    with written_whole(place) as part:
        logs.write_eval_log(log, part, format="json" if place.suffix == ".json" else "eval")


def _sample(run: EvaluationRun, at: int, model: str, reveal: bool) -> logs.EvalSample:
    """One prompt with its answer, or a note in its place, and every judge's verdict."""
    prompt, response, system = run.prompts[at], run.responses[at], run.manifest.generation.get("system")
    hidden = prompt.axis == "harmful" and not reveal and response.rejected is None
    said = response.completion
    if hidden:
        said = f"[withheld: an answer of {len(said)} characters; --reveal writes it]"
    stop = "content_filter" if response.rejected is not None else "max_tokens" if response.truncated else "stop"
    output = ModelOutput.from_content(model, said, stop, response.rejected)
    if (tokens := response.new_tokens) is not None:
        output.usage = ModelUsage(output_tokens=tokens, total_tokens=tokens)
    opening = [ChatMessageSystem(content=system)] if isinstance(system, str) else []
    return logs.EvalSample(
        id=prompt.id,
        epoch=1,
        input=prompt.text,
        target="",
        messages=[*opening, ChatMessageUser(content=prompt.text), output.message],
        output=output,
        scores={judge: _score(verdicts[at]) for judge, verdicts in run.verdicts.items()},
        metadata={**_metadata(prompt), WITHHELD: hidden},
    )
