"""The story of the demo: scan, ranking, selection, comparison, proof."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, JsonValue

import ripcurrent as rc
from ripcurrent.data import DEMO_ROWS
from ripcurrent.demo._proof import Proof, Shown, cached_proof, fresh_proof
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


class DemoRow(Shown):
    """One row of an end of the ranking, with what explains its place."""

    row: int
    score: float
    """In the default ranking."""
    harmful: float
    """Its similarity to the harmful anchors."""
    safe: float
    response_tokens: int
    format: str
    prompt: str


class GroupShape(Shown):
    """What a group of rows looks like; shares are from 0 to 1."""

    rows: int
    mean_tokens: float
    list_share: float
    maths_share: float


class Demo(Shown, arbitrary_types_allowed=True):
    """A finished demo."""

    scan: ScanRun = Field(exclude=True)
    run: Path
    scores: Path
    report: Path
    status_counts: dict[str, int]
    ranking: str
    riskiest: tuple[DemoRow, ...]
    """Riskiest first."""
    protective: tuple[DemoRow, ...]
    """Most protective first."""
    selected: GroupShape
    length_matched_control: GroupShape
    """The mean of its controls."""
    controls: int
    """How many of these there are."""
    all_rows: GroupShape
    """Every scored row."""
    shared_with_other_ranking: Overlap | None
    """None where one method ran."""
    selections: tuple[Path, ...]
    """The riskiest rows as written, then their controls."""
    proof: Proof | None
    """What fine-tuning on the riskiest rows does; None where the proof at hand is not of these rows and this model."""

    def to_json(self) -> dict[str, JsonValue]:
        """What ``demo --json`` prints."""
        return self.model_dump(mode="json")


def run_demo(
    out: str | Path = Path("runs/demo"), *, fresh: bool = False, progress: Progress | None = None, **changes: Any
) -> Demo:
    """Scan the demo rows on the embedded model, or go on with a demo in ``out``; select the riskiest and compare.

    With ``fresh`` it fine-tunes and asks here, in ``out``'s folder ``proof``, in place of the proof that comes with the
    package. ``changes`` are options of the scan by name.

    Raises:
        RipcurrentError: The embedded model is not installed, or ``out`` holds something else.
    """
    run = rc.scan(DEMO_ROWS, out, progress=progress, **changes)
    if not (run.folder / REPORT).exists():
        build_report(run)
    ranked = run.ranked()
    count = max(1, min(SELECTED, len(ranked) // 4))
    records = rc.select(run, top=count)
    controls = [record for record in records if record.selection.kind == "length-matched"]
    whole = records[0].summary
    shares = whole.whole_format_shares
    return Demo(
        scan=run,
        run=run.folder,
        scores=run.scores_path,
        report=run.folder / REPORT,
        status_counts=run.status_counts(),
        ranking=run.default_ranking,
        riskiest=_rows(run, ranked[: min(ENDS, count)].tolist()),
        protective=_rows(run, ranked[::-1][: min(ENDS, count)].tolist()),
        selected=_mean_shape(records[:1]),
        length_matched_control=_mean_shape(controls),
        controls=len(controls),
        all_rows=GroupShape(
            rows=whole.whole_rows,
            mean_tokens=whole.whole_length.mean,
            list_share=shares["is_list"],
            maths_share=shares["is_maths"],
        ),
        shared_with_other_ranking=_shared(run, records[0].selection.indices),
        selections=tuple(record.path for record in records),
        proof=fresh_proof(run, run.folder / "proof", progress=progress) if fresh else cached_proof(run),
    )


def _rows(run: ScanRun, numbers: Sequence[int]) -> tuple[DemoRow, ...]:
    prompts = {row.index: row.prompt for row in run.dataset().at(numbers)}
    method = run.default_ranking.partition("_")[0]
    score, harmful, safe = (run.floats(name) for name in (run.default_ranking, f"{method}_harmful", f"{method}_safe"))
    return tuple(
        DemoRow(
            row=row,
            score=score[row],
            harmful=harmful[row],
            safe=safe[row],
            response_tokens=run.floats("response_tokens")[row],
            format=", ".join(word for trait, word in FORMATS.items() if run.flags(trait)[row])
            or ("short answer" if run.flags("is_short")[row] else "prose"),
            prompt=prompts[row],
        )
        for row in numbers
    )


def _shared(run: ScanRun, chosen: Sequence[int]) -> Overlap | None:
    if run.default_ranking == OTHER_RANKING or run.options.signals != "all":
        return None
    rows, other = set(chosen), set(run.ranked(OTHER_RANKING)[: len(chosen)].tolist())
    return Overlap(f"top-{len(rows)}-{OTHER_RANKING}", len(rows & other), len(rows & other) / len(rows | other))


def _mean_shape(records: Sequence[SelectionRecord]) -> GroupShape:
    summaries = [record.summary for record in records]
    tokens, lists, maths = np.mean(
        [(one.length.mean, one.format_shares["is_list"], one.format_shares["is_maths"]) for one in summaries], axis=0
    ).tolist()
    return GroupShape(rows=summaries[0].rows, mean_tokens=tokens, list_share=lists, maths_share=maths)
