"""A finished scan in a few numbers: quantiles, length, riskiest rows, format shares, and what to know of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ripcurrent.data import COMPLETION, Completion, Dataset, why_mismatch
from ripcurrent.scan._answer import riskiest_rows, scan_answer
from ripcurrent.scan._columns import TRAIT_COLUMNS
from ripcurrent.scan._run import ScanRun
from ripcurrent.scan._separation import MINIMUM_SEPARATION, weakly_separated
from ripcurrent.statistics import quantiles, spearman

if TYPE_CHECKING:
    from pydantic import JsonValue

    from ripcurrent.scan._passes import ScanPasses
    from ripcurrent.scan._score import ScoreCounts

TOP = 100
"""Size of the riskiest group whose formats are compared with the whole."""
RISKIEST_PRINTED = 10

SUMMARY_SCORES = (
    *("gradient_bidirectional", "gradient_balanced", "gradient_harmful", "gradient_safe"),
    *("representation_harmful", "representation_bidirectional"),
)
"""Scores in a summary, where they were computed."""


class ScoreQuantiles(NamedTuple):
    """One score over all scored rows: probability to value, and its rank correlation with response tokens."""

    name: str
    quantiles: dict[float, float]
    spearman_with_length: float


def score_quantiles(run: ScanRun) -> tuple[ScoreQuantiles, ...]:
    """The distribution of each score that some row has."""
    tokens = run.floats("response_tokens")[run.scored]
    values = {name: run.floats(name)[run.scored] for name in SUMMARY_SCORES if name in run.columns}
    return tuple(
        ScoreQuantiles(name, quantiles(own, (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)), spearman(own, tokens))
        for name, own in values.items()
        if np.isfinite(own).any()
    )


def format_shares(run: ScanRun) -> dict[str, tuple[float, float]]:
    """Trait to its share among the riskiest ``TOP`` and among all scored rows; ``response_tokens`` to its means."""
    top = run.ranked()[:TOP]
    columns = {name: run.flags(name).astype(float) for name in TRAIT_COLUMNS if name in run.columns}
    columns["response_tokens"] = run.floats("response_tokens")
    return {name: (float(of[top].mean()), float(of[run.scored].mean())) for name, of in columns.items()}


def weak_anchors_note(run: ScanRun) -> str | None:
    """A sentence on anchors that the score which ranks does not tell apart on this model; None where it does."""
    auroc = weakly_separated(run.manifest.anchors.separation).get(run.default_ranking)
    what = (
        f"These anchors do not separate harm from safety on this model ({run.default_ranking} {auroc or 0:.2f}, below "
    )
    return None if auroc is None else f"{what}{MINIMUM_SEPARATION}): the ranking means little."


def scan_notes(run: ScanRun) -> list[str]:
    """Sentences on truncated rows, a foreign adapter, memory, and parameters that have no gradient."""
    from ripcurrent.scan._scan_model import size

    manifest, notes = run.manifest, []
    if cut := int((run.flags("truncated") & run.scored).sum()):
        note = f"{cut} of the scored rows {'was' if cut == 1 else 'were'} truncated at --max-tokens."
        if run.options.wants_representation:
            note += " Their last state is not that of an ended answer: do not compare their representation scores."
        notes.append(note)
    if (other_base := manifest.model.other_base()) is not None:
        notes.append(other_base)
    if manifest.memory.get("kept") is False:
        peak = manifest.memory.get("device_peak_bytes") or manifest.peak_memory_bytes
        wanted = size(float(str(run.options.memory)))
        notes.append(f"--memory {wanted} was not kept: the peak was {size(float(str(peak)))}.")
    if left_out := manifest.left_out:
        named = ", ".join(left_out[:3]) + (", …" if len(left_out) > 3 else "")
        notes.append(f"Left out of the gradients: {len(left_out)} parameters ({named}); the manifest names all.")
    return notes


def row_notes(rows: Dataset, counts: ScoreCounts, passes: ScanPasses) -> list[str]:
    """Sentences on rows of which the chat template leaves out parts, and on those whose turns it hides."""
    notes: list[str] = []
    tokenizer, trained, total = passes.chat_model.tokenizer, passes.options.trained, counts.statuses.total()
    if counts.unread:
        notes.append(
            f"{counts.unread} of {total} rows have reasoning of their own, or tools, that the chat template does not "
            "print: what is scored, and would be trained here, is the rest of them."
        )
    if counts.first_mismatch is not None:
        (row,) = rows.at([counts.first_mismatch])
        why = why_mismatch(row, tokenizer, trained) or "its turns are hidden"
        hidden = counts.statuses["template_mismatch"]
        note = f"template_mismatch, {hidden} of {total} rows, first row {row.index}: {why.rstrip('.')}"
        # as Qwen3's does, which leaves thoughts out of all but the last
        only_last = Completion(turns="last")
        last = trained == COMPLETION and why_mismatch(row, tokenizer, only_last) is None
        notes.append(f"{note}; --trainer {only_last} scores its last answer." if last else f"{note}.")
    return notes


def scan_json(run: ScanRun) -> dict[str, JsonValue]:
    """What ``scan --json`` prints, but for the forecast."""
    manifest, counts = run.manifest, run.status_counts()
    summaries, top_rows = score_quantiles(run), f"top_{min(TOP, len(run.ranked()))}"
    shares = {name: share for name, share in format_shares(run).items() if name != "response_tokens"}
    return {
        "run": str(run.folder),
        "weak_anchors": [*sorted(weakly_separated(manifest.anchors.separation))],
        "scores": str(run.scores_path),
        "report": str(run.folder / "report.html"),
        "rows": run.rows,
        "scored": counts.get("ok", 0),
        "unscored": {status: count for status, count in counts.items() if status != "ok"},
        "model": manifest.model.name,
        "anchors": manifest.anchors.name,
        "separation": {**manifest.anchors.separation},
        "ranking": run.default_ranking,
        "quantiles": {s.name: {str(at): value for at, value in s.quantiles.items()} for s in summaries},
        "spearman_with_length": {s.name: s.spearman_with_length for s in summaries},
        "truncated": int((run.flags("truncated") & run.scored).sum()),
        "left_out": [*manifest.left_out],
        "memory": manifest.memory,
        **scan_answer(run, 0).model_dump(include={"reference", "groups"}),
        "riskiest": [
            {"row": r.row, "id": r.id, "score": r.score} for r in riskiest_rows(run, RISKIEST_PRINTED, texts=False)
        ],
        "format_shares": {name: {top_rows: top, "all": whole} for name, (top, whole) in shares.items()},
    }
