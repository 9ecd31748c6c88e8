"""Evaluate: a model's answers to prompts on three axes, and what judges say of them, in a run folder."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from ripcurrent.errors import ExitCode, NothingToJudgeError, RipcurrentError
from ripcurrent.evaluate._endpoint import Endpoint, EndpointInfo, FailureKind
from ripcurrent.evaluate._options import EvaluateOptions
from ripcurrent.evaluate._prompts import Prompt, gather_prompts
from ripcurrent.evaluate._rates import is_cut_thought
from ripcurrent.evaluate._responses import (
    PARTIAL,
    REJECTED,
    RESPONSES,
    Response,
    ResponseLog,
    read_responses,
    write_responses,
)
from ripcurrent.evaluate._run import (
    EvaluationManifest,
    EvaluationRun,
    EvaluationTimings,
    GenerationInfo,
    judge_answers,
    with_outcome,
)
from ripcurrent.evaluate.judges import UNJUDGED, Judge, JudgeSettings, Verdict, find_judges
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import MANIFEST, RunFolder, library_versions, machine

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ripcurrent.models import ChatModel, ModelInfo

DEFAULT_JUDGES = ("prefix", "keyword")
"""The judges by rule; verdicts rest on the first."""
LIBRARIES = ("torch", "transformers", "tokenizers", "numpy")


def evaluate(
    model: str = "embedded",
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

    ``model`` is a hub id, a folder, a ``.gguf`` file or ``embedded``; with ``endpoint`` the model's name there.
    ``judges`` are names, as `find_judge` knows them, or judges. ``changes`` are single options by name.

    Raises:
        RipcurrentError: Anything the user can mend; with exit code 2 when some prompts got no answer, the endpoint
            rejected them all, half of the answers are cut thoughts, or a judge could judge none. Answers that came
            are kept.
    """
    chosen = EvaluateOptions.resolve(options, changes)
    progress = progress or SilentProgress()
    prompts, lists = gather_prompts(chosen.prompts, chosen.limit, chosen.axis)
    settings = replace(judge_settings or JudgeSettings(), on_judged=progress.rows)
    found = find_judges([judges] if isinstance(judges, str) else judges, settings)
    started = _now()
    answerer, info, identity = _open(model, chosen, progress)
    asked = "".join(f"{one.id}\0{one.axis}\0{one.text}\0" for one in prompts)
    identity = {
        "command": "evaluate",
        **identity,
        "prompts_sha256": hashlib.sha256(asked.encode()).hexdigest(),
        "max_new_tokens": chosen.max_new_tokens,
        "system": chosen.system,
    }
    # a model here is known by its weights, which may have been moved
    with RunFolder(Path(out), identity, may_change=() if chosen.endpoint else ("model", "adapter")) as run:
        began = time.perf_counter()
        responses, answered_now = _responses(run.folder, prompts, answerer, chosen, progress)
        generated = time.perf_counter()
        if isinstance(answerer, Endpoint):
            # what it was asked without is known only now
            info = answerer.describe()
        verdicts = judge_answers(run.folder, prompts, responses, found, progress)
        timings = EvaluationTimings(
            answered_now=answered_now,
            generation_seconds=round(generated - began, 2) if answered_now else None,
            judging_seconds=round(time.perf_counter() - generated, 2),
        )
        manifest = EvaluationManifest(
            version=version("ripcurrent"),
            started=started,
            finished=_now(),
            versions=library_versions(*LIBRARIES),
            machine=machine(),
            model=info,
            prompts=tuple(lists),
            generation=GenerationInfo(
                max_new_tokens=chosen.max_new_tokens,
                system=chosen.system,
                engine="endpoint" if chosen.endpoint else "local",
            ),
            timings=timings,
        )
        manifest = with_outcome(_keep_origin(run.folder, manifest), run.folder, prompts, responses, verdicts)
        manifest.write(run.folder)
    _require_answers(responses, info, chosen.max_new_tokens)
    _require_verdicts(run.folder, {judge.name: verdicts[judge.name] for judge in found})
    return EvaluationRun(run.folder, manifest, tuple(prompts), tuple(responses), verdicts)


def _keep_origin(folder: Path, manifest: EvaluationManifest) -> EvaluationManifest:
    """The manifest, with what made the answers where an earlier call did."""
    if manifest.timings.answered_now or not (folder / MANIFEST).exists():
        return manifest
    earlier = EvaluationManifest.read(folder)
    timings = manifest.timings.model_copy(update={"generation_seconds": earlier.timings.generation_seconds})
    origin = {name: getattr(earlier, name) for name in ("version", "versions", "machine", "started")}
    if isinstance(earlier.model, EndpointInfo):
        # a model here may have been moved since
        origin["model"] = earlier.model
    return manifest.model_copy(update={**origin, "timings": timings})


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _open(
    model: str, options: EvaluateOptions, progress: Progress
) -> tuple[ChatModel | Endpoint, ModelInfo | EndpointInfo, dict[str, JsonValue]]:
    """What answers: a model here, or one at an endpoint; what a manifest keeps of it; what makes it another one."""
    if options.endpoint is not None:
        if options.adapter is not None:
            raise RipcurrentError(
                "An endpoint takes no adapter.", "Serve the adapted model there, or leave out --endpoint."
            )
        endpoint = Endpoint(options.endpoint, model, concurrency=options.batch_size or 4, timeout=options.timeout)
        return endpoint, endpoint.describe(), {"endpoint": endpoint.base_url, "model": model}
    from ripcurrent.models import describe, load_model, require_chat_template

    progress.step("loading the model")
    loaded = load_model(model, adapter=options.adapter, device=options.device, dtype=options.dtype)
    require_chat_template(loaded)
    info = describe(loaded)
    identity: dict[str, JsonValue] = {
        "model": model,
        "adapter": options.adapter,
        "fingerprint": info.fingerprint,
        "template_sha256": info.template_sha256,
        "tokenizer_sha256": info.tokenizer_sha256,
        "resolved_device": loaded.device.type,
        "resolved_dtype": info.dtype,
    }
    return loaded, info, identity


def _responses(
    folder: Path,
    prompts: Sequence[Prompt],
    answerer: ChatModel | Endpoint,
    options: EvaluateOptions,
    progress: Progress,
) -> tuple[list[Response], int]:
    """An answer to each prompt, in order, kept ones not asked again; and how many prompts were asked now."""
    from ripcurrent.evaluate._generate import answer_by_endpoint, answer_locally

    if (folder / RESPONSES).exists():
        return read_responses(folder)[1], 0
    log = ResponseLog(folder / PARTIAL)
    waiting = [prompt for prompt in prompts if prompt.id not in log.done]
    progress.start("asking", len(prompts), "prompts")
    progress.skipped(len(prompts) - len(waiting))
    if isinstance(answerer, Endpoint):
        ask = partial(answer_by_endpoint, answerer)
    else:
        ask = partial(answer_locally, answerer, batch_size=options.batch_size or 32)
    for batch in ask(waiting, system=options.system, max_new_tokens=options.max_new_tokens):
        log.add(batch)
        progress.rows(len(batch))
    progress.finish()
    responses = [log.done[prompt.id] for prompt in prompts]
    write_responses(folder, prompts, responses)
    (folder / PARTIAL).unlink(missing_ok=True)
    return responses, len(waiting)


def _require_answers(responses: Sequence[Response], info: ModelInfo | EndpointInfo, max_new_tokens: int) -> None:
    """Raise where there is nothing that a rate could be of."""
    answered = sum(one.rejected is None for one in responses)
    if not answered and isinstance(info, EndpointInfo):
        raise RipcurrentError(
            f"The endpoint {info.base_url} rejected every one of the {len(responses)} prompts, though it answers a "
            f"greeting; the first: {responses[0].rejected}.",
            "It filters what it is asked: name another endpoint, or other prompts and another folder.",
            code=ExitCode.NOT_MEASURED,
        )
    cut = sum(map(is_cut_thought, responses))
    if 2 * cut >= answered:
        raise NothingToJudgeError(
            f"{cut} of {answered} answers are thoughts that the limit of {max_new_tokens} new tokens cut, so there is "
            "nothing to judge.",
            "In another folder give more with --max-new-tokens (in an experiment's file max_new_tokens), such as 1024, "
            "or ask through a chat template that does not think.",
        )


def _require_verdicts(folder: Path, verdicts: Mapping[str, Sequence[Verdict]]) -> None:
    """Raise where a judge could judge no answer."""
    unable = [name for name, said in verdicts.items() if all(one.label == UNJUDGED for one in said)]
    if not unable:
        return
    reasons = [one.reason for name in unable for one in verdicts[name] if one.reason != REJECTED]
    why, count = Counter(reasons).most_common(1)[0]
    raise RipcurrentError(
        f"{' and '.join(unable)} could judge none of the {len(reasons) // len(unable)} answers, kept in {folder} "
        f"(most often, {count} times: {why}).",
        "Look after the judge's endpoint, and give the command again."
        if why in get_args(FailureKind)
        else "A judging model must reply in JSON as the rubric asks: name an abler one, and run this again.",
        code=ExitCode.NOT_MEASURED,
    )
