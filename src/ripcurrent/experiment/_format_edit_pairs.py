"""The pairs of format edits: what each edit makes of the rows at equal length, kept once found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ripcurrent.anchors import load_anchors
from ripcurrent.data import Row
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._edited_rows import Edited, EditedRow, edit_rows, token_counter
from ripcurrent.experiment._format_edits import EDITS
from ripcurrent.experiment._instruments import EditsConfig
from ripcurrent.experiment._scanned import ScannedRows
from ripcurrent.progress import Progress
from ripcurrent.runs import RunFolder, write_json
from ripcurrent.scan._scan_model import load_scan_model
from ripcurrent.select._draw import generator

UNCHANGED = "unchanged"
"""Rows that are scanned again as they are: how far the second scan's numbers differ by batches and rounding alone."""
UNCHANGED_ROWS = 32
PAIRS = "pairs.json"

Pairs = dict[str, Edited]
"""By edit, what is scored."""


def found_pairs(scanned: ScannedRows, config: EditsConfig, rows: Sequence[Row], folder: Path, told: Progress) -> Pairs:
    """What each edit makes of the rows; read where that was done before."""
    model, options = scanned.manifest["model"], scanned.options
    settings = {
        "command": "pairs",
        "dataset_sha256": scanned.manifest["dataset"]["sha256"],
        "tokenizer_sha256": model.get("tokenizer_sha256"),
        "template_sha256": model.get("template_sha256"),
        "max_tokens": options.max_tokens,
        "loss_on": options.loss_on,
        "edits": list(config.edits),
        "tolerance": config.tolerance,
        "version": version("ripcurrent"),
    }
    with RunFolder(folder, settings):
        path = folder / PAIRS
        if path.exists():
            return _read_pairs(path)
        scored = scanned.scored
        lengths = scored.numbers("response_tokens")[scored.positions([row.index for row in rows])]
        tokens = {row.index: int(length) for row, length in zip(rows, lengths.tolist(), strict=True)}
        told.step("loading the model")
        count = token_counter(_tokenizer(scanned, config), max_tokens=options.max_tokens, loss_on=options.loss_on)
        found: Pairs = {}
        for name in config.edits:
            told.step(f"rewriting rows: {name}")
            found[name] = edit_rows(rows, tokens, EDITS[name], count, config.tolerance)
        write_json(path, {name: _as_json(edited) for name, edited in found.items()})
    return found


def _tokenizer(scanned: ScannedRows, config: EditsConfig) -> Any:
    """The tokenizer of the scanned model, after a check that model and anchors still are the scan's."""
    options, then = scanned.options, scanned.manifest
    if load_anchors(options.anchors).sha256 != then["anchors"]["sha256"]:
        raise RipcurrentError(
            f"The anchors {options.anchors} are others than those of the scan.", "Put them back, or scan again."
        )
    here = options.model_copy(update={"device": config.device or options.device, "dtype": then["model"]["dtype"]})
    model = load_scan_model(here, for_rows=False)
    if (model.fingerprint, model.tokenizer_sha256, model.template_sha256) != tuple(
        then["model"][key] for key in ("fingerprint", "tokenizer_sha256", "template_sha256")
    ):
        raise RipcurrentError(
            f"{options.model} is another model than the one that was scanned.",
            "Put that model back, or scan again with this one.",
        )
    return model.tokenizer


def _as_json(edited: Edited) -> dict[str, Any]:
    return {
        "not_applicable": edited.not_applicable,
        "other_length": edited.other_length,
        "rows": [
            {"row": one.row, "answer": one.answer, "before": one.tokens_before, "after": one.tokens_after}
            for one in edited.rows
        ],
    }


def _read_pairs(path: Path) -> Pairs:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        return {
            name: Edited(
                tuple(EditedRow(name, one["row"], one["answer"], one["before"], one["after"]) for one in value["rows"]),
                value["not_applicable"],
                value["other_length"],
            )
            for name, value in stored.items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise RipcurrentError(f"{path} is damaged.", "Remove it: the rows are then rewritten again.") from None


def drawn_pairs(pairs: Pairs, config: EditsConfig) -> Pairs:
    """At most ``limit`` rows of each edit, in the order of the dataset."""
    if config.limit is None:
        return pairs
    drawn: Pairs = {}
    for name, edited in pairs.items():
        places = generator(config.seed, f"edit {name}").permutation(len(edited.rows))[: config.limit]
        rows = tuple(edited.rows[place] for place in sorted(places.tolist()))
        drawn[name] = Edited(rows, edited.not_applicable, edited.other_length)
    return drawn


def places_of(pairs: Pairs, config: EditsConfig) -> list[tuple[str, int]]:
    """Edit and row number of every line of the edited rows' file; the last ones are left unchanged."""
    edited = [(name, one.row) for name, found in pairs.items() for one in found.rows]
    base = sorted({row for _, row in edited})
    again = generator(config.seed, UNCHANGED).permutation(base)[:UNCHANGED_ROWS]
    return [*edited, *((UNCHANGED, row) for row in sorted(again.tolist()))]
