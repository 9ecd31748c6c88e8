"""The page of a run: one offline HTML file with what was measured and how to read it."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ripcurrent.data import MaskCheck
    from ripcurrent.evaluate import CheckRun, RatingDraw
    from ripcurrent.experiment import ExperimentResults
    from ripcurrent.gate import GateRun
    from ripcurrent.progress import Progress
    from ripcurrent.scan import ScanRun

# The plotting and table libraries take a second to import; a command that builds no page should not pay for it.

REPORT = "report.html"
REVEALED = "report-revealed.html"


def without_plots() -> str | None:
    """Why pages have no plots here, and what brings them; None where they have."""
    if find_spec("altair") and find_spec("vl_convert"):
        return None
    return 'Plots are left out: pip install "ripcurrent[report]" and then `ripcurrent report RUN` draw them.'


def build(folder: str | Path, *, reveal: bool = False) -> Path:
    """Build the page of a finished scan, experiment or check in its folder and return the page's path.

    With ``reveal`` the page of an experiment or check has the answers, and its name says so.
    """
    from ripcurrent.evaluate import open_check
    from ripcurrent.experiment import KEYS, ExperimentResults
    from ripcurrent.runs import read_manifest
    from ripcurrent.scan import ScanRun

    # an experiment's folder has its keys in it from the start
    if (Path(folder) / KEYS).is_file():
        return build_experiment_page(ExperimentResults.read(Path(folder)), reveal=reveal)
    if (Path(folder) / "manifest.json").is_file() and read_manifest(Path(folder)).get("command") == "check":
        return build_check_page(open_check(folder), reveal=reveal)
    return build_report(ScanRun.open(folder))


def build_report(run: ScanRun) -> Path:
    """Write ``report.html`` into a scan's run folder and return its path.

    Of the dataset only the rows that the page shows are read. The page is one file that fetches nothing, and depends on
    the run alone: built twice, it is the same to the byte. Its plots need the extra ``report``.

    Raises:
        RipcurrentError: A file of the run is damaged, or the page cannot be written.
    """
    from ripcurrent.report._page import write_page
    from ripcurrent.report._scan_page import render_scan_page

    return write_page(run.folder / REPORT, render_scan_page(run))


def build_experiment_page(results: ExperimentResults, *, reveal: bool = False) -> Path:
    """Write the page of an experiment into its folder: ``report.html``, or with answers ``report-revealed.html``."""
    from ripcurrent.report._experiment_page import render_experiment_page
    from ripcurrent.report._page import write_page

    return write_page(results.folder / (REVEALED if reveal else REPORT), render_experiment_page(results, reveal))


def view(
    folder: str | Path, *, port: int = 8400, say: Callable[[str], None] = print, progress: Progress | None = None
) -> None:
    """Serve the runs of a folder, and every row of its scans, to this machine until it is stopped (extra ``view``).

    ``say`` gets the address, which holds a token that changes with every call. What a reader decides about rows is
    written to ``decisions.jsonl`` in the run folder.

    Raises:
        RipcurrentError: No run there, a port that is in use, or the packages of the extra ``view`` are missing.
    """
    from ripcurrent.report._view import serve

    serve(Path(folder), port, say, progress)


def build_rating_page(draw: RatingDraw, page: Path) -> Path:
    """Write the page on which people rate answers, blind to arm and judge; the same draw gives the same to the byte."""
    from dataclasses import asdict
    from importlib.metadata import version

    from ripcurrent.evaluate import CANNOT_SAY, GUIDANCE, RUBRIC_VERSION, SCALE
    from ripcurrent.report._page import render_page, write_page

    items = [asdict(item) for item in draw.items]
    data = {"page": draw.key.page, "rubric": RUBRIC_VERSION, "cannotSay": CANNOT_SAY, "items": items}
    shown = {"count": len(items), "version": version("ripcurrent"), "rubric": RUBRIC_VERSION}
    shown |= {"scale": SCALE, "guidance": GUIDANCE}
    styles, scripts = ["_base.css", "_rating.css"], ["_common.js", "_rating.js"]
    return write_page(page, render_page("_rating.html.j2", shown, data, styles=styles, scripts=scripts, plots=False))


def build_mask_page(check: MaskCheck, dataset: str, page: Path) -> Path:
    """Write the page of which tokens of ``dataset`` trainers train: counts, and rows with these tokens marked."""
    from importlib.metadata import version

    from ripcurrent.report._page import render_page, write_page

    shown = {"check": check, "dataset": dataset, "version": version("ripcurrent")}
    styles, scripts = ["_base.css", "_masks.css"], ["_common.js"]
    return write_page(page, render_page("_masks.html.j2", shown, {}, styles=styles, scripts=scripts, plots=False))


def build_check_page(run: CheckRun, *, reveal: bool = False) -> Path:
    """Write the page of a check into its folder: ``report.html``, or with answers ``report-revealed.html``."""
    from ripcurrent.report._check import render_check
    from ripcurrent.report._page import write_page

    return write_page(run.folder / (REVEALED if reveal else REPORT), render_check(run, reveal))


def write_junit(run: CheckRun | GateRun, path: Path) -> Path:
    """Write a verdict as a JUnit file: a failure where it is worse, skipped where it cannot tell."""
    from ripcurrent.report._check import junit
    from ripcurrent.report._page import write_page

    return write_page(path, junit(run))


def write_markdown(run: CheckRun | GateRun, path: Path) -> Path:
    """Add a verdict to a Markdown file, which is made where there is none."""
    from ripcurrent.report._check import markdown

    with path.open("a", encoding="utf-8") as file:
        file.write(markdown(run))
    return path


__all__ = [
    "REPORT",
    "build",
    "build_check_page",
    "build_experiment_page",
    "build_mask_page",
    "build_rating_page",
    "build_report",
    "view",
    "without_plots",
    "write_junit",
    "write_markdown",
]
