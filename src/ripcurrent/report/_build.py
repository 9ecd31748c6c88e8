"""From a run folder to ``report.html``."""

from __future__ import annotations

from pathlib import Path

from ripcurrent.errors import RipcurrentError


def build_report(run_folder: Path) -> Path:
    """Write ``report.html`` into a scan's run folder and return its path.

    Reads ``manifest.json``, ``scores.parquet`` and ``signals/`` of the run, and of the dataset file only the rows that
    the page shows. The page is one file that fetches nothing, and depends on the run alone: built twice, it is the
    same to the byte. It is written under another name first, so an interrupted build leaves an earlier page whole.

    Memory stays flat in the number of rows but for one column of numbers at a time (8 bytes a row).

    Raises:
        RipcurrentError: the folder holds no finished scan, a file of it is damaged, or the page cannot be written.
    """
    # The plotting and table libraries take a second to import; a command that builds no page should not pay for it.
    from ripcurrent.report._content import page_content
    from ripcurrent.report._page import render_page
    from ripcurrent.scan._scan_run import open_scan_run

    page = render_page(page_content(open_scan_run(Path(run_folder))))
    target = Path(run_folder) / "report.html"
    part = target.with_name("report.html.part")
    try:
        # a path that is no UTF-8 is shown with question marks
        part.write_text(page, encoding="utf-8", errors="replace", newline="\n")
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise RipcurrentError(
            f"The page could not be written to {target}: {error.strerror}.",
            "Free some space or make the folder writable, then build the page again; the scores are kept.",
        ) from error
    return target
