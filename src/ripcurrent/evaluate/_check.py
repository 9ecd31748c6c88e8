"""Check: a base and a tuned model asked the same prompts, and whether the tuned one answers more harmful requests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._check_verdict import CheckManifest, manifest_of
from ripcurrent.evaluate._evaluate import DEFAULT_JUDGES, EvaluationRun, evaluate
from ripcurrent.evaluate._options import CheckOptions, EvaluateOptions
from ripcurrent.evaluate._prompts import Prompt, gather_prompts
from ripcurrent.evaluate._tasks import check_tasks, store_task_scores
from ripcurrent.evaluate.judges import UNJUDGED, Facts, Judge, find_judges
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder

if TYPE_CHECKING:
    from ripcurrent.evaluate._check_training import Training
    from ripcurrent.models import ChatModel


class CheckRun(BaseModel):
    """A finished check: ``before/``, ``after/`` or ``run-N/``, each an evaluation, and ``manifest.json``."""

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    folder: Path
    manifest: CheckManifest
    before: EvaluationRun
    after: tuple[EvaluationRun, ...]

    def to_json(self) -> Facts:
        """What ``--json`` prints: no answer."""
        shown = {"before", "after", "difference", "verdict", "reason", "judge", "judge_version"}
        shown |= {"categories", "notes", "tasks"}
        return {"run": str(self.folder), **self.manifest.model_dump(mode="json", include=shown)}

    def flips(self) -> Iterator[tuple[int, str, str]]:
        """Places of prompts whose verdict changed, with that before and after; of the first run."""
        said = (self.before.verdicts[self.manifest.judge], self.after[0].verdicts[self.manifest.judge])
        for place, (one, other) in enumerate(zip(*said, strict=True)):
            if one.label != other.label and UNJUDGED not in (one.label, other.label):
                yield place, one.label, other.label


def check(
    model: Any = "embedded",
    tuned: Any = None,
    *,
    out: str | Path,
    tokenizer: Any = None,
    training: Training | None = None,
    options: CheckOptions | None = None,
    judges: str | Sequence[str | Judge] = DEFAULT_JUDGES,
    progress: Progress | None = None,
    **changes: Any,
) -> CheckRun:
    """Ask a base and a tuned model the same prompts, and say whether the tuned one answers more harmful requests.

    The tuned model is ``tuned`` (a folder, hub id, or the name at ``endpoint``), or the base with ``adapter``, or what
    ``training`` makes of rows. Either may be in memory: a `PreTrainedModel` or `PeftModel` with ``tokenizer``, or an
    `SFTTrainer`. A stopped check goes on.

    The verdict is by the first judge. ``worse``: the interval of the difference lies above 0 and reaches above
    ``max_increase``, or that of the tuned model's rate lies above ``bound``. ``ok``: neither limit can be exceeded.

    Raises:
        RipcurrentError: Anything the user can mend; nothing that was answered is lost.
    """
    chosen, report = CheckOptions.resolve(options, changes), progress or SilentProgress()
    with ExitStack() as held:
        base, other = (_in_memory(held, one, tokenizer) for one in (model, tuned))
        return _checked(base, other, Path(out), training, chosen, judges, report)


def _in_memory(held: ExitStack, model: Any, tokenizer: Any) -> Any:
    """A model's name or a loaded model as it is; any other object held ready to answer, of a trainer its model."""
    from ripcurrent.models import ChatModel, held_model

    if model is None or isinstance(model, str | Path | ChatModel):
        return str(model) if isinstance(model, Path) else model
    if hasattr(model, "processing_class"):
        model, tokenizer = model.model, tokenizer or model.processing_class
    return held.enter_context(held_model(model, tokenizer))


def _checked(
    model: str | ChatModel,
    tuned: str | ChatModel | None,
    out: Path,
    training: Training | None,
    chosen: CheckOptions,
    judges: str | Sequence[str | Judge],
    progress: Progress,
) -> CheckRun:
    """A check of models that are loaded or named."""
    _require_one(tuned, training, chosen)
    found = find_judges([judges] if isinstance(judges, str) else judges)
    prompts, _ = gather_prompts(chosen.prompts, chosen.limit, chosen.axis)
    if not any(one.axis == "harmful" for one in prompts):
        hint = "Add a set that has some, such as --prompts builtin:harmful."
        raise RipcurrentError("No prompt is a harmful request, so there is nothing to compare.", hint)
    _require_same_prompts(model, tuned, chosen, prompts)
    if chosen.task:
        check_tasks(chosen.task)
    started = datetime.now(UTC).isoformat(timespec="seconds")
    named = {"command": "check", "model": _name(model), "tuned": tuned and _name(tuned)}
    named["rows"] = None if training is None else str(training.dataset)
    asked = chosen.model_dump(
        mode="json", exclude={"max_increase", "bound", "runs", "batch_size", "timeout", "task", "task_limit"}
    )
    with RunFolder(out, named | asked, may_change=("model", "tuned", "adapter")) as run:
        before, after, notes = _answers(model, tuned, training, chosen, run.folder, found, progress)
        manifest = manifest_of(started, before, after, found[0], chosen, notes)
        manifest.write(run.folder)
    return CheckRun(folder=run.folder, manifest=manifest, before=before, after=tuple(after))


def open_check(folder: str | Path) -> CheckRun:
    """A finished check from its run folder; RipcurrentError where there is none."""
    place = Path(folder)
    manifest = CheckManifest.read(place)
    several = sorted(place.glob("run-*/evaluation"), key=lambda one: int(one.parent.name.removeprefix("run-")))
    after = [EvaluationRun.open(one) for one in several or [place / "after"]]
    return CheckRun(folder=place, manifest=manifest, before=EvaluationRun.open(place / "before"), after=tuple(after))


def _name(model: str | ChatModel) -> str:
    return model if isinstance(model, str) else model.name


def _require_one(tuned: str | ChatModel | None, training: Training | None, options: CheckOptions) -> None:
    """Raise unless exactly one tuned model is named."""
    given = {"--adapter": options.adapter, "--tuned": tuned, "ROWS": training}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        what = f"{' and '.join(named)} are given, and one is compared." if named else "No tuned model is named."
        raise RipcurrentError(what, "Give --adapter ADAPTER, --tuned MODEL, or rows with --recipe RECIPE.")
    if options.task and (options.endpoint or options.base_endpoint):
        hint = "Leave out --task, or give both models as folders or hub ids."
        raise RipcurrentError("Tasks need a model's probabilities, which are not read from an endpoint.", hint)
    if options.endpoint is not None and tuned is None:
        raise RipcurrentError("--endpoint serves the tuned model, which has no name.", "Add --tuned NAME.")
    if options.adapter is not None and options.base_endpoint is not None:
        raise RipcurrentError(
            "An endpoint takes no adapter.", "Serve the adapted model, and give --tuned and --endpoint."
        )


def _require_same_prompts(
    model: str | ChatModel, tuned: str | ChatModel | None, options: CheckOptions, prompts: Sequence[Prompt]
) -> None:
    """Raise where the two models would read a prompt as other tokens: then not the weights alone differ."""
    if options.own_templates or options.endpoint or options.base_endpoint or not (tuned or options.adapter):
        return
    from ripcurrent.data import rendered
    from ripcurrent.models import load_tokenizer

    def read(one: str | ChatModel, adapter: str | None = None) -> tuple[str, list[int]]:
        tokenizer = load_tokenizer(one, adapter=adapter) if isinstance(one, str) else one.tokenizer
        text = rendered(tokenizer, prompts[0].turns(options.system), generation_prompt=True)
        return text, tokenizer(text, add_special_tokens=False)["input_ids"]

    base, other = read(model), read(tuned) if tuned else read(model, options.adapter)
    if base != other:
        what = "chat templates" if base[0] != other[0] else "tokenizers"
        raise RipcurrentError(
            f"Base and tuned model have different {what}, so that more than the weights differs between them.",
            "Give the model that was tuned as --model, or ask each through its own with --own-templates.",
        )


def _answers(
    model: str | ChatModel,
    tuned: str | ChatModel | None,
    training: Training | None,
    options: CheckOptions,
    folder: Path,
    judges: Sequence[Judge],
    progress: Progress,
) -> tuple[EvaluationRun, list[EvaluationRun], list[str]]:
    """The base's and the tuned models' evaluations, and notes. A base that is loaded here is loaded once."""
    from ripcurrent.models import load_model, with_adapter

    asked = options.model_dump(include=set(EvaluateOptions.model_fields), exclude={"adapter", "endpoint"})
    base: str | ChatModel = model
    if options.base_endpoint is None and isinstance(model, str):
        progress.step("loading the base model")
        base = load_model(model, device=options.device, dtype=options.dtype)
    before_options = EvaluateOptions.resolve(None, asked | {"endpoint": options.base_endpoint})
    notes = [] if training is None else [training.measure(base, options, progress)]
    before = evaluate(base, out=folder / "before", options=before_options, judges=judges, progress=progress)
    scored = (options.task, options.task_limit, options.batch_size)
    if options.task and not isinstance(base, str):
        progress.step(f"base model: {', '.join(options.task)}")
        store_task_scores(base, before.folder, *scored)
    after_options = EvaluateOptions.resolve(None, asked | {"endpoint": options.endpoint})
    if options.adapter is not None and not isinstance(base, str):
        tuned = with_adapter(base, options.adapter)
    del base
    if training is None:
        places: Iterator[tuple[str | ChatModel, str | None, Path]] = iter([(tuned or "", None, folder / "after")])
    else:
        places = training.run(options, folder, progress)
    after = []
    for one, adapter, place in places:
        if options.task and isinstance(one, str):
            one = load_model(one, adapter=adapter, device=options.device, dtype=options.dtype)
        of = EvaluateOptions.resolve(after_options, {"adapter": adapter if isinstance(one, str) else None})
        after.append(evaluate(one, out=place, options=of, judges=judges, progress=progress))
        if not isinstance(one, str) and options.task:
            progress.step(f"tuned model: {', '.join(options.task)}")
            store_task_scores(one, place, *scored)
    return before, after, notes
