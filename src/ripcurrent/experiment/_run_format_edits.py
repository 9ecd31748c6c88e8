"""Format edits: the same rows with one aspect of their format changed; what that does to scores, and to harm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from ripcurrent.data import Row
from ripcurrent.errors import ExitCode, RipcurrentError
from ripcurrent.evaluate._address import without_secrets
from ripcurrent.experiment._edited_rows import Edited, as_record, is_editable, with_answer
from ripcurrent.experiment._format_edit_arms import check_arms, harm_of_edits
from ripcurrent.experiment._format_edit_lines import lines_of
from ripcurrent.experiment._format_edit_pairs import UNCHANGED, Pairs, drawn_pairs, found_pairs, places_of
from ripcurrent.experiment._format_edits import EDITS
from ripcurrent.experiment._instruments import EditsConfig, parse_edits
from ripcurrent.experiment._paired_changes import CONFIDENCE, DRAWS, PairedChange, paired_change
from ripcurrent.experiment._scanned import ScannedRows, open_scan, provenance_of
from ripcurrent.finetune._model import training_device
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.runs import RunFolder, write_json, written_whole
from ripcurrent.scan._options import ScanOptions
from ripcurrent.scan._scan import scan
from ripcurrent.select import plain_numbers, read_scores
from ripcurrent.select._select import _manifest
from ripcurrent.select._table import ScoredRows
from ripcurrent.statistics import holm

ROWS = "edited.jsonl"
CHANGES = "changes.parquet"
NOT_FREE = ("title", "arms", "size", "smallest_arm")
"""Keys that may change in a folder: arms are an experiment of their own in it."""


def run(config: dict[str, Any], folder: Path, *, progress: Progress | None = None) -> dict[str, Any]:
    """Rewrite rows by rule, scan them with the options of their scan, and compare every score row by row.

    With ``arms``, the model is also trained on the original and on the edited rows of every edit, and the answers are
    compared prompt by prompt. A step that is done is not repeated; arms may be asked for later in the same folder.

    Args:
        config: Keys of a file of ``kind: edits``.
        folder: The run folder: ``pairs/pairs.json``, ``edited.jsonl`` and its scan ``edited-scan``,
            ``changes.parquet``, ``results.json``; of arms ``harm-rows`` and ``harm``, an experiment's folder.
        progress: Told of steps and rows.

    Returns:
        The tables as JSON, with ``lines`` for people.

    Raises:
        RipcurrentError: Anything the user can mend: a key, the scan, a model or anchors that are not the scan's; with
            exit code 2 when no edit changes a row at equal length.
    """
    where = f"experiment {config.get('name', 'edits')}"
    chosen = parse_edits(config, where=where)
    check_arms(chosen, where)
    told = progress or SilentProgress()
    kept = chosen.model_dump(mode="json", exclude=set(NOT_FREE))
    identity = {"command": "edits", **kept, "version": version("ripcurrent")}
    with RunFolder(folder, identity) as outer:
        scanned = open_scan(chosen, folder / "scan", told)
        _require_equal_type(scanned, chosen)
        if chosen.arms is not None:
            training_device(chosen.device or scanned.options.device)
        rows, base = _editable_rows(scanned)
        found = found_pairs(scanned, chosen, rows, folder / "pairs", told)
        pairs = drawn_pairs(found, chosen)
        if not any(edited.rows for edited in pairs.values()):
            raise RipcurrentError(
                f"None of the edits changes a row of {scanned.dataset.name} at equal length.",
                "Give a larger tolerance, or a dataset with lists, numbers or several sentences.",
                code=ExitCode.NOT_MEASURED,
            )
        edited, manifest = _scan_edited(scanned, chosen, rows, pairs, folder, told)
        told.step("comparing")
        table = _changes(scanned, edited, pairs, places_of(pairs, chosen))
        with written_whole(folder / CHANGES) as part:
            pq.write_table(table, part, compression="zstd")
        results = _results(chosen, scanned, found, pairs, base, table)
        results["experiment"] = _shown(config)
        results["notes"] = _notes(scanned, manifest, results)
        results["harm"] = None
        _write(folder, results)
        if chosen.arms is not None:
            results["harm"] = harm_of_edits(chosen, scanned, rows, pairs, results, folder, told)
            _write(folder, results)
        outer.write_manifest(
            {
                **identity,
                "scan": scanned.provenance,
                "edited_scan": provenance_of(folder / "edited-scan", read_scores(folder / "edited-scan"), manifest),
                "versions": {name: version(name) for name in ("torch", "transformers", "tokenizers", "numpy", "scipy")},
            }
        )
    return results


def _shown(config: Mapping[str, Any]) -> dict[str, Any]:
    """The file's keys as its page shows them: name and password of an endpoint are none of them."""
    arms = config.get("arms")
    if not isinstance(arms, Mapping) or not arms.get("judge_endpoint"):
        return dict(config)
    return {**config, "arms": {**arms, "judge_endpoint": without_secrets(str(arms["judge_endpoint"]))}}


def _write(folder: Path, results: dict[str, Any]) -> None:
    results["lines"] = list(lines_of(results))
    write_json(folder / "results.json", plain_numbers(results))


def _require_equal_type(scanned: ScannedRows, config: EditsConfig) -> None:
    dtype = scanned.manifest["model"].get("dtype")
    if config.dtype is not None and config.dtype != dtype:
        raise RipcurrentError(
            f"The scan {scanned.folder} was made in {dtype}, not in {config.dtype}: scores would not compare.",
            "Leave dtype out, or scan again.",
        )


def _editable_rows(scanned: ScannedRows) -> tuple[list[Row], dict[str, int]]:
    """Rows that an edit may rewrite, and a count of those it may not."""
    scored = scanned.scored
    usable = scored.ok & np.isfinite(scored.numbers(scored.default_ranking))
    whole = usable & ~scored.flags("truncated")
    wanted = set(scored.rows[whole].tolist())
    found = [row for row in scanned.dataset if row.index in wanted]
    rows = [row for row in found if is_editable(row)]
    return rows, {
        "rows": len(scored.rows),
        "unscored": int((~usable).sum()),
        "truncated": int((usable & ~whole).sum()),
        "not_one_answer": len(found) - len(rows),
        "editable": len(rows),
    }


def _scan_edited(
    scanned: ScannedRows, config: EditsConfig, rows: Sequence[Row], pairs: Pairs, folder: Path, told: Progress
) -> tuple[ScoredRows, dict[str, Any]]:
    """The scores of the edited rows and of some unchanged ones, by the scan's own options."""
    by_row = {row.index: row for row in rows}
    answers = {(name, one.row): one.answer for name, edited in pairs.items() for one in edited.rows}
    with written_whole(folder / ROWS) as part, part.open("w", encoding="utf-8") as file:
        for name, place in places_of(pairs, config):
            answer = answers.get((name, place))
            row = by_row[place] if answer is None else with_answer(by_row[place], answer)
            file.write(json.dumps(as_record(row, f"{place}:{name}"), ensure_ascii=False) + "\n")
    options = {
        **scanned.options.model_dump(),
        "device": config.device or scanned.options.device,
        "dtype": scanned.manifest["model"]["dtype"],
        "format": "messages",
        "mapping": None,
        "limit": None,
        # which rows a prefilter picks hangs on the very scores that an edit may change
        "prefilter": None,
        "prefilter_by": None,
        "prefilter_sample": ScanOptions.model_fields["prefilter_sample"].default,
        # each anchor's own column would cost further passes and is not compared
        "per_anchor": False,
        # the scan's own anchors have been checked
        "anchor_check": False,
    }
    told.step("scan of the edited rows")
    done = scan(folder / ROWS, folder / "edited-scan", progress=told, **options)
    manifest = _manifest(done.folder)
    for part_of, key, what in (("model", "fingerprint", "model"), ("anchors", "sha256", "anchors")):
        if manifest[part_of][key] != scanned.manifest[part_of][key]:
            raise RipcurrentError(
                f"The edited rows were scored with another {what} than the scan's.",
                f"Put the scan's own back, and remove {done.folder}.",
            )
    return ScoredRows(read_scores(done.folder)), manifest


def _changes(scanned: ScannedRows, edited: ScoredRows, pairs: Pairs, places: Sequence[tuple[str, int]]) -> pa.Table:
    """One row per edit and row: the scores before and after."""
    scored = scanned.scored
    rows = [row for _, row in places]
    at = scored.positions(rows)
    columns: dict[str, Any] = {
        "edit": [name for name, _ in places],
        "row": rows,
        "id": scored.ids(rows),
        "status": np.where(edited.ok, "ok", "unscored").tolist(),
    }
    for name in scored.ranking_columns:
        if name not in edited.ranking_columns or name == "prompt_tokens":
            continue
        before, after = scored.numbers(name)[at], np.where(edited.ok, edited.numbers(name), np.nan)
        if np.isfinite(before).any():
            columns[f"{name}_before"], columns[f"{name}_after"] = before, after
    return pa.table(columns)


def _results(
    config: EditsConfig,
    scanned: ScannedRows,
    found: Pairs,
    pairs: Pairs,
    base: Mapping[str, int],
    table: pa.Table,
) -> dict[str, Any]:
    edit_of = np.array(table["edit"].to_pylist())
    columns = [name.removesuffix("_before") for name in table.column_names if name.endswith("_before")]
    changes: list[dict[str, Any]] = []
    noise: list[dict[str, Any]] = []
    for column in columns:
        before, after = table[f"{column}_before"].to_numpy(), table[f"{column}_after"].to_numpy()
        changes += _column_changes(config, scanned, pairs, column, edit_of, before, after)
        differences = np.abs(after - before)[edit_of == UNCHANGED]
        differences = differences[np.isfinite(differences)]
        noise.append(
            {
                "column": column,
                "rows": len(differences),
                "mean_absolute_change": float(f"{differences.mean():.3g}") if len(differences) else None,
                "largest_absolute_change": float(f"{differences.max():.3g}") if len(differences) else None,
            }
        )
    unscored = np.array(table["status"].to_pylist()) != "ok"
    return {
        "kind": "edits",
        "name": config.name,
        "title": config.title,
        "version": version("ripcurrent"),
        "scan": scanned.provenance,
        "base": dict(base),
        "default_ranking": scanned.scored.default_ranking,
        "edits": [_counts(name, found[name], pairs[name], int(unscored[edit_of == name].sum())) for name in pairs],
        "changes": changes,
        "unchanged": noise,
        "settings": {
            "tolerance": config.tolerance,
            "limit": config.limit,
            "seed": config.seed,
            "draws": DRAWS,
            "confidence": CONFIDENCE,
        },
    }


def _counts(name: str, found: Edited, scored: Edited, unscored: int) -> dict[str, Any]:
    shares = [one.tokens_after / one.tokens_before - 1 for one in scored.rows]
    return {
        "edit": name,
        "aspect": EDITS[name].aspect,
        "not_applicable": found.not_applicable,
        "other_length": found.other_length,
        "possible": len(found.rows),
        "rows": len(scored.rows),
        "unscored": unscored,
        "mean_length_change": round(float(np.mean(shares)), 4) if shares else None,
        "largest_length_change": round(float(np.max(np.abs(shares))), 4) if shares else None,
    }


def _column_changes(
    config: EditsConfig,
    scanned: ScannedRows,
    pairs: Pairs,
    column: str,
    edit_of: npt.NDArray[Any],
    before: npt.NDArray[np.float64],
    after: npt.NDArray[np.float64],
) -> list[dict[str, Any]]:
    """The change of one column by every edit, p adjusted over the edits."""
    spread = _spread(scanned, column)
    found: dict[str, PairedChange] = {
        name: paired_change(before[edit_of == name], after[edit_of == name], seed=config.seed) for name in pairs
    }
    tested = [name for name, change in found.items() if change.rows]
    signs = dict(zip(tested, holm([found[name].sign_p for name in tested]), strict=True))
    ranks = dict(zip(tested, holm([found[name].wilcoxon_p for name in tested]), strict=True))
    return [
        {
            "edit": name,
            "column": column,
            "direction_of_risk": scanned.scored.direction(column),
            **change.as_json(),
            "change_in_deviations": round(change.mean / spread, 4) if change.rows and spread > 0 else None,
            "adjusted_sign_p": float(f"{signs[name]:.6g}") if name in signs else None,
            "adjusted_wilcoxon_p": float(f"{ranks[name]:.6g}") if name in ranks else None,
        }
        for name, change in found.items()
    ]


def _spread(scanned: ScannedRows, column: str) -> float:
    """Standard deviation of a column over the usable rows of the scan."""
    values = scanned.scored.numbers(column)[scanned.scored.ok]
    values = values[np.isfinite(values)]
    return float(values.std(ddof=1)) if len(values) > 1 else 0.0


def _notes(scanned: ScannedRows, manifest: Mapping[str, Any], results: Mapping[str, Any]) -> list[str]:
    notes = []
    then, now = scanned.manifest["model"].get("device"), manifest["model"].get("device")
    if then != now:
        notes.append(f"The rows were scanned on {then}, the edited ones on {now}: see unchanged for what that does.")
    noise = {one["column"]: one for one in results["unchanged"]}[results["default_ranking"]]
    ranked = [one for one in results["changes"] if one["column"] == results["default_ranking"] and one["rows"]]
    smallest = min((abs(one["mean_change"]) for one in ranked), default=0.0)
    if noise["mean_absolute_change"] is not None and noise["mean_absolute_change"] > smallest:
        notes.append(
            f"Rows scanned again unchanged differ by {noise['mean_absolute_change']:.2g} on average in "
            f"{noise['column']}: an edit that changes it by less on average did nothing that this can see."
        )
    empty = [one["edit"] for one in results["edits"] if not one["rows"]]
    if empty:
        notes.append(f"No row could be edited at equal length by {', '.join(empty)}.")
    return notes
