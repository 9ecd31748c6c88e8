"""The pages of probe, mechanism and edits, made by the kinds themselves and opened in a browser."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ripcurrent.cli import run as command
from ripcurrent.errors import RipcurrentError
from ripcurrent.experiment._experiment_kinds import OTHER_KINDS, run_other_kind
from ripcurrent.progress import SilentProgress
from ripcurrent.report import build_instrument_page
from ripcurrent.report._edits_content import edits_content
from ripcurrent.report._instrument_content import signed, span
from tests.experiment.conftest import read, scanned
from tests.report.conftest import Opener
from tests.scan_fixtures import anchors_file, shared_cache, tiny_folder
from tests.tiny_scan import write_jsonl

__all__ = ["anchors_file", "scanned", "shared_cache", "tiny_folder"]

NAME = "odd <script>alert(1)</script>"


@pytest.fixture(scope="module")
def folders(scanned: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A finished folder of every kind."""
    folder = tmp_path_factory.mktemp("instruments")
    asked = write_jsonl(
        folder / "prompts.jsonl", [{"prompt": f"harmful request {n}", "axis": "harmful"} for n in range(5)]
    )
    keys: dict[str, dict[str, Any]] = {
        "probe": {
            "run": str(scanned),
            "rows": 12,
            "strata": 4,
            "learning_rate": 1e-3,
            "prompts": {"source": str(asked)},
        },
        "mechanism": {"pools": [{"name": "small", "run": str(scanned)}, {"name": "again", "run": str(scanned)}]},
        "edits": {"run": str(scanned), "edits": ["numbers-to-bullets", "digits-spelled"], "tolerance": 0.3},
    }
    for kind, own in keys.items():
        named = {"kind": kind, "name": NAME, "title": "What does it say?", **own}
        run_other_kind(kind, named, folder / kind, progress=SilentProgress())
    return {kind: folder / kind for kind in keys}


@pytest.mark.browser
@pytest.mark.parametrize("width", [1360, 400])
@pytest.mark.parametrize("kind", OTHER_KINDS)
def test_it_opens_without_complaint_and_fetches_nothing(
    folders: dict[str, Path], open_page: Opener, kind: str, width: int
) -> None:
    opened = open_page(folders[kind] / "report.html", viewport={"width": width, "height": 900})
    for plot in opened.page.locator(".plot").all():
        plot.locator("svg").wait_for()
    assert opened.page.locator("h1").text_content() == NAME
    assert opened.page.locator(".plot").count() >= 1
    for choice in opened.page.locator("select").all():
        choice.select_option(index=1)
    opened.page.wait_for_timeout(200)
    opened.page.get_by_role("button", name="theme").click()
    assert (opened.complaints, opened.requests) == ([], [])
    assert opened.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the page scrolls sideways"


def cells(opened: Any, section: str, head: str) -> list[str]:
    """The cells of the first table of a section whose row begins so."""
    for row in opened.page.locator(f"#{section} tbody tr").all():
        found = row.locator("th .strong, td").all_text_contents()
        if found[0] == head:
            return list(found[1:])
    raise AssertionError(f"no row {head}")


@pytest.mark.browser
def test_a_probe_says_what_its_results_say(folders: dict[str, Path], open_page: Opener) -> None:
    results = read(folders["probe"] / "results.json")
    opened = open_page(folders["probe"] / "report.html")
    one = next(one for one in results["columns"] if one["column"] == "gradient_bidirectional")
    assert cells(opened, "columns", "gradient_bidirectional") == [
        "high",
        signed(one["spearman"]) + span(one["low"], one["high"]),
        signed(one["given_length"]) + span(one["given_length_low"], one["given_length_high"]),
    ]
    assert cells(opened, "columns", "gradient_safe")[0] == "low"
    most = max(results["by_row"], key=lambda one: one["drop"])
    assert cells(opened, "rows", str(most["row"]))[:2] == [most["id"], signed(most["drop"], 3)]
    opened.page.wait_for_selector("#drops svg")
    assert opened.page.locator("#drops .mark-rule.role-mark line").count() == 1, "the line at 0"
    measured = [json.loads(line) for line in (folders["probe"] / "probe" / "rows.jsonl").read_text().splitlines()]
    assert [(one["row"], one["drop"]) for one in results["by_row"]] == [(one["row"], one["drop"]) for one in measured]
    assert (
        f"{100 * results['drop']['share_above_zero']:.0f} % of 12 rows" in opened.page.locator(".lead").text_content()
    )


@pytest.mark.browser
def test_a_mechanism_table_says_what_its_results_say(folders: dict[str, Path], open_page: Opener) -> None:
    results = read(folders["mechanism"] / "results.json")
    opened = open_page(folders["mechanism"] / "report.html")
    one = results["pools"][0]["correlations"][0]
    sign = results["agreement"][0]["sign"]
    raw = signed(one["spearman"]) + span(one["low"], one["high"])
    given = signed(one["given_length"]) + span(one["given_length_low"], one["given_length_high"])
    # the second pool is the first again
    assert cells(opened, "pairs", one["gradient"]) == [raw, given, raw, given, "no" if sign == "unclear" else sign]
    clear = sum(one["sign"] != "unclear" for one in results["agreement"])
    assert f"{clear} of {len(results['agreement'])} pairs" in opened.page.locator(".lead").text_content()


@pytest.mark.browser
def test_edits_say_what_their_results_say(folders: dict[str, Path], open_page: Opener) -> None:
    results = read(folders["edits"] / "results.json")
    opened = open_page(folders["edits"] / "report.html")
    counts = results["edits"][0]
    one = next(
        one
        for one in results["changes"]
        if (one["edit"], one["column"]) == (counts["edit"], results["default_ranking"])
    )
    found = cells(opened, "changes", counts["edit"])
    assert found[0] == str(counts["rows"])
    assert found[3] == signed(one["mean_change"], 4) + span(one["low"], one["high"], 4)
    assert cells(opened, "changes", one["column"])[0].rstrip("*") == signed(one["change_in_deviations"])


def test_the_command_builds_the_page_again(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(folders["mechanism"], folder)
    before = (folder / "report.html").read_text()
    (folder / "report.html").unlink()
    assert command(["report", str(folder)]) == 0
    assert (folder / "report.html").read_text() == before
    assert "report.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be read"),
        ('{"kind": "arms"}', "no result of a probe"),
        ('{"kind": "probe"}', "by a version that kept no keys"),
    ],
)
def test_results_of_something_else(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(RipcurrentError, match=told):
        build_instrument_page(tmp_path)


def test_a_p_of_nothing_is_the_surest(folders: dict[str, Path]) -> None:
    """Of some thousand rows that all move one way the test's p is 0."""
    results = read(folders["edits"] / "results.json")
    for one in results["changes"]:
        one["adjusted_wilcoxon_p"] = 0.0
    content = edits_content(results)
    assert content.lead.startswith(f"{len(results['edits'])} of {len(results['edits'])} edits change")
    marked = [cell for row in content.sections[0].tables[1].rows for cell in row[1:] if cell.text != "–"]
    assert marked
    assert all(cell.text.endswith("*") for cell in marked)


def test_numbers_have_a_true_minus_sign_and_nothing_has_none() -> None:
    assert [signed(value) for value in (None, 0.0, -0.001, -0.5, 0.25)] == ["–", "0.00", "0.00", "−0.50", "+0.25"]
