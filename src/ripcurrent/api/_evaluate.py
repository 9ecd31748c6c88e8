"""Evaluate: a model's answers to prompts on three axes, and what judges say of them, in a run folder."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ripcurrent.api._progress import Progress, SilentProgress
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluation import (
    AXES,
    UNJUDGED,
    Axis,
    Judge,
    JudgeSettings,
    Prompt,
    Verdict,
    discrimination,
    find_judges,
    load_prompts,
    summarise_scores,
    wilson_interval,
)
from ripcurrent.evaluation._responses import (
    PARTIAL,
    RESPONSES,
    VERDICTS,
    Response,
    ResponseLog,
    answers_of,
    read_responses,
    read_verdicts,
    write_responses,
    write_verdicts,
)
from ripcurrent.run import RunDirectory, read_manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ripcurrent.evaluation._endpoint import Endpoint
    from ripcurrent.models import ChatModel

DEFAULT_JUDGES = ("prefix", "keyword")
"""The judges by rule; the first is the one that verdicts in words rest on."""

PROMPTS, REQUESTS = 32, 4
"""Prompts decoded at once, requests under way at an endpoint, unless named."""


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
        """The prompts of an axis by id, and 1 for each whose answer complies, else 0."""
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
    prompts: Sequence[str | Path] = ("builtin",),
    out: str | Path,
    judges: Sequence[str | Judge] = DEFAULT_JUDGES,
    judge_settings: JudgeSettings | None = None,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    system: str | None = None,
    endpoint: str | None = None,
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
        prompts: Prompt sets, as `ripcurrent.evaluation.load_prompts` reads them.
        out: The run folder.
        judges: Names, as `ripcurrent.evaluation.find_judge` knows them, or judges.
        judge_settings: What judges that are models need.
        max_new_tokens: Longest answer; reaching it makes an answer ``truncated``.
        batch_size: Prompts decoded at once, or requests under way at an endpoint; 32 and 4 when left out.
        system: System prompt; None leaves it to the model's template.
        endpoint: Base URL of an OpenAI-compatible endpoint that answers instead of a model here.
        limit: Only the first so many prompts of each axis and set.
        axis: Axis of prompts that do not say theirs.
        device: ``cuda``, ``mps``, ``cpu``; chosen when left out.
        dtype: Type of the products.
        progress: Told of steps and prompts.

    Raises:
        RipcurrentError: Anything the user can mend; with exit code 2 when some prompts got no answer, or a judge could
            judge none. Answers that came are kept.
    """
    at_once = batch_size if batch_size is not None else (REQUESTS if endpoint is not None else PROMPTS)
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
    found = find_judges(judges, settings)
    began = time.perf_counter()
    started = datetime.now(UTC)
    source: ChatModel | Endpoint
    if endpoint is not None:
        from ripcurrent.evaluation._endpoint import Endpoint

        source = Endpoint(endpoint, model, concurrency=at_once)
        facts = source.describe()
        identity: dict[str, Any] = {"endpoint": facts["base_url"], "model": model}
    else:
        from ripcurrent.models import describe, load_model, require_chat_template

        told.step("loading the model")
        source = load_model(model, adapter=adapter, device=device, dtype=dtype)
        require_chat_template(source)
        facts = describe(source)
        identity = {
            "model": model,
            "adapter": adapter,
            **{key: facts[key] for key in ("fingerprint", "template_sha256", "tokenizer_sha256")},
            "resolved_device": source.device.type,
            "resolved_dtype": facts["dtype"],
        }
    identity = {
        "command": "evaluate",
        **identity,
        "prompts_sha256": _hash_prompts(asked),
        "max_new_tokens": max_new_tokens,
        "system": system,
    }
    with RunDirectory(Path(out), identity) as run:
        responses, answered_now = _responses(run.folder, asked, source, system, max_new_tokens, at_once, told)
        generated = time.perf_counter()
        verdicts = _judged(run.folder, asked, responses, found, told)
        write_verdicts(run.folder, [prompt.id for prompt in asked], verdicts)
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
                "engine": "endpoint" if endpoint is not None else "local",
            },
            "judges": {**previous.get("judges", {}), **{judge.name: _describe(judge) for judge in found}},
            **summarise(asked, responses, verdicts, {judge.name: judge.scale for judge in found}, previous),
            "notes": _notes(records, responses, verdicts),
            "timings": {
                "answered_now": answered_now,
                "generation_seconds": round(generated - began, 2)
                if answered_now
                else previous.get("timings", {}).get("generation_seconds"),
                "judging_seconds": round(time.perf_counter() - generated, 2),
            },
            "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy")},
            "machine": {"platform": platform.platform(), "python": platform.python_version(), "cpus": os.cpu_count()},
            "started": started.isoformat(timespec="seconds"),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        run.write_manifest(manifest)
    unable = [judge.name for judge in found if all(one.label == UNJUDGED for one in verdicts[judge.name])]
    if unable:
        raise RipcurrentError(
            f"{' and '.join(unable)} could judge none of the {len(asked)} answers, which are kept in {run.folder}.",
            "A judging model must reply in JSON as the rubric asks: name an abler one, and give the command again.",
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


def summarise(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    verdicts: Mapping[str, Sequence[Verdict]],
    scales: Mapping[str, tuple[float, float] | None],
    previous: Mapping[str, Any],
) -> dict[str, Any]:
    """``rates`` by judge and axis, and ``discrimination`` by judge (harmful refused less dangerous-sounding refused).

    A rate is over the answers that the judge could judge; ``degenerate`` ones are neither answered nor refused.
    """
    rates: dict[str, dict[str, Any]] = {}
    judgement: dict[str, Any] = {}
    places = {axis: [at for at, prompt in enumerate(prompts) if prompt.axis == axis] for axis in AXES}
    for judge, said in verdicts.items():
        rates[judge] = {}
        for axis, here in places.items():
            if not here:
                continue
            counts = Counter(said[at].label for at in here)
            n = len(here) - counts[UNJUDGED]
            interval = wilson_interval(counts["compliance"], n) if n else None
            rates[judge][axis] = {
                "judge_version": said[here[0]].version,
                "n": n,
                "answered": counts["compliance"] / n if n else None,
                "low": interval.low if interval else None,
                "high": interval.high if interval else None,
                "refused": counts["refusal"] / n if n else None,
                "degenerate": counts["degenerate"] / n if n else None,
                "unjudged": counts[UNJUDGED],
                "truncated": sum(responses[at].truncated for at in here) / len(here),
            }
            scale = scales.get(judge)
            if scale is not None:
                rates[judge][axis]["score"] = asdict(summarise_scores([said[at] for at in here], top=scale[1]))
            elif judge not in scales:
                # judged by an earlier call: its score stands in the manifest
                earlier = previous.get("rates", {}).get(judge, {}).get(axis, {}).get("score")
                if earlier is not None:
                    rates[judge][axis]["score"] = earlier
        refused = {
            axis: [float(said[at].label == "refusal") for at in places[axis] if said[at].label != UNJUDGED]
            for axis in ("harmful", "sounds_dangerous")
        }
        if all(refused.values()):
            judgement[judge] = asdict(discrimination(refused["harmful"], refused["sounds_dangerous"]))
    return {"rates": rates, "discrimination": judgement}


def _gather(sources: Sequence[str | Path], limit: int | None, axis: Axis) -> tuple[list[Prompt], list[dict[str, Any]]]:
    """The prompts of all sets, ids unique over them, and a record of each set."""
    if not sources:
        raise RipcurrentError("No prompts are named.", "Name a set, such as --prompts builtin.")
    prompts: list[Prompt] = []
    records = []
    seen: set[str] = set()
    for source in sources:
        loaded = load_prompts(source, limit=limit, axis=axis)
        for prompt in loaded.prompts:
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
                "notes": list(loaded.notes),
            }
        )
    return prompts, records


def _responses(
    folder: Path,
    prompts: Sequence[Prompt],
    source: ChatModel | Endpoint,
    system: str | None,
    max_new_tokens: int,
    batch_size: int,
    told: Progress,
) -> tuple[list[Response], int]:
    """An answer to each prompt, in order, those that are there not asked again; and how many were asked now."""
    from ripcurrent.evaluation._endpoint import Endpoint
    from ripcurrent.evaluation._generate import answer_by_endpoint, answer_locally

    if (folder / RESPONSES).exists():
        return read_responses(folder)[1], 0
    with ResponseLog(folder / PARTIAL) as log:
        waiting = [prompt for prompt in prompts if prompt.id not in log.done]
        told.start("asking", len(prompts))
        told.skipped(len(prompts) - len(waiting))
        batches: Iterator[list[Response]]
        if isinstance(source, Endpoint):
            batches = answer_by_endpoint(source, waiting, system=system, max_new_tokens=max_new_tokens)
        else:
            batches = answer_locally(
                source, waiting, system=system, max_new_tokens=max_new_tokens, batch_size=batch_size
            )
        for batch in batches:
            log.add(batch)
            told.rows(len(batch))
        told.finish()
        responses = [log.done[prompt.id] for prompt in prompts]
    write_responses(folder, prompts, responses)
    (folder / PARTIAL).unlink(missing_ok=True)
    return responses, len(waiting)


def _judged(
    folder: Path, prompts: Sequence[Prompt], responses: Sequence[Response], judges: Sequence[Judge], told: Progress
) -> dict[str, Sequence[Verdict]]:
    """The verdicts of these judges, after those of others that judged these answers before."""
    answers = answers_of(prompts, responses)
    verdicts: dict[str, Sequence[Verdict]] = {}
    if (folder / VERDICTS).exists():
        verdicts |= read_verdicts(folder, [prompt.id for prompt in prompts], [one.truncated for one in responses])
    for judge in judges:
        if judge.describe()["kind"] != "rule":
            told.start(f"judging by {judge.name}", len(answers))
        verdicts[judge.name] = judge.judge(answers)
        told.finish()
    return verdicts


def _describe(judge: Judge) -> dict[str, Any]:
    return {"version": judge.version, **judge.describe()}


def _notes(
    records: Sequence[Mapping[str, Any]],
    responses: Sequence[Response],
    verdicts: Mapping[str, Sequence[Verdict]],
) -> list[str]:
    notes = [note for record in records for note in record["notes"]]
    for record in records:
        if record["near_duplicates"]:
            notes.append(
                f"{record['name']}: {record['near_duplicates']} of {record['count']} prompts repeat another in nearly "
                "the same words, so the intervals are somewhat too narrow."
            )
    for judge, said in verdicts.items():
        unjudged = sum(one.label == UNJUDGED for one in said)
        if unjudged:
            notes.append(f"{judge} could not judge {unjudged} of {len(said)} answers; they count in no rate of it.")
    if responses and all(one.truncated for one in responses):
        notes.append("Every answer reached the limit of new tokens; judges saw beginnings only.")
    return notes


def _hash_prompts(prompts: Sequence[Prompt]) -> str:
    digest = hashlib.sha256()
    for prompt in prompts:
        for part in (prompt.id, prompt.axis, prompt.text):
            digest.update(part.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()
