"""Judging the answers of an evaluation: when they are given, and again later, by other judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate._evaluation_rates import notes_on, summarise
from ripcurrent.evaluate._prompts import Prompt
from ripcurrent.evaluate._responses import (
    VERDICTS,
    Response,
    judge_responses,
    read_judges,
    read_responses,
    read_verdicts,
    write_verdicts,
)
from ripcurrent.evaluate.judges import Judge, Verdict
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder, read_config, read_manifest


def judge_again(folder: Path, judges: Sequence[Judge], progress: Progress | None = None) -> None:
    """Add judges' verdicts to a finished evaluation's answers, in place of earlier ones by judges of these names.

    The model that answered need not be there any more.

    Raises:
        RipcurrentError: The folder holds no finished evaluation, or a judge's endpoint fails; what is done is kept.
    """
    read_manifest(folder)
    with RunFolder(folder, read_config(folder)) as run:
        asked, responses = read_responses(folder)
        verdicts = judged(folder, asked, responses, judges, progress or SilentProgress())
        previous = run.read_manifest()
        run.write_manifest({**previous, **verdicts_record(folder, asked, responses, verdicts, previous)})


def judged(
    folder: Path, prompts: Sequence[Prompt], responses: Sequence[Response], judges: Sequence[Judge], told: Progress
) -> dict[str, Sequence[Verdict]]:
    """The verdicts of these judges, after those of others that judged these answers before; kept in the folder."""
    answered = sum(one.rejected is None for one in responses)
    verdicts: dict[str, Sequence[Verdict]] = {}
    if (folder / VERDICTS).exists():
        verdicts |= read_verdicts(folder, [prompt.id for prompt in prompts], [one.truncated for one in responses])
    judged_by = read_judges(folder)
    ids = [prompt.id for prompt in prompts]
    for judge in judges:
        if judge.describe().get("kind") != "rule":
            told.start(f"judging by {judge.name}", answered, "answers")
        try:
            verdicts[judge.name] = judge_responses(judge, prompts, responses)
        except RipcurrentError:
            # what the judges before it found is kept
            write_verdicts(folder, ids, verdicts, judged_by)
            raise
        judged_by[judge.name] = _record(judge)
        told.finish()
    write_verdicts(folder, ids, verdicts, judged_by)
    return verdicts


def _record(judge: Judge) -> dict[str, Any]:
    scale = {} if judge.scale is None else {"scale": list(judge.scale)}
    return {"version": judge.version, **scale, **judge.describe()}


def verdicts_record(
    folder: Path,
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    verdicts: Mapping[str, Sequence[Verdict]],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """What a manifest says of the verdicts kept in a folder: by whom, rates, notes.

    Verdicts of an earlier version have their judges' records in its ``manifest`` alone.
    """
    judged_by = {**manifest.get("judges", {}), **read_judges(folder)}
    notes = [*notes_on(prompts, manifest["prompts"], responses, verdicts), _other_base(manifest["model"])]
    return {
        "judges": judged_by,
        **summarise(prompts, responses, verdicts, judged_by),
        "notes": [one for one in notes if one is not None],
    }


def _other_base(facts: Mapping[str, Any]) -> str | None:
    """A warning where the adapter names another base model than it was put on; an endpoint has no adapter."""
    if facts.get("adapter_base") is None:
        return None
    from ripcurrent.models import ModelInfo

    return ModelInfo.model_validate(facts).other_base()
