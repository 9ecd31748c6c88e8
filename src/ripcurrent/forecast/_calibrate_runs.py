"""Calibrate: finished experiments fitted, so that a scan can say what training on its rows would do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ripcurrent.errors import RipcurrentError
from ripcurrent.forecast._calibrate import make_calibration
from ripcurrent.forecast._calibration import Calibration, find_calibration, read_calibration, write_calibration
from ripcurrent.forecast._coherence import CoherenceOfRuns
from ripcurrent.forecast._join_calibration import join_calibration
from ripcurrent.forecast._ladder import read_ladder
from ripcurrent.progress import Progress, SilentProgress
from ripcurrent.scan._columns import SET_COSINE


def calibrate(
    experiments: Sequence[str | Path],
    out: str | Path,
    *,
    scans: Sequence[str | Path] = (),
    judge: str = "prefix",
    columns: Sequence[str] = (),
    compare: bool = False,
    joined: str | Path | None = None,
    progress: Progress | None = None,
) -> Calibration:
    """Fit what finished experiments answered against the mean scores of what they trained on, and keep the fit.

    Args:
        experiments: Folders of experiments of arms; all asked the same, were trained by one recipe and judged alike.
        out: The calibration's file.
        scans: Further finished scans, for arms whose rows came from a file.
        judge: Whose verdicts count.
        columns: Score columns that the forecast rests on, or ``set_cosine``, for which the model goes over some rows of
            every set; those of ``joined`` or the scan's default ranking when left out.
        compare: Also measure the error of other columns on the same runs; takes some twenty times as long.
        joined: A calibration, or the name of one that comes with the package, whose runs are fitted with these.
        progress: Told of steps.

    Raises:
        RipcurrentError: A folder that holds no finished experiment, experiments that cannot be joined, a ladder that
            nothing can be learned of (exit code 2), or a file that cannot be written.
    """
    told = progress or SilentProgress()
    target = Path(out)
    _refuse_other_file(target)
    earlier = None if joined is None else find_calibration(joined)
    columns = tuple(columns) or (earlier.columns if earlier is not None else ())
    told.step("reading the experiments")
    folders, further = [Path(one) for one in experiments], [Path(one) for one in scans]
    measure = CoherenceOfRuns(told) if SET_COSINE in columns else None
    ladder = read_ladder(folders, further, judge=judge, coherence=measure)
    if earlier is not None:
        ladder = join_calibration(ladder, earlier)
    told.step(f"fitting {len(ladder.runs)} runs, and again with each arm left out")
    calibration = make_calibration(
        ladder,
        columns,
        version=version("ripcurrent"),
        date=datetime.now(UTC).date().isoformat(),
        compare=compare,
    )
    write_calibration(target, calibration)
    return calibration


def as_json(calibration: Calibration, path: str | Path) -> dict[str, Any]:
    """What a calibration is and how it errs, JSON-ready; the file itself has every run."""
    kept = {
        "columns",
        "recipe_name",
        "prompts",
        "judge",
        "notes",
        "left_out",
        "error_by_arm",
        "error_by_rows",
        "error_by_source",
    }
    return {
        "calibration": str(path),
        "model": calibration.scored_with.model,
        "runs": len(calibration.runs),
        "arms": calibration.error_by_arm.groups,
        "sources": [source.model_dump(include={"name", "rows", "runs"}) for source in calibration.sources],
        "fit": calibration.fit.describe(),
        **calibration.model_dump(mode="json", include=kept),
        "compared": [one.model_dump(mode="json") for one in calibration.compared],
    }


def _refuse_other_file(path: Path) -> None:
    """Refuse to write over anything but an earlier calibration, before anything is computed."""
    if path.is_dir():
        raise RipcurrentError(f"{path} is a folder.", "Name a file with --out, such as calibration.json.")
    if path.exists():
        try:
            read_calibration(path)
        except RipcurrentError as error:
            raise RipcurrentError(
                f"{path} is there, and is no calibration that could be made anew.", "Name another file with --out."
            ) from error
