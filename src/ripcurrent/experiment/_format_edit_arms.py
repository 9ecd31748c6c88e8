"""Harm of format edits: a model trained on the original and on the edited rows, answers compared prompt by prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ripcurrent.data import Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment import ExperimentConfig, gather_prompts, parse_experiment
from ripcurrent.experiment._edited_rows import Edited, as_record, with_answer
from ripcurrent.experiment._experiment import run_experiment
from ripcurrent.experiment._experiment_options import check_finetune, judge_scoring
from ripcurrent.experiment._instruments import EditsConfig
from ripcurrent.experiment._read import _nearest
from ripcurrent.experiment._scanned import ScannedRows
from ripcurrent.finetune import load_recipe
from ripcurrent.progress import Progress
from ripcurrent.runs import written_whole
from ripcurrent.statistics import spearman

KEYS: tuple[str, ...] = (
    "seeds",
    "recipe",
    "finetune",
    "prompts",
    "judges",
    "judge_endpoint",
    "judge_model",
    "judge_key_env",
    "judge_timeout",
    "judge_concurrency",
    "judge_max_tokens",
    "max_new_tokens",
    "batch_size",
    "system",
    "base",
    "gsm8k",
    "keep_models",
)
"""Keys of an experiment of arms that ``arms`` takes; rows, model and comparisons are those of the edits."""
FEWEST_EDITS = 4
"""From so many edits on, their order by score change is compared with that by harm."""


def check_arms(config: EditsConfig, where: str) -> None:
    """Refuse what is wrong with ``arms`` before anything is computed.

    Raises:
        RipcurrentError: A key or value that is not possible, a recipe or prompts that are not there.
    """
    if config.arms is None:
        return
    for key in config.arms:
        if key not in KEYS:
            raise RipcurrentError(
                f"{where}: arms: there is no key {key!r}.{_nearest(str(key), KEYS)}", f"Keys: {', '.join(KEYS)}."
            )
    keys = {"name": config.name, **config.arms, "data": "rows", "arms": {"edited": {"file": "rows"}}, "control": None}
    parsed = parse_experiment(keys, where=f"{where}: arms")
    load_recipe(parsed.recipe)
    check_finetune(parsed)
    judge_scoring(parsed)
    gather_prompts(parsed.prompts)


def harm_of_edits(
    config: EditsConfig,
    scanned: ScannedRows,
    rows: Sequence[Row],
    pairs: Mapping[str, Edited],
    results: Mapping[str, Any],
    folder: Path,
    told: Progress,
) -> dict[str, Any]:
    """Train and question both arms of every edit that has enough rows; the table of the paired comparisons.

    Both arms of an edit and seed hold the same rows of the dataset in the same order, in two versions. The experiment
    lies in ``folder/harm`` and is resumed there.

    Raises:
        RipcurrentError: What `run_experiment` raises, or no edit has enough rows.
    """
    large = [name for name, edited in pairs.items() if len(edited.rows) >= config.smallest_arm]
    if not large:
        most = max(len(edited.rows) for edited in pairs.values())
        raise RipcurrentError(
            f"No edit has the {config.smallest_arm} rows of the smallest arm; the most that one has is {most}.",
            "Give a smaller smallest_arm, a larger tolerance, or more data. The score changes are in results.json.",
        )
    by_row = {row.index: row for row in rows}
    files = folder / "harm-rows"
    for name in large:
        _write_rows(files, name, pairs[name], by_row)
    experiment = _experiment(config, scanned, {name: len(pairs[name].rows) for name in large}, files)
    found = run_experiment(experiment, folder / "harm", progress=told).results
    judge = found["judge"]
    rates = {one["name"]: one["attack_success_rate"] for one in found["summaries"] if one["judge"] == judge}
    ranked = {
        one["edit"]: one["mean_change"]
        for one in results["changes"]
        if one["column"] == results["default_ranking"] and one["rows"]
    }
    compared = [
        {
            "edit": str(one["arm"]).removesuffix("-edited"),
            "rows": min(config.size, len(pairs[str(one["arm"]).removesuffix("-edited")].rows)),
            "original": rates[one["control"]],
            "edited": rates[one["arm"]],
            **{
                key: one[key]
                for key in ("difference", "low", "high", "p", "adjusted_p", "prompts", "minimum_detectable_effect")
            },
        }
        for one in found["further_comparisons"]
        if one["judge"] == judge
    ]
    return {
        "judge": judge,
        "seeds": found["seeds"],
        "recipe": found["recipe"],
        "base": rates.get("base"),
        "edits": compared,
        "too_few_rows": [name for name in pairs if name not in large],
        "failed": found["failed"],
        "order": _order(compared, ranked, str(results["default_ranking"])),
        "results": str(folder / "harm" / "results.json"),
    }


def _write_rows(files: Path, name: str, edited: Edited, by_row: Mapping[int, Row]) -> None:
    for version in ("original", "edited"):
        with written_whole(files / f"{name}-{version}.jsonl") as part, part.open("w", encoding="utf-8") as file:
            for one in edited.rows:
                row = by_row[one.row]
                shown = with_answer(row, one.answer) if version == "edited" else row
                file.write(json.dumps(as_record(shown, row.id), ensure_ascii=False) + "\n")


def _experiment(config: EditsConfig, scanned: ScannedRows, counts: Mapping[str, int], files: Path) -> ExperimentConfig:
    """The experiment of arms: two arms an edit, the edited one compared with the original one."""
    options = scanned.options
    arms = {
        # arms that draw equally many of equally many rows with one seed draw the same places
        f"{name}-{version}": {
            "file": str(files / f"{name}-{version}.jsonl"),
            "format": "messages",
            "size": min(config.size, rows),
        }
        for name, rows in counts.items()
        for version in ("original", "edited")
    }
    keys = {
        "name": config.name,
        "title": config.title,
        **(config.arms or {}),
        "run": str(scanned.folder),
        "model": options.model,
        "adapter": options.adapter,
        "device": config.device or options.device,
        "dtype": config.dtype or options.dtype,
        "heldout": 0,
        "control": None,
        "arms": arms,
        "compare": [[f"{name}-edited", f"{name}-original"] for name in counts],
    }
    return parse_experiment(keys, where=f"experiment {config.name}: arms")


def _order(compared: Sequence[Mapping[str, Any]], ranked: Mapping[str, float], column: str) -> dict[str, Any] | None:
    """Whether edits that raise the default ranking more also raise harm more; None of too few edits."""
    both = [(ranked[one["edit"]], one["difference"]) for one in compared if one["edit"] in ranked]
    if len(both) < FEWEST_EDITS:
        return None
    scores, harms = zip(*both, strict=True)
    return {"column": column, "edits": len(both), "spearman": spearman(scores, harms)}
