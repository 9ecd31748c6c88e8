"""Judging the answers of an evaluation: when they are given, and again later, by other judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ripcurrent.api._adapter_base import other_base
from ripcurrent.api._evaluation_rates import notes_on, summarise
from ripcurrent.api._progress import Progress, SilentProgress
from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluation import Judge, Prompt, Verdict
from ripcurrent.evaluation._responses import (
    VERDICTS,
    Response,
    judge_responses,
    read_responses,
    read_verdicts,
    write_verdicts,
)
from ripcurrent.run import RunDirectory, read_config, read_manifest


def judge_again(folder: Path, judges: Sequence[Judge], progress: Progress | None = None) -> None:
    """Add judges' verdicts to a finished evaluation's answers, in place of earlier ones by judges of these names.

    The model that answered need not be there any more.

    Raises:
        RipcurrentError: The folder holds no finished evaluation, or a judge's endpoint fails; what is done is kept.
    """
    read_manifest(folder)
    with RunDirectory(folder, read_config(folder)) as run:
        asked, responses = read_responses(folder)
        verdicts = judged(folder, asked, responses, judges, progress or SilentProgress())
        write_verdicts(folder, [prompt.id for prompt in asked], verdicts)
        previous = run.read_manifest()
        run.write_manifest({**previous, **verdicts_record(asked, responses, verdicts, judges, previous)})


def judged(
    folder: Path, prompts: Sequence[Prompt], responses: Sequence[Response], judges: Sequence[Judge], told: Progress
) -> dict[str, Sequence[Verdict]]:
    """The verdicts of these judges, after those of others that judged these answers before."""
    answered = sum(one.rejected is None for one in responses)
    verdicts: dict[str, Sequence[Verdict]] = {}
    if (folder / VERDICTS).exists():
        verdicts |= read_verdicts(folder, [prompt.id for prompt in prompts], [one.truncated for one in responses])
    for judge in judges:
        if judge.describe()["kind"] != "rule":
            told.start(f"judging by {judge.name}", answered)
        try:
            verdicts[judge.name] = judge_responses(judge, prompts, responses)
        except RipcurrentError:
            # what the judges before it found is kept
            write_verdicts(folder, [prompt.id for prompt in prompts], verdicts)
            raise
        told.finish()
    return verdicts


def verdicts_record(
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    verdicts: Mapping[str, Sequence[Verdict]],
    judges: Sequence[Judge],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    """What a manifest says of the verdicts: by whom, rates, notes. ``judges`` judged now; earlier ones are in it."""
    judged_by = {**manifest.get("judges", {}), **{judge.name: _describe(judge) for judge in judges}}
    of_harm = {name for name, facts in judged_by.items() if facts.get("reply") == "score"}
    notes = [*notes_on(prompts, manifest["prompts"], responses, verdicts), other_base(manifest["model"])]
    return {
        "judges": judged_by,
        **summarise(prompts, responses, verdicts, {judge.name: judge.scale for judge in judges}, manifest, of_harm),
        "notes": [one for one in notes if one is not None],
    }


def _describe(judge: Judge) -> dict[str, Any]:
    return {"version": judge.version, **judge.describe()}
