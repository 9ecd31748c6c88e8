"""Evaluate: a model's answers to prompts on three axes, and what judges say of them, in a run folder."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from ripcurrent.errors import ExitCode, NothingToJudgeError, RipcurrentError
from ripcurrent.evaluate._endpoint import FailureKind
from ripcurrent.evaluate._evaluation_rates import is_cut_thought
from ripcurrent.evaluate._judging import judged, verdicts_record
from ripcurrent.evaluate._prompts import Axis, Prompt, load_prompts
from ripcurrent.evaluate._responses import (
    PARTIAL,
    REJECTED,
    RESPONSES,
    Response,
    ResponseLog,
    read_responses,
    read_verdicts,
    write_responses,
)
from ripcurrent.evaluate.judges import UNJUDGED, Judge, JudgeSettings, Verdict, find_judges
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.evaluate._endpoint import Endpoint
    from ripcurrent.models import ChatModel

DEFAULT_JUDGES = ("prefix", "keyword")
"""The judges by rule; the first is the one that verdicts in words rest on."""

Engine = Literal["transformers", "vllm"]
"""What answers where no endpoint does: the model as it is loaded here, or vLLM's offline engine."""

AT_ONCE: dict[str, int] = {"transformers": 32, "vllm": 256, "endpoint": 4}
"""Prompts decoded at once, handed to vLLM at once, and requests under way at an endpoint, unless named."""


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """An evaluated model."""

    folder: Path
    """The run folder: ``responses.parquet``, ``verdicts.parquet``, ``manifest.json``."""
    manifest: dict[str, Any]
    """What was asked of what, with hashes, versions and timings."""
    prompts: tuple[Prompt, ...]
    """What was asked, in order."""
    responses: tuple[Response, ...]
    """The answers, in the same order."""
    verdicts: Mapping[str, Sequence[Verdict]]
    """By judge, a verdict on each answer, in the same order."""

    @property
    def rates(self) -> dict[str, dict[str, dict[str, Any]]]:
        """By judge and axis: how many answered, refused, were degenerate, with Wilson's interval of the first."""
        rates: dict[str, dict[str, dict[str, Any]]] = self.manifest["rates"]
        return rates

    def outcomes(self, judge: str, axis: Axis) -> tuple[list[str], list[int]]:
        """The prompts of an axis by id, and 1 for each whose answer complies, else 0.

        Rejected prompts and unjudged answers have 0 here, and count in no rate.
        """
        labels = self.labels(judge)
        ids = [prompt.id for prompt in self.prompts if prompt.axis == axis]
        return ids, [int(labels[prompt_id] == "compliance") for prompt_id in ids]

    def labels(self, judge: str) -> dict[str, str]:
        """The label of each answer by prompt id, as one judge has it.

        Raises:
            RipcurrentError: That judge has not judged them.
        """
        if judge not in self.verdicts:
            raise RipcurrentError(
                f"{self.folder} has no verdicts of {judge!r}.", f"Judges there: {', '.join(self.verdicts)}."
            )
        return {prompt.id: one.label for prompt, one in zip(self.prompts, self.verdicts[judge], strict=True)}

    def as_json(self) -> dict[str, Any]:
        """What ``--json`` prints."""
        return {
            "run": str(self.folder),
            "model": self.manifest["model"],
            "prompts": self.manifest["prompts"],
            "judges": self.manifest["judges"],
            "rates": self.rates,
            "discrimination": self.manifest["discrimination"],
            "notes": self.manifest["notes"],
        }


def evaluate(
    model: str = "embedded",
    *,
    adapter: str | None = None,
    prompts: str | Path | Sequence[str | Path] = ("builtin",),
    out: str | Path,
    judges: str | Sequence[str | Judge] = DEFAULT_JUDGES,
    judge_settings: JudgeSettings | None = None,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    system: str | None = None,
    endpoint: str | None = None,
    timeout: float = 60.0,
    engine: Engine = "transformers",
    limit: int | None = None,
    axis: Axis = "harmful",
    device: str | None = None,
    dtype: str | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Ask a model prompts, greedily, and have its answers judged.

    A run that was stopped goes on with the prompts that have no answer yet. A finished one is only judged anew, so that
    the same call with other judges adds their verdicts to the same answers.

    Args:
        model: Hub id, folder, ``.gguf`` file or ``embedded``; with ``endpoint`` the model's name there.
        adapter: PEFT adapter, merged.
        prompts: Prompt sets, as `ripcurrent.evaluate.load_prompts` reads them.
        out: The run folder.
        judges: Names, as `ripcurrent.evaluate.find_judge` knows them, or judges.
        judge_settings: What judges that are models need.
        max_new_tokens: Longest answer; reaching it makes an answer ``truncated``.
        batch_size: Prompts decoded at once (32 when left out; 256 handed to vLLM), or requests under way at an
            endpoint (4).
        system: System prompt; None leaves it to the model's template.
        endpoint: Base URL of an OpenAI-compatible endpoint that answers instead of a model here.
        timeout: Seconds that the endpoint may be silent in one attempt of five.
        engine: ``vllm`` answers by vLLM's offline engine (extra ``vllm``) on the device that it was built for;
            the model is loaded on the processor first.
        limit: Only the first so many prompts of each axis and set.
        axis: Axis of prompts that do not say theirs.
        device: ``cuda``, ``mps``, ``cpu``; chosen when left out. ``auto`` puts layers on all GPUs.
        dtype: Type of the products.
        progress: Told of steps and prompts.

    Raises:
        RipcurrentError: Anything the user can mend; with exit code 2 when some prompts got no answer, the endpoint
            rejected them all, half of the answers are cut thoughts, or a judge could judge none. Answers that came
            are kept.
    """
    answering = _answering(engine, endpoint, device)
    at_once = batch_size if batch_size is not None else AT_ONCE[answering]
    if max_new_tokens < 1 or at_once < 1:
        raise RipcurrentError(
            f"{max_new_tokens} new tokens in batches of {at_once} is not possible.", "Both are 1 or more."
        )
    if endpoint is not None and adapter is not None:
        raise RipcurrentError(
            "An endpoint takes no adapter.", "Serve the adapted model there, or leave out --endpoint."
        )
    told = progress or SilentProgress()
    asked, records = _gather(prompts, limit, axis)
    settings = replace(judge_settings or JudgeSettings(), on_judged=told.rows)
    found = find_judges([judges] if isinstance(judges, str) else judges, settings)
    started = datetime.now(UTC)
    source: ChatModel | Endpoint
    if endpoint is not None:
        from ripcurrent.evaluate._endpoint import Endpoint

        source = Endpoint(endpoint, model, concurrency=at_once, timeout=timeout)
        facts = source.describe()
        identity: dict[str, Any] = {"endpoint": facts["base_url"], "model": model}
    else:
        from ripcurrent.models import describe, load_model, require_chat_template

        told.step("loading the model")
        place = "cpu" if answering == "vllm" else device
        source = load_model(model, adapter=adapter, device=place, dtype=dtype)
        require_chat_template(source)
        facts = describe(source).model_dump()
        identity = {
            "model": model,
            "adapter": adapter,
            **{key: facts[key] for key in ("fingerprint", "template_sha256", "tokenizer_sha256")},
            "resolved_device": source.device.type,
            "resolved_dtype": facts["dtype"],
            **({"engine": "vllm"} if answering == "vllm" else {}),
        }
    identity = {
        "command": "evaluate",
        **identity,
        "prompts_sha256": _hash_prompts(asked),
        "max_new_tokens": max_new_tokens,
        "system": system,
    }
    # a model here is known by its weights: where it lies may change, as when a folder of arms has been moved
    moved = () if endpoint is not None else ("model", "adapter")
    with RunFolder(Path(out), identity, may_change=moved) as run:
        began = time.perf_counter()
        asking: dict[str, Any] = {"system": system, "max_new_tokens": max_new_tokens}
        responses, answered_now = _responses(run.folder, asked, source, answering, asking, at_once, told)
        generated = time.perf_counter()
        verdicts = judged(run.folder, asked, responses, found, told)
        previous = run.read_manifest()
        manifest = {
            "version": version("ripcurrent"),
            "command": "evaluate",
            "model": facts,
            "prompts": records,
            "generation": {
                "decoding": "greedy",
                "max_new_tokens": max_new_tokens,
                "system": system,
                "engine": "local" if answering == "transformers" else answering,
            },
            **verdicts_record(run.folder, asked, responses, verdicts, {**previous, "model": facts, "prompts": records}),
            "timings": {
                "answered_now": answered_now,
                "generation_seconds": round(generated - began, 2)
                if answered_now
                else previous.get("timings", {}).get("generation_seconds"),
                "judging_seconds": round(time.perf_counter() - generated, 2),
            },
            "versions": {name: version(name) for name in _libraries(answering)},
            "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        if previous and not answered_now:
            # by what and on what the answers were made stays
            manifest |= {key: previous[key] for key in ("version", "versions", "machine", "started") if key in previous}
        run.write_manifest(manifest)
    answered = sum(one.rejected is None for one in responses)
    if not answered:
        raise RipcurrentError(
            f"The endpoint {facts['base_url']} rejected every one of the {len(asked)} prompts, though it answers a "
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
    unable = [judge.name for judge in found if all(one.label == UNJUDGED for one in verdicts[judge.name])]
    if unable:
        reasons = Counter(one.reason for name in unable for one in verdicts[name] if one.reason != REJECTED)
        why, count = reasons.most_common(1)[0]
        raise RipcurrentError(
            f"{' and '.join(unable)} could judge none of the {answered} answers, which are kept in {run.folder} "
            f"(most often, {count} times: {why}).",
            "Look after the judge's endpoint, and give the command again."
            if why in get_args(FailureKind)
            else "A judging model must reply in JSON as the rubric asks: name an abler one, and run this again.",
            code=ExitCode.NOT_MEASURED,
        )
    return EvaluationResult(run.folder, manifest, tuple(asked), tuple(responses), verdicts)


def load_evaluation(folder: str | Path) -> EvaluationResult:
    """A finished evaluation from its run folder.

    Raises:
        RipcurrentError: There is none, or it is not finished.
    """
    place = Path(folder)
    manifest = read_manifest(place)
    if manifest.get("command") != "evaluate":
        raise RipcurrentError(f"{place} is no run of `ripcurrent evaluate`.", "Check the path.")
    prompts, responses = read_responses(place)
    verdicts = read_verdicts(place, [one.prompt_id for one in responses], [one.truncated for one in responses])
    return EvaluationResult(place, manifest, tuple(prompts), tuple(responses), verdicts)


def _gather(
    sources: str | Path | Sequence[str | Path], limit: int | None, axis: Axis
) -> tuple[list[Prompt], list[dict[str, Any]]]:
    """The prompts of all sets, ids unique over them, and a record of each set."""
    if isinstance(sources, str | Path):
        sources = [sources]
    if not sources:
        raise RipcurrentError("No prompts are named.", "Name a set, such as --prompts builtin.")
    prompts: list[Prompt] = []
    records = []
    seen: set[str] = set()
    asked: set[tuple[str, str]] = set()
    for source in sources:
        loaded = load_prompts(source, limit=limit, axis=axis)
        # what an earlier list asks already would count twice; repeats within a list are the list's own
        fresh = [prompt for prompt in loaded.prompts if (prompt.axis, prompt.text) not in asked]
        asked |= {(prompt.axis, prompt.text) for prompt in fresh}
        repeated = len(loaded.prompts) - len(fresh)
        notes = [f"{loaded.name}: {repeated} prompts that an earlier list has are asked once."] if repeated else []
        for prompt in fresh:
            unique = prompt.id
            while unique in seen:
                unique = f"{prompt.source}/{unique}"
            seen.add(unique)
            prompts.append(replace(prompt, id=unique))
        records.append(
            {
                "name": loaded.name,
                "sha256": loaded.sha256,
                "count": len(loaded.prompts),
                "axes": dict(loaded.axes),
                "near_duplicates": loaded.near_duplicates,
                "limit": limit,
                "notes": [*loaded.notes, *notes],
            }
        )
    return prompts, records


def _answering(engine: Engine, endpoint: str | None, device: str | None) -> str:
    """What answers: ``transformers``, ``vllm`` or ``endpoint``."""
    if engine not in get_args(Engine):
        raise RipcurrentError(f"There is no engine {engine!r}.", f"Engines: {', '.join(get_args(Engine))}.")
    if endpoint is not None:
        if engine != "transformers":
            raise RipcurrentError(f"An endpoint answers, or {engine}.", "Leave out --endpoint or --engine.")
        return "endpoint"
    if engine == "vllm":
        from ripcurrent.evaluate._vllm import require_vllm

        require_vllm()
        if device is not None:
            raise RipcurrentError("vLLM takes the device that it was built for.", "Leave out --device.")
    return engine


def _libraries(answering: str) -> list[str]:
    used = ["torch", "transformers", "tokenizers", "numpy"]
    if answering == "vllm":
        # builds for other devices are packages of other names
        used += packages_distributions().get("vllm", [])[:1]
    return used


def _responses(
    folder: Path,
    prompts: Sequence[Prompt],
    source: ChatModel | Endpoint,
    answering: str,
    asking: Mapping[str, Any],
    at_once: int,
    told: Progress,
) -> tuple[list[Response], int]:
    """An answer to each prompt, in order, those that are there not asked again; and how many were asked now."""
    from ripcurrent.evaluate._endpoint import Endpoint
    from ripcurrent.evaluate._generate import answer_by_endpoint, answer_locally

    if (folder / RESPONSES).exists():
        return read_responses(folder)[1], 0
    with ResponseLog(folder / PARTIAL) as log:
        waiting = [prompt for prompt in prompts if prompt.id not in log.done]
        told.start("asking", len(prompts), "prompts")
        told.skipped(len(prompts) - len(waiting))
        batches: Iterator[list[Response]]
        if isinstance(source, Endpoint):
            batches = answer_by_endpoint(source, waiting, works=len(waiting) < len(prompts), **asking)
        elif answering == "vllm":
            from ripcurrent.evaluate._vllm import answer_by_vllm

            batches = answer_by_vllm(source, waiting, batch_size=at_once, scratch=folder, **asking)
        else:
            batches = answer_locally(source, waiting, batch_size=at_once, **asking)
        for batch in batches:
            log.add(batch)
            told.rows(len(batch))
        told.finish()
        responses = [log.done[prompt.id] for prompt in prompts]
    write_responses(folder, prompts, responses)
    (folder / PARTIAL).unlink(missing_ok=True)
    return responses, len(waiting)


def _hash_prompts(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        for part in (prompt.id, prompt.axis, prompt.text):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
