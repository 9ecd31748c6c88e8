"""The story of the demo: scan, ranking, selection, comparison, proof."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import JsonValue

import ripcurrent as rc
from ripcurrent.data import DEMO_ROWS
from ripcurrent.demo._proof import Proof, cached_proof, fresh_proof
from ripcurrent.progress import Progress
from ripcurrent.report import REPORT, build_report
from ripcurrent.scan import ScanRun
from ripcurrent.select import Overlap, SelectionRecord

ENDS = 5
"""Rows shown of each end of the ranking."""

SELECTED = 30
"""Rows selected, where there are four times as many: the controls need rows to be drawn from."""

OTHER_RANKING = "representation_bidirectional"
"""The other method's ranking, compared with the default one where both were computed."""

FORMATS = {
    "is_numbered": "numbered list",
    "is_bullet": "bullet list",
    "is_maths": "maths",
    "is_code": "code",
    "has_refusal": "refusal phrase",
}
"""Trait columns as a reader says them."""


@dataclass(frozen=True, slots=True)
class DemoRow:
    """One row of an end of the ranking, with what explains its place."""

    row: int
    score: float
    """In the default ranking."""
    harmful: float
    """Its similarity to the harmful anchors."""
    safe: float
    """Its similarity to the safe anchors."""
    response_tokens: int
    format: str
    prompt: str


@dataclass(frozen=True, slots=True)
class GroupShape:
    """What a group of rows looks like; shares are from 0 to 1."""

    rows: int
    mean_tokens: float
    list_share: float
    maths_share: float


@dataclass(frozen=True, slots=True)
class Demo:
    """A finished demo."""

    scan: ScanRun
    riskiest: Sequence[DemoRow]
    """Riskiest first."""
    protective: Sequence[DemoRow]
    """Most protective first."""
    selections: Sequence[SelectionRecord]
    """The riskiest rows as written, then their controls."""
    selected: GroupShape
    control: GroupShape
    """The mean of its length-matched controls."""
    controls: int
    """How many of these there are."""
    whole: GroupShape
    """Every scored row."""
    other: Overlap | None
    """None where one method ran."""
    proof: Proof | None
    """What fine-tuning on the riskiest rows does; None where the proof at hand is not of these rows and this model."""

    def to_json(self) -> dict[str, JsonValue]:
        """What ``demo --json`` prints."""
        return {
            "run": str(self.scan.folder),
            "scores": str(self.scan.scores_path),
            "report": str(self.scan.folder / REPORT),
            "status_counts": dict(self.scan.status_counts()),
            "ranking": self.scan.default_ranking,
            "riskiest": [asdict(row) for row in self.riskiest],
            "protective": [asdict(row) for row in self.protective],
            "selected": asdict(self.selected),
            "length_matched_control": asdict(self.control),
            "all_rows": asdict(self.whole),
            "shared_with_other_ranking": None if self.other is None else asdict(self.other),
            "selections": [str(record.path) for record in self.selections],
            "proof": None if self.proof is None else self.proof.model_dump(mode="json"),
        }


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
    run = rc.scan(DEMO_ROWS, out, progress=progress, **changes)
    if not (run.folder / REPORT).exists():
        build_report(run)
    ranked = run.ranked()
    count = max(1, min(SELECTED, len(ranked) // 4))
    records = rc.select(run, top=count)
    chosen = records[0]
    controls = [record for record in records if record.selection.kind == "length-matched"]
    whole = chosen.summary
    return Demo(
        scan=run,
        riskiest=_rows(run, ranked[: min(ENDS, count)].tolist()),
        protective=_rows(run, ranked[::-1][: min(ENDS, count)].tolist()),
        selections=records,
        selected=_mean_shape([chosen]),
        control=_mean_shape(controls),
        controls=len(controls),
        whole=GroupShape(
            whole.whole_rows,
            whole.whole_length.mean,
            whole.whole_format_shares["is_list"],
            whole.whole_format_shares["is_maths"],
        ),
        other=_other(run, chosen),
        proof=fresh_proof(run, run.folder / "proof", progress=progress) if fresh else cached_proof(run),
    )


def _rows(run: ScanRun, numbers: Sequence[int]) -> list[DemoRow]:
    prompts = {row.index: row.prompt for row in run.dataset().at(numbers)}
    method = run.default_ranking.partition("_")[0]
    score, harmful, safe = (run.floats(name) for name in (run.default_ranking, f"{method}_harmful", f"{method}_safe"))
    return [
        DemoRow(
            row=row,
            score=float(score[row]),
            harmful=float(harmful[row]),
            safe=float(safe[row]),
            response_tokens=int(run.floats("response_tokens")[row]),
            format=", ".join(word for trait, word in FORMATS.items() if run.flags(trait)[row])
            or ("short answer" if run.flags("is_short")[row] else "prose"),
            prompt=prompts[row],
        )
        for row in numbers
    ]


def _other(run: ScanRun, chosen: SelectionRecord) -> Overlap | None:
    if run.default_ranking == OTHER_RANKING or run.options.signals != "all":
        return None
    rows = set(chosen.selection.indices)
    other = set(run.ranked(OTHER_RANKING)[: len(rows)].tolist())
    name = f"top-{len(rows)}-{OTHER_RANKING}"
    return Overlap(name, len(rows & other), len(rows & other) / len(rows | other))


def _mean_shape(records: Sequence[SelectionRecord]) -> GroupShape:
    summaries = [record.summary for record in records]
    tokens, lists, maths = np.mean(
        [(one.length.mean, one.format_shares["is_list"], one.format_shares["is_maths"]) for one in summaries], axis=0
    ).tolist()
    return GroupShape(summaries[0].rows, tokens, lists, maths)
