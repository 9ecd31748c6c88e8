"""The finished runs of experiments as a ladder: what each trained on, by its scores, and what it then answered."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.experiment import HARMFUL, read_run
from ripcurrent.forecast._calibration import CalibrationRun, JudgedBy, LeftOut, NamedHash, Source, with_set_cosine
from ripcurrent.forecast._conditions import Conditions, harmful_sha256, recipe_sha256
from ripcurrent.forecast._trained_rows import ScoredSource, row_hashes, trained_rows
from ripcurrent.runs import read_json_lines, read_manifest
from ripcurrent.scan._columns import COHERENCE, SUMMED
from ripcurrent.scan._scored_with import ScoredWith

CoherenceOfSource = Callable[[ScoredSource, Sequence[int], Path], float]
"""How alike rows of a source are: of the source, their numbers, and a folder to keep it in."""

AGAIN = "Run the experiment again with the same command: it goes on where it was stopped."


@dataclass(frozen=True, slots=True)
class Ladder:
    """Runs that can be fitted together."""

    scored_with: ScoredWith
    """What their scores rest on."""
    default_column: str
    """The ranking column of the first experiment's scan."""
    conditions: Conditions
    """What they have in common."""
    sources: tuple[Source, ...]
    """Where their rows come from, that of the first experiment first."""
    runs: tuple[CalibrationRun, ...]
    """The runs."""
    left_out: tuple[LeftOut, ...]
    """Runs that cannot be used, and why."""


@dataclass(frozen=True, slots=True)
class _Experiment:
    """One experiment's folder."""

    folder: Path
    name: str
    config: Mapping[str, Any]
    scans: Mapping[str, ScoredSource]
    requests: Mapping[str, str]
    """Ids of its harmful requests, and these."""
    prompts: NamedHash


def read_ladder(
    folders: Sequence[Path],
    scans: Sequence[Path] = (),
    *,
    judge: str = "prefix",
    coherence: CoherenceOfSource | None = None,
) -> Ladder:
    """The finished runs of experiments, with the mean scores of their rows and what they answered of common requests.

    Scores are those of the first experiment's scan, or of scans that are comparable with it (same model, anchors,
    options): an arm that chose its rows by other scores is described by these.

    Args:
        folders: Folders of experiments of arms.
        scans: Further finished scans, for arms whose rows came from a file.
        judge: Whose verdicts count.
        coherence: Measures how alike the rows of each run are; left out of the means unless given.

    Raises:
        RipcurrentError: A folder that holds no such experiment; experiments that cannot be joined (the first difference
            is named); or no usable run.
    """
    experiments = [_open(folder, number) for number, folder in enumerate(folders)]
    main = experiments[0].scans[""]
    known: dict[str, ScoredSource] = {}
    for one in (*(scan for each in experiments for scan in each.scans.values()), *map(ScoredSource, scans)):
        if main.scored_with.difference(one.scored_with, main.scored.ranking_columns) is None:
            # of scans of one file, with limits perhaps, the one of the most rows
            known[one.sha256] = max(known.get(one.sha256, one), one, key=lambda scan: len(scan.scored.rows))
    names = _source_names(known)
    # requests that all were asked are those of the one that was asked the fewest
    fewest = min(experiments, key=lambda one: one.prompts.count)
    wanted = Counter(fewest.requests.values())
    _refuse_other_questions(experiments, wanted)
    runs: list[tuple[CalibrationRun, Mapping[str, Any], JudgedBy, str]] = []
    left_out: list[LeftOut] = []
    for experiment in experiments:
        asked = _asked_as(wanted, experiment.requests)
        for marker, place in _markers(experiment):
            found = _read(experiment, marker, place, known, names, main, judge, asked, coherence)
            if isinstance(found, str):
                left_out.append(
                    LeftOut(experiment=experiment.name, arm=marker["arm"], seed=marker["seed"], reason=found)
                )
            else:
                runs.append(found)
    kept, common = _alike(runs, left_out)
    if not kept:
        reasons = "; ".join(f"{one.arm}: {one.reason}" for one in left_out[:2]) or "no arm is finished"
        raise RipcurrentError(f"No run can be used ({reasons}).", AGAIN, code=ExitCode.NOT_MEASURED)
    used = Counter(run.source for run in kept)
    ordered = [main.sha256, *(sha256 for sha256 in known if sha256 != main.sha256)]
    place_of = {names[sha256]: place for place, sha256 in enumerate(ordered)}
    first = experiments[0]
    return Ladder(
        scored_with=main.scored_with,
        default_column=main.scored.default_ranking,
        conditions=Conditions(
            recipe=dict(common[0]["recipe"]),
            finetune={key: common[0]["options"].get(key) for key in ("max_tokens", "loss_on")},
            prompts=fewest.prompts,
            system=first.config.get("system"),
            max_new_tokens=int(first.config["max_new_tokens"]),
            judge=common[1],
        ),
        sources=tuple(
            Source(
                name=names[sha256],
                sha256=sha256,
                rows=int(known[sha256].scored.ok.sum()),
                means=known[sha256].means() | _alikeness(known[sha256], None, known[sha256].folder, coherence),
                runs=used[names[sha256]],
            )
            for sha256 in ordered
            if used[names[sha256]]
        ),
        runs=tuple(sorted(kept, key=lambda run: place_of[run.source])),
        left_out=tuple(left_out),
    )


def _open(folder: Path, number: int) -> _Experiment:
    try:
        config = json.loads((folder / "experiment.json").read_text(encoding="utf-8"))
        texts = read_json_lines(folder / "prompts.jsonl")
        asked = [one for one in texts if one["axis"] == HARMFUL]
        harmful = {str(one["id"]): str(one["prompt"]) for one in asked}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RipcurrentError(
            f"{folder} holds no experiment of arms.", "Name the folder that `ripcurrent experiment` wrote."
        ) from error
    if not harmful:
        raise RipcurrentError(
            f"The arms of {folder} were asked nothing harmful.", "Give prompts with the axis harmful."
        )
    scans = {"": config.get("run") or folder / "scans" / "main"}
    further = {
        name: Path(one.get("run") or folder / "scans" / name) for name, one in (config.get("scans") or {}).items()
    }
    # one that no arm was run for yet may not have been made
    scans |= {name: run for name, run in further.items() if (run / "scores.parquet").is_file()}
    sha256 = harmful_sha256([*harmful.values()])
    sources = " and ".join(dict.fromkeys(Path(str(one["source"])).name for one in asked if one.get("source")))
    name = str(config.get("name") or folder.name)
    return _Experiment(
        folder,
        f"{name}-{number + 1}" if number else name,
        config,
        {name: ScoredSource(Path(run)) for name, run in scans.items()},
        harmful,
        NamedHash(name=sources or "prompts", sha256=sha256, count=len(harmful)),
    )


def _asked_as(wanted: Mapping[str, int], requests: Mapping[str, str]) -> frozenset[str]:
    """Ids of the requests that all were asked, each as often as where the fewest were."""
    left = Counter(wanted)
    found = []
    for own, text in requests.items():
        if left[text] > 0:
            left[text] -= 1
            found.append(own)
    return frozenset(found)


def _source_names(known: Mapping[str, ScoredSource]) -> dict[str, str]:
    """A name for each dataset hash: its own, with a part of the hash where two have the same."""
    counts = Counter(scan.name for scan in known.values())
    return {
        sha256: scan.name if counts[scan.name] == 1 else f"{scan.name} ({sha256[:8]})" for sha256, scan in known.items()
    }


def _refuse_other_questions(experiments: Sequence[_Experiment], wanted: Counter[str]) -> None:
    first = experiments[0]
    for other in experiments[1:]:
        differing = [name for name in ("system", "max_new_tokens") if first.config.get(name) != other.config.get(name)]
        if not all(wanted <= Counter(one.requests.values()) for one in (first, other)):
            differing.insert(0, "harmful requests")
        if differing:
            raise RipcurrentError(
                f"{other.folder} cannot be joined with {first.folder}: its {differing[0].replace('_', ' ')} differ.",
                "Join experiments that ask the same requests, or these and more, in the same way.",
            )


def _markers(experiment: _Experiment) -> Iterator[tuple[Mapping[str, Any], Path]]:
    """The completion markers of arms, with their folders; the untrained model is none."""
    for path in sorted((experiment.folder / "arms").glob("*/arm.json")):
        try:
            marker = json.loads(path.read_text(encoding="utf-8"))
            trained = marker["seed"] is not None and {"arm", "status", "identity"} <= marker.keys()
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise RipcurrentError(f"{path} is damaged.", "Remove that arm's folder to make it anew.") from error
        if trained:
            yield marker, path.parent


def _read(
    experiment: _Experiment,
    marker: Mapping[str, Any],
    place: Path,
    known: Mapping[str, ScoredSource],
    names: Mapping[str, str],
    main: ScoredSource,
    judge: str,
    asked: frozenset[str],
    coherence: CoherenceOfSource | None,
) -> tuple[CalibrationRun, Mapping[str, Any], JudgedBy, str] | str:
    """A run with its fine-tuning's manifest and its judge, or why it cannot be used."""
    if marker["status"] != "finished":
        return "its training failed"
    trained = read_manifest(place / "finetune")
    # a fresh LoRA is part of the fingerprint of a model that was scanned with one, and not of the model trained
    if (
        main.scored_with.options.get("scope") != "lora"
        and trained["model"]["fingerprint"] != main.scored_with.fingerprint
    ):
        return "another model was trained than the one that the scores are of"
    found = trained_rows(marker["identity"]["rule"], place, experiment.scans, known)
    if isinstance(found, str):
        return found
    source, rows = found
    run = read_run(marker["arm"], marker["seed"], place / "evaluation")
    if judge not in run.labels:
        return f"judge {judge} did not judge it"
    labels = [run.labels[judge][place] for place in run.places(HARMFUL) if run.prompt_ids[place] in asked]
    if any(label not in ("compliance", "degenerate", "refusal") for label in labels):
        return f"judge {judge} did not judge every answer"
    return (
        CalibrationRun(
            experiment=experiment.name,
            arm=str(marker["arm"]),
            seed=int(marker["seed"]),
            source=names[source.sha256],
            tokens_sha256=str(trained["rows"]["tokens_sha256"]),
            rows=int(trained["rows"]["trained"]),
            steps=int(trained["training"]["steps"]),
            row_hashes=row_hashes(place),
            means=with_set_cosine(
                source.means(rows) | _alikeness(source, rows, place, coherence), int(trained["rows"]["trained"])
            ),
            answered=labels.count("compliance"),
            degenerate=labels.count("degenerate"),
            asked=len(labels),
        ),
        trained,
        JudgedBy(name=judge, version=run.versions[judge]),
        experiment.name,
    )


def _alikeness(
    source: ScoredSource,
    rows: Sequence[int] | None,
    place: Path,
    coherence: CoherenceOfSource | None,
) -> dict[str, float]:
    """The coherence of rows, all usable ones unless named, where it is measured and they have the scores for it."""
    if coherence is None:
        return {}
    at = source.scored.rows[source.scored.ok].tolist() if rows is None else rows
    if SUMMED not in source.means(at):
        return {}
    return {COHERENCE: coherence(source, at, place)}


def _alike(
    runs: Sequence[tuple[CalibrationRun, Mapping[str, Any], JudgedBy, str]], left_out: list[LeftOut]
) -> tuple[list[CalibrationRun], tuple[Mapping[str, Any], JudgedBy]]:
    """The runs trained and judged as most of the first experiment's are; the others are left out.

    Raises:
        RipcurrentError: A whole experiment differs.
    """
    if not runs:
        return [], ({}, JudgedBy(name="", version=""))

    def how(trained: Mapping[str, Any], judge: JudgedBy) -> dict[str, str]:
        return {
            "recipe": recipe_sha256(trained["recipe"]),
            "chat template": str(trained["model"]["template_sha256"]),
            "max_tokens": str(trained["options"].get("max_tokens")),
            "loss_on": str(trained["options"].get("loss_on")),
            "version of the judge": judge.version,
        }

    first = [(trained, judge) for _, trained, judge, name in runs if name == runs[0][3]]
    common = Counter(json.dumps(how(*one)) for one in first).most_common(1)[0][0]
    usual = json.loads(common)
    alike: dict[tuple[str, int], CalibrationRun] = {}
    kept: list[CalibrationRun] = []
    others: dict[str, str] = {}
    joined: set[str] = set()
    for run, trained, judge, name in runs:
        own = how(trained, judge)
        other = [what for what in usual if own[what] != usual[what]]
        if other:
            reason = f"its {other[0]} is another"
            others.setdefault(name, reason)
        else:
            joined.add(name)
            same = alike.setdefault((run.tokens_sha256, int(trained["seeds"]["seed"])), run)
            if same is run:
                kept.append(run)
                continue
            reason = f"arm {same.arm} of {same.experiment} is the same training"
        left_out.append(LeftOut(experiment=name, arm=run.arm, seed=run.seed, reason=reason))
    for name, reason in others.items():
        if name not in joined:
            raise RipcurrentError(
                f"The experiment {name} cannot be joined with {runs[0][3]}: {reason} than there.",
                "Join experiments with one recipe, made by one version.",
            )
    reference = next(one for one in first if json.dumps(how(*one)) == common)
    return kept, reference
