"""A finished evaluation: its typed manifest, its answers and verdicts, and judging them again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._endpoint import EndpointInfo
from ripcurrent.evaluate._options import Axis
from ripcurrent.evaluate._prompts import Prompt, PromptSet
from ripcurrent.evaluate._rates import AxisRate, notes_on, summarise
from ripcurrent.evaluate._responses import (
    REJECTED,
    VERDICTS,
    Response,
    read_judges,
    read_responses,
    read_verdicts,
    write_verdicts,
)
from ripcurrent.evaluate.judges import UNJUDGED, Answer, Facts, Judge, Verdict
from ripcurrent.models import ModelInfo
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import Manifest, RunFolder, read_config
from ripcurrent.statistics import Discrimination


class GenerationInfo(BaseModel):
    """How answers were made."""

    model_config = ConfigDict(frozen=True)

    decoding: str = "greedy"
    max_new_tokens: int
    system: str | None
    engine: Literal["local", "endpoint"]


class EvaluationTimings(BaseModel):
    """Prompts asked and seconds of the last call; those of generation are of the call that asked."""

    model_config = ConfigDict(frozen=True)

    answered_now: int
    generation_seconds: float | None
    judging_seconds: float


class EvaluationManifest(Manifest):
    """What was asked of what, and what came of it."""

    command: Literal["evaluate"] = "evaluate"
    model: ModelInfo | EndpointInfo
    prompts: tuple[PromptSet, ...]
    generation: GenerationInfo
    judges: dict[str, Facts] = Field(default_factory=dict)
    rates: dict[str, dict[Axis, AxisRate]] = Field(default_factory=dict)
    discrimination: dict[str, Discrimination] = Field(default_factory=dict)
    """By judge: harmful requests refused less dangerous-sounding ones refused."""
    notes: tuple[str, ...] = ()
    timings: EvaluationTimings


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """An evaluated model."""

    folder: Path
    """``responses.parquet``, ``verdicts.parquet``, ``manifest.json``."""
    manifest: EvaluationManifest
    prompts: tuple[Prompt, ...]
    responses: tuple[Response, ...]
    verdicts: Mapping[str, Sequence[Verdict]]
    """By judge, a verdict on each answer, in the same order."""

    @classmethod
    def open(cls, folder: str | Path) -> EvaluationRun:
        """A finished evaluation from its run folder.

        Raises:
            RipcurrentError: There is none, or it is not finished.
        """
        place = Path(folder)
        manifest = EvaluationManifest.read(place)
        prompts, responses = read_responses(place)
        return cls(place, manifest, tuple(prompts), tuple(responses), read_verdicts(place, responses))

    @property
    def rates(self) -> dict[str, dict[Axis, AxisRate]]:
        """By judge and axis: shares answered, refused and degenerate, with Wilson's interval of the first."""
        return self.manifest.rates

    def outcomes(self, judge: str, axis: Axis) -> tuple[list[str], list[int]]:
        """The prompts of an axis by id, and 1 for each whose answer complies, else 0 (also rejected and unjudged ones).

        Raises:
            RipcurrentError: That judge has not judged the answers.
        """
        if judge not in self.verdicts:
            raise RipcurrentError(
                f"{self.folder} has no verdicts of {judge!r}.", f"Judges there: {', '.join(self.verdicts)}."
            )
        pairs = zip(self.prompts, self.verdicts[judge], strict=True)
        labels = {prompt.id: one.label for prompt, one in pairs if prompt.axis == axis}
        return list(labels), [int(label == "compliance") for label in labels.values()]

    def to_json(self) -> Facts:
        """What ``--json`` prints: no answer."""
        shown = {"model", "prompts", "judges", "rates", "discrimination", "notes"}
        return {"run": str(self.folder), **self.manifest.model_dump(mode="json", include=shown)}


def judge_again(folder: Path, judges: Sequence[Judge], progress: Progress | None = None) -> None:
    """Add judges' verdicts to a finished evaluation's answers, in place of earlier ones by judges of these names.

    The model that answered need not be there any more.

    Raises:
        RipcurrentError: The folder holds no finished evaluation, or a judge's endpoint fails; what is done is kept.
    """
    manifest = EvaluationManifest.read(folder)
    with RunFolder(folder, read_config(folder)):
        prompts, responses = read_responses(folder)
        verdicts = judge_answers(folder, prompts, responses, judges, progress or SilentProgress())
        with_outcome(manifest, folder, prompts, responses, verdicts).write(folder)


def judge_answers(
    folder: Path, prompts: Sequence[Prompt], responses: Sequence[Response], judges: Sequence[Judge], progress: Progress
) -> dict[str, Sequence[Verdict]]:
    """The verdicts of these judges, after those of others that judged these answers before; kept in the folder."""
    answers = {
        one.prompt_id: Answer(prompt.text, one.completion, one.truncated)
        for prompt, one in zip(prompts, responses, strict=True)
        if one.rejected is None
    }
    ids = [prompt.id for prompt in prompts]
    verdicts: dict[str, Sequence[Verdict]] = {}
    if (folder / VERDICTS).exists():
        verdicts |= read_verdicts(folder, responses)
    kept = read_judges(folder)
    try:
        for judge in judges:
            if judge.describe().get("kind") != "rule":
                progress.start(f"judging by {judge.name}", len(answers), "answers")
            said = dict(zip(answers, judge.judge(list(answers.values())), strict=True))
            rejected = Verdict(UNJUDGED, judge.name, judge.version, truncated=False, reason=REJECTED)
            verdicts[judge.name] = [said.get(prompt_id, rejected) for prompt_id in ids]
            scale: Facts = {} if judge.scale is None else {"scale": list(judge.scale)}
            # not before: what an endpoint was asked without is known only now
            kept[judge.name] = {"name": judge.name, "version": judge.version, **scale, **judge.describe()}
            progress.finish()
    finally:
        # where a judge fails, those of the judges before it are kept
        write_verdicts(folder, ids, verdicts, kept)
    return verdicts


def with_outcome(
    manifest: EvaluationManifest,
    folder: Path,
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    verdicts: Mapping[str, Sequence[Verdict]],
) -> EvaluationManifest:
    """The manifest with what the verdicts come to: by whom, rates, notes."""
    judges = read_judges(folder)
    rates, judged = summarise(prompts, responses, verdicts, judges)
    warning = manifest.model.other_base() if isinstance(manifest.model, ModelInfo) else None
    notes = (*notes_on(prompts, manifest.prompts, responses, verdicts), *([warning] if warning else []))
    return manifest.model_copy(update={"judges": judges, "rates": rates, "discrimination": judged, "notes": notes})
