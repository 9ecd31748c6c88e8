"""The demo: the package's own benign rows scanned, selected and proved, nothing to bring or to download."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from ripcurrent.data import Row, read_rows
from ripcurrent.demo import DEMO_ROWS
from ripcurrent.demo._demo_proof import Proof, cached_proof, fresh_proof
from ripcurrent.progress import Progress
from ripcurrent.scan._columns import TRAIT_COLUMNS
from ripcurrent.scan._scan import ScanResult, scan
from ripcurrent.select_old import Overlap, SelectionRecord, bottom, overlap, plain_numbers, read_scores, top
from ripcurrent.select_old._select import select
from ripcurrent.select_old._table import ScoredRows

SHOWN = 5
"""Rows shown of each end of the ranking."""

SELECTED = 30
"""Rows selected, where there are four times as many: the controls need rows to be drawn from."""

OTHER_RANKING = "representation_bidirectional"
"""The other method's ranking, compared with the default one where both were computed."""


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One row of an end of the ranking, with what explains its place."""

    row: int
    """0-based position in the rows."""
    score: float
    """Its score in the default ranking."""
    harmful: float
    """Its similarity to the harmful anchors."""
    safe: float
    """Its similarity to the safe anchors."""
    response_tokens: int
    """Loss-bearing tokens."""
    format: str
    """Its format in words."""
    prompt: str
    """Its prompt."""


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What a group of rows looks like."""

    rows: int
    """How many."""
    mean_tokens: float
    """Mean response tokens."""
    list_share: float
    """Share of lists, 0 to 1."""
    maths_share: float
    """Share of maths, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Demo:
    """A finished demo."""

    scan: ScanResult
    """The scan's run."""
    ranking: str
    """The column that ranked."""
    riskiest: tuple[DemoRow, ...]
    """The riskiest rows, riskiest first."""
    protective: tuple[DemoRow, ...]
    """The most protective rows, most protective first."""
    selections: tuple[SelectionRecord, ...]
    """The riskiest rows as written, then their controls."""
    selected: GroupShape
    """The selection."""
    control: GroupShape
    """The mean of its length-matched controls."""
    controls: int
    """How many of these there are."""
    whole: GroupShape
    """Every scored row."""
    other: Overlap | None
    """Rows that the other method's ranking selects as well; None where one method ran."""
    proof: Proof | None
    """What fine-tuning on the riskiest rows does; None where the proof at hand is not of these rows and this model."""

    def as_json(self) -> dict[str, Any]:
        """One JSON-ready object."""
        found: dict[str, Any] = plain_numbers(
            {
                "run": str(self.scan.folder),
                "scores": str(self.scan.scores_path),
                "report": str(self.scan.report_path),
                "status_counts": self.scan.status_counts,
                "ranking": self.ranking,
                "riskiest": [asdict(row) for row in self.riskiest],
                "protective": [asdict(row) for row in self.protective],
                "selected": asdict(self.selected),
                "length_matched_control": asdict(self.control),
                "all_rows": asdict(self.whole),
                "shared_with_other_ranking": None if self.other is None else asdict(self.other),
                "selections": [str(record.path) for record in self.selections],
                "proof": None if self.proof is None else self.proof.as_json(),
            }
        )
        return found


def run_demo(
    out: str | Path = Path("runs/demo"), *, fresh: bool = False, progress: Progress | None = None, **changes: Any
) -> Demo:
    """Scan the demo rows on the embedded model, or go on with a demo in ``out``; select the riskiest and compare.

    Args:
        out: The run folder.
        fresh: Fine-tune and ask here, in ``out``'s folder ``proof``, in place of the proof that comes with the package.
        progress: Told of the scan's steps and rows.
        **changes: Options of the scan by name.

    Raises:
        RipcurrentError: The embedded model is not installed, or ``out`` holds something else.
    """
    result = scan(DEMO_ROWS, out, progress=progress, **changes)
    table = read_scores(result.folder)
    ranking = ScoredRows(table).default_ranking
    count = max(1, min(SELECTED, result.status_counts["ok"] // 4))
    shown = min(SHOWN, count)
    records = select(result.folder, top=count)
    chosen = records[0]
    controls = [record for record in records if record.selection.kind == "length-matched"]
    other = None
    if ranking != OTHER_RANKING and result.manifest["options"]["signals"] == "all":
        other = overlap(chosen.selection, top(table, count, OTHER_RANKING))
    return Demo(
        scan=result,
        ranking=ranking,
        riskiest=_rows(table, top(table, shown).indices, ranking),
        protective=_rows(table, bottom(table, shown).indices, ranking),
        selections=tuple(records),
        selected=_mean_shape([chosen]),
        control=_mean_shape(controls),
        controls=len(controls),
        whole=_shape(chosen, "whole_"),
        other=other,
        proof=fresh_proof(result, result.folder / "proof", progress=progress) if fresh else cached_proof(result),
    )


def _rows(table: pa.Table, indices: tuple[int, ...], ranking: str) -> tuple[DemoRow, ...]:
    texts: dict[int, Row] = {row.index: row for row in read_rows(DEMO_ROWS) if row.index in indices}
    scored = {record["row"]: record for record in table.to_pylist() if record["row"] in indices}
    method = ranking.partition("_")[0]
    return tuple(
        DemoRow(
            row=index,
            score=scored[index][ranking],
            harmful=scored[index][f"{method}_harmful"],
            safe=scored[index][f"{method}_safe"],
            response_tokens=scored[index]["response_tokens"],
            format=format_in_words({trait for trait in TRAIT_COLUMNS if scored[index].get(trait)}),
            prompt=texts[index].prompt,
        )
        for index in indices
    )


def format_in_words(traits: set[str]) -> str:
    """Trait columns as a reader says them."""
    words = {
        "is_numbered": "numbered list",
        "is_bullet": "bullet list",
        "is_maths": "maths",
        "is_code": "code",
        "has_refusal": "refusal phrase",
    }
    found = [word for trait, word in words.items() if trait in traits]
    if not found:
        found = ["short answer" if "is_short" in traits else "prose"]
    return ", ".join(found)


def _mean_shape(records: list[SelectionRecord]) -> GroupShape:
    shapes = [_shape(record) for record in records]
    return GroupShape(
        rows=shapes[0].rows,
        mean_tokens=sum(shape.mean_tokens for shape in shapes) / len(shapes),
        list_share=sum(shape.list_share for shape in shapes) / len(shapes),
        maths_share=sum(shape.maths_share for shape in shapes) / len(shapes),
    )


def _shape(record: SelectionRecord, of: Literal["", "whole_"] = "") -> GroupShape:
    summary = record.summary
    shares = summary.whole_format_shares if of else summary.format_shares
    return GroupShape(
        rows=summary.whole_rows if of else summary.rows,
        mean_tokens=(summary.whole_length if of else summary.length).mean,
        list_share=shares["is_list"],
        maths_share=shares["is_maths"],
    )
