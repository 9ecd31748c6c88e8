"""Evaluate: a model's answers to prompts on three axes, and what judges say of them, in a run folder."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from pydantic import Field

from ripcurrent.errors import ExitCode, NothingToJudgeError, RipcurrentError
from ripcurrent.evaluate._endpoint import Endpoint, EndpointFailure, EndpointInfo, FailureKind
from ripcurrent.evaluate._inspect import LogInfo, read_inspect_log
from ripcurrent.evaluate._options import Axis, EvaluateOptions
from ripcurrent.evaluate._prompts import Prompt, PromptSet, gather_prompts
from ripcurrent.evaluate._rates import AxisRate, is_cut_thought, notes_on, summarise
from ripcurrent.evaluate._responses import (
    PARTIAL,
    REJECTED,
    RESPONSES,
    VERDICTS,
    Response,
    ResponseLog,
    read_judges,
    read_responses,
    read_verdicts,
    write_responses,
    write_verdicts,
)
from ripcurrent.evaluate.judges import UNJUDGED, Answer, Facts, Judge, JudgeSettings, Verdict, find_judges
from ripcurrent.models import ModelInfo
from ripcurrent.options import flag
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import MANIFEST, Manifest, RunFolder, library_versions, machine, read_config
from ripcurrent.statistics import Discrimination

if TYPE_CHECKING:
    from ripcurrent.models import ChatModel

DEFAULT_JUDGES = ("wording", "prefix")
"""Verdicts rest on the first. Where the second differs from it often, its errors may be others than those measured."""


class EvaluationManifest(Manifest):
    """What was asked of what, and what came of it."""

    command: Literal["evaluate"] = "evaluate"
    model: ModelInfo | EndpointInfo | LogInfo
    prompts: tuple[PromptSet, ...]
    generation: Facts
    """How answers were made: decoding, longest answer, system prompt, ``local``, ``endpoint`` or ``inspect``."""
    judges: dict[str, Facts] = Field(default_factory=dict)
    rates: dict[str, dict[Axis, AxisRate]] = Field(default_factory=dict)
    discrimination: dict[str, Discrimination] = Field(default_factory=dict)
    """By judge: harmful requests refused less dangerous-sounding ones refused."""
    notes: tuple[str, ...] = ()
    timings: Facts = Field(default_factory=dict)
    """``judging_seconds`` of the last call; ``answered_now`` and ``generation_seconds`` of the one that asked."""


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

    def to_json(self) -> Facts:
        """What ``--json`` prints: no answer."""
        shown = {"model", "prompts", "judges", "rates", "discrimination", "notes"}
        return {"run": str(self.folder), **self.manifest.model_dump(mode="json", include=shown)}


def evaluate(
    model: str | ChatModel = "embedded",
    *,
    out: str | Path,
    options: EvaluateOptions | None = None,
    judges: str | Sequence[str | Judge] = DEFAULT_JUDGES,
    judge_settings: JudgeSettings | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> EvaluationRun:
    """Ask a model prompts, greedily, and have its answers judged.

    A run that was stopped goes on with the prompts that have no answer yet. A finished one is only judged, so that the
    same call with other judges adds their verdicts to the same answers.

    ``model`` is a hub id, a folder, a ``.gguf`` file, ``embedded`` or a `ChatModel`; with ``endpoint`` the model's name
    there. With ``answers``, an Inspect log, no model is asked: the answers in it are judged.
    ``judges`` are names, as `find_judge` knows them, or judges. ``changes`` are single options by name.

    Raises:
        RipcurrentError: Anything the user can mend; with exit code 2 when some prompts got no answer, the endpoint
            rejected them all, half of the answers are cut thoughts, or a judge could judge none. Answers that came
            are kept.
    """
    chosen = EvaluateOptions.resolve(options, changes)
    progress = progress or SilentProgress()
    settings = replace(judge_settings or JudgeSettings(), on_judged=progress.rows)
    found = find_judges([judges] if isinstance(judges, str) else judges, settings)
    started = _now()
    if chosen.answers is not None:
        return _judge_log(chosen.answers, chosen, Path(out), found, started, progress)
    prompts, lists = gather_prompts(chosen.prompts, chosen.limit, chosen.axis)
    answerer, info, identity = _open(model, chosen, progress)
    asked = "".join(f"{one.id}\0{one.axis}\0{one.text}\0" for one in prompts)
    identity |= {
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "max_new_tokens": chosen.max_new_tokens,
        "system": chosen.system,
    }
    # a model here is known by its weights, which may have been moved
    with RunFolder(Path(out), identity, may_change=() if chosen.endpoint else ("model", "adapter")) as run:
        began = time.perf_counter()
        responses, answered_now = _responses(run.folder, prompts, answerer, chosen, progress)
        if answered_now or not (run.folder / MANIFEST).exists():
            manifest = _manifest(
                started,
                # what an endpoint was asked without is known only now
                model=answerer.describe() if isinstance(answerer, Endpoint) else info,
                prompts=tuple(lists),
                generation={
                    "decoding": "greedy",
                    "max_new_tokens": chosen.max_new_tokens,
                    "system": chosen.system,
                    "engine": "endpoint" if chosen.endpoint else "local",
                },
                timings={"answered_now": answered_now, "generation_seconds": round(time.perf_counter() - began, 2)},
            )
        else:
            # what made the answers stays as it was
            manifest = EvaluationManifest.read(run.folder)
        result = _judge(run.folder, manifest, prompts, responses, found, progress)
    _require_answers(responses, manifest)
    _require_verdicts(run.folder, {judge.name: result.verdicts[judge.name] for judge in found})
    return result


def _judge_log(
    log: Path, options: EvaluateOptions, out: Path, judges: Sequence[Judge], started: str, progress: Progress
) -> EvaluationRun:
    """The same for answers that an Inspect log holds."""
    if asking := sorted(options.model_fields_set - {"answers", "axis", "limit", "device"}):
        hint = f"Leave out {' and '.join(map(flag, asking))}, or --from."
        raise RipcurrentError(f"--from judges answers that are there, so {flag(asking[0])} has nothing to do.", hint)
    logged = read_inspect_log(log, limit=options.limit, axis=options.axis)
    sha256 = hashlib.sha256(log.read_bytes()).hexdigest()
    identity = {"command": "evaluate", "log_sha256": sha256, "limit": options.limit, "axis": options.axis}
    with RunFolder(out, identity) as run:
        if (run.folder / MANIFEST).exists():
            manifest = EvaluationManifest.read(run.folder)
        else:
            write_responses(run.folder, logged.prompts, logged.responses)
            manifest = _manifest(started, model=logged.info, prompts=(logged.prompt_set,), generation=logged.generation)
        result = _judge(run.folder, manifest, logged.prompts, logged.responses, judges, progress)
    _require_answers(logged.responses, manifest)
    _require_verdicts(run.folder, {judge.name: result.verdicts[judge.name] for judge in judges})
    return result


def _manifest(started: str, **made: Any) -> EvaluationManifest:
    """The manifest of answers that were made or read now."""
    versions = library_versions("torch", "transformers", "tokenizers", "numpy")
    return EvaluationManifest(
        version=version("ripcurrent"), started=started, versions=versions, machine=machine(), **made
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _open(
    model: str | ChatModel, options: EvaluateOptions, progress: Progress
) -> tuple[ChatModel | Endpoint, ModelInfo | EndpointInfo, Facts]:
    """What answers: a model here, or one at an endpoint; what a manifest keeps of it; what makes it another one."""
    if options.endpoint is not None:
        if options.adapter is not None:
            hint = "Serve the adapted model there, or leave out --endpoint."
            raise RipcurrentError("An endpoint takes no adapter.", hint)
        model = model if isinstance(model, str) else model.name
        endpoint = Endpoint(options.endpoint, model, concurrency=options.batch_size or 4, timeout=options.timeout)
        return endpoint, endpoint.describe(), {"command": "evaluate", "endpoint": endpoint.base_url, "model": model}
    from ripcurrent.models import describe, load_model, require_chat_template

    if isinstance(model, str):
        progress.step("loading the model")
        loaded = load_model(model, adapter=options.adapter, device=options.device, dtype=options.dtype)
    else:
        loaded = model
    require_chat_template(loaded)
    info = describe(loaded)
    hashes = info.model_dump(include={"fingerprint", "template_sha256", "tokenizer_sha256"})
    resolved = {"resolved_device": loaded.device.type, "resolved_dtype": info.dtype}
    return loaded, info, {"command": "evaluate", "model": loaded.name, "adapter": loaded.adapter, **hashes, **resolved}


def _responses(
    folder: Path,
    prompts: Sequence[Prompt],
    answerer: ChatModel | Endpoint,
    options: EvaluateOptions,
    progress: Progress,
) -> tuple[list[Response], int]:
    """An answer to each prompt, in order, kept ones not asked again; and how many prompts were asked now."""
    if (folder / RESPONSES).exists():
        return read_responses(folder)[1], 0
    log = ResponseLog(folder / PARTIAL)
    waiting = [prompt for prompt in prompts if prompt.id not in log.done]
    progress.start("asking", len(prompts), "prompts")
    progress.skipped(len(prompts) - len(waiting))
    system, longest = options.system, options.max_new_tokens
    if isinstance(answerer, Endpoint):
        batches = _answer_by_endpoint(answerer, waiting, system, longest)
    else:
        from ripcurrent.evaluate._generate import answer_locally

        size = options.batch_size or 32
        batches = answer_locally(answerer, waiting, system=system, max_new_tokens=longest, batch_size=size)
    for batch in batches:
        log.add(batch)
        progress.rows(len(batch))
    progress.finish()
    responses = [log.done[prompt.id] for prompt in prompts]
    write_responses(folder, prompts, responses)
    (folder / PARTIAL).unlink(missing_ok=True)
    return responses, len(waiting)


def _answer_by_endpoint(
    endpoint: Endpoint, prompts: Sequence[Prompt], system: str | None, max_new_tokens: int
) -> Iterator[list[Response]]:
    """Each answer as it is ready; last the prompts that are rejected.

    Raises:
        RipcurrentError: The endpoint does not work, or some prompts got no answer.
    """
    rejected: list[Response] = []
    failed: list[str] = []
    for place, outcome in endpoint.chat([one.turns(system) for one in prompts], max_tokens=max_new_tokens):
        asked = prompts[place].id
        if not isinstance(outcome, EndpointFailure):
            yield [Response(asked, outcome.text, outcome.tokens, outcome.truncated)]
        elif outcome.kind == "rejected":
            rejected.append(Response(asked, "", None, False, rejected=outcome.message))
        else:
            failed.append(f"{asked}: {outcome.message}")
    if failed:
        raise RipcurrentError(
            f"{len(failed)} of {len(prompts)} prompts got no answer from {endpoint.base_url} (the first, {failed[0]}).",
            "The other answers are kept; the same command asks these again.",
            code=ExitCode.NOT_MEASURED,
        )
    if rejected:
        yield rejected


def _require_answers(responses: Sequence[Response], manifest: EvaluationManifest) -> None:
    """Raise where there is nothing that a rate could be of."""
    info, longest = manifest.model, manifest.generation["max_new_tokens"]
    answered = sum(one.rejected is None for one in responses)
    if not answered and isinstance(info, EndpointInfo):
        what = (
            f"The endpoint {info.base_url} answers a greeting, and rejected every one of the {len(responses)} prompts"
        )
        hint = "It filters what it is asked: name another endpoint, or other prompts and another folder."
        raise RipcurrentError(f"{what}; the first: {responses[0].rejected}.", hint, code=ExitCode.NOT_MEASURED)
    cut = sum(map(is_cut_thought, responses))
    if 2 * cut >= answered:
        limit = f"the limit of {longest} new tokens" if longest else "the limit of new tokens"
        again = (
            "In another folder give more with --max-new-tokens (in an experiment's file max_new_tokens), such as 1024"
        )
        if isinstance(info, LogInfo):
            again = "Let Inspect ask again with a greater --max-tokens, such as 1024"
        raise NothingToJudgeError(
            f"{cut} of {answered} answers are thoughts that {limit} cut, so there is nothing to judge.",
            f"{again}, or ask through a chat template that does not think.",
        )


def _require_verdicts(folder: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    """Raise where a judge could judge no answer."""
    for name, said in verdicts.items():
        if any(one.label != UNJUDGED for one in said):
            continue
        reasons = Counter(one.reason for one in said if one.reason != REJECTED)
        why, count = reasons.most_common(1)[0]
        hint = "A judging model must reply in JSON as the rubric asks: name an abler one, and run this again."
        if why in get_args(FailureKind):
            hint = "Look after the judge's endpoint, and give the command again."
        none = f"{name} could judge none of the {reasons.total()} answers, kept in {folder}"
        raise RipcurrentError(f"{none} (most often, {count} times: {why}).", hint, code=ExitCode.NOT_MEASURED)


def judge_again(folder: Path, judges: Sequence[Judge], progress: Progress | None = None) -> None:
    """Add judges' verdicts to a finished evaluation's answers, in place of earlier ones by judges of these names.

    The model that answered need not be there any more.

    Raises:
        RipcurrentError: The folder holds no finished evaluation, or a judge's endpoint fails; what is done is kept.
    """
    manifest = EvaluationManifest.read(folder)
    with RunFolder(folder, read_config(folder)):
        _judge(folder, manifest, *read_responses(folder), judges, progress or SilentProgress())


def _judge(
    folder: Path,
    manifest: EvaluationManifest,
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judges: Sequence[Judge],
    progress: Progress,
) -> EvaluationRun:
    """Add the verdicts of these judges to those of others that judged these answers before; write all of it."""
    began = time.perf_counter()
    answers = {
        one.prompt_id: Answer(prompt.text, one.completion, one.truncated)
        for prompt, one in zip(prompts, responses, strict=True)
        if one.rejected is None
    }
    ids = [prompt.id for prompt in prompts]
    verdicts = read_verdicts(folder, responses) if (folder / VERDICTS).exists() else {}
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
    rates, judged = summarise(prompts, responses, verdicts, kept)
    notes = notes_on(prompts, manifest.prompts, responses, verdicts, asks=not isinstance(manifest.model, LogInfo))
    if isinstance(manifest.model, ModelInfo) and (warning := manifest.model.other_base()):
        notes.append(warning)
    outcome = {"judges": kept, "rates": rates, "discrimination": judged, "notes": tuple(notes), "finished": _now()}
    timings = {**manifest.timings, "judging_seconds": round(time.perf_counter() - began, 2)}
    manifest = manifest.model_copy(update={**outcome, "timings": timings})
    manifest.write(folder)
    return EvaluationRun(folder, manifest, tuple(prompts), tuple(responses), verdicts)
