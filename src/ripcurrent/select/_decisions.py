"""What a reader decided about rows, as the page of a scan and its viewer save it."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ripcurrent.errors import RipcurrentError
from ripcurrent.files import read_json_lines, written_whole
from ripcurrent.scan import ScanRun
from ripcurrent.select._types import Selection

DECISIONS = "decisions.jsonl"
"""Where the viewer saves them in a run folder."""


class Decision(BaseModel):
    """What is to become of one row."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    row: int = Field(ge=0)
    decision: Literal["keep", "drop"] | None = None
    note: str = Field(default="", max_length=2_000)
    dataset: str
    """Hash of the data set that the row number is of."""


def read_decisions(run: ScanRun, path: Path) -> dict[int, Decision]:
    """The decisions in a file by row number.

    Raises:
        RipcurrentError: No such file, a line that is no decision, or decisions about another data set.
    """
    if not path.is_file():
        raise RipcurrentError(f"There is no file {path}.", "The page of a scan and `ripcurrent view` save decisions.")
    try:
        found = [Decision.model_validate(one) for one in read_json_lines(path)]
    except (ValidationError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise RipcurrentError(f"{path} holds a line that is no decision: {first}.", "Save it again.") from None
    for one in found:
        require_own(run, one, str(path))
    return {one.row: one for one in found}


def require_own(run: ScanRun, decision: Decision, source: str) -> None:
    """Refuse a decision about a row of another data set than the run's."""
    if decision.dataset != run.manifest.dataset.sha256 or decision.row >= run.rows:
        raise RipcurrentError(
            f"{source} has decisions about another data set than {run.manifest.dataset.name}.",
            "Name the decisions of this run, or the run that they were saved from.",
        )


def write_decisions(path: Path, decisions: Mapping[int, Decision]) -> None:
    """Replace a file of decisions; it is written whole."""
    lines = (json.dumps(decisions[row].model_dump(), ensure_ascii=False) for row in sorted(decisions))
    with written_whole(path) as part:
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def decided(run: ScanRun, path: Path, ranked: Selection | None) -> Selection:
    """The rows marked *drop*; after ``ranked`` selected rows, those too but for rows marked *keep*."""
    decisions = read_decisions(run, path)
    marked = {what: {row for row, one in decisions.items() if one.decision == what} for what in ("drop", "keep")}
    chosen = marked["drop"] if ranked is None else ({*ranked.indices} - marked["keep"]) | marked["drop"]
    if not chosen:
        raise RipcurrentError(f"{path} marks no row to drop.", "Mark rows on the page of the scan, and save.")
    scores = run.floats(run.default_ranking)
    indices = tuple(sorted(chosen))
    rule = f"the {len(marked['drop'])} rows marked drop in {path.name}"
    whole = Selection("decided", "decided", rule, run.default_ranking, indices, tuple(scores[list(indices)].tolist()))
    if ranked is None:
        return whole
    rule = f"{ranked.rule}, and {rule}, less the {len(marked['keep'])} marked keep"
    return replace(whole, name=f"{ranked.name}-decided", rule=rule, notes=ranked.notes)
