"""An experiment's page in a browser."""

import json
import re
from pathlib import Path

import pytest

from ripcurrent.errors import RipcurrentError
from ripcurrent.evaluate import measured_agreement
from ripcurrent.experiment import ExperimentResults
from ripcurrent.report import build_experiment_page
from tests.report.fabricate_experiment import fabricate_experiment

pytestmark = pytest.mark.browser


def page_of(folder: Path, reveal: bool = False) -> Path:
    return build_experiment_page(ExperimentResults.read(folder), reveal=reveal)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return fabricate_experiment(tmp_path_factory.mktemp("experiment"))


@pytest.fixture(scope="module")
def page(folder) -> Path:
    return page_of(folder)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1360, 420])
def test_loads_without_complaint_and_fetches_nothing(page, open_page, scheme, width):
    opened = open_page(page, color_scheme=scheme, width=width)
    opened.page.wait_for_selector("#intervals svg")
    opened.page.select_option("#judge", "keyword")
    opened.page.get_by_role("button", name="theme").click()
    opened.page.mouse.wheel(0, 4000)
    opened.is_quiet_and_fits()


def test_says_what_the_results_say(folder, page, open_page):
    results = json.loads((folder / "results.json").read_text())
    assert results["verdict"] == "worse than random"
    opened = open_page(page)
    assert opened.page.locator("[data-verdict]").text_content() == "Worse than random"
    assert opened.page.locator("h1").text_content() == "paper <script>alert(1)</script>"
    names = opened.texts(".arms tbody th .strong")
    assert names == ["base", "random", "top", "bottom", "length", *(f"bins-{n}" for n in (0, 25, 50, 75, 100))]
    top = opened.page.locator(".arms tbody tr", has=opened.page.locator(".strong", has_text=re.compile("^top$")))
    summary = next(one for one in results["summaries"] if one["name"] == "top" and one["judge"] == "prefix")
    text = top.text_content()
    assert f"{100 * summary['attack_success_rate']:.1f}" in text
    assert f"{100 * summary['low']:.1f}–{100 * summary['high']:.1f}" in text
    compared = opened.page.locator("#comparisons tbody tr").first.text_content()
    assert "worse than random" in compared
    assert opened.texts("#categories thead th") == ["arm", "deception", "violence"]
    assert "0.88" in opened.page.locator("#judges").text_content()


def test_failed_and_missing_runs_are_told(tmp_path, open_page):
    opened = open_page(page_of(fabricate_experiment(tmp_path, failed=True, without="length")))
    notices = " ".join(opened.texts("#verdict .notice"))
    assert "Not complete: 3 runs" in notices
    assert "bottom, seed 1, failed and is in no table. Training diverges" in notices
    with pytest.raises(RipcurrentError, match=r"results\.json cannot be read"):
        page_of(tmp_path / "arms")


def test_the_judges_figures_are_those_of_the_documents():
    text = (Path(__file__).parents[2] / "docs" / "evaluate.md").read_text(encoding="utf-8").replace("**", "")
    found = measured_agreement()
    assert {one.judge for one in found} == {"prefix", "keyword", "wording"}
    for one in found:
        cells = f"| {one.n} | {100 * one.accuracy:.1f} % | {one.kappa:.2f} | {one.low:.2f}–{one.high:.2f} |"
        assert cells in text, one
        assert f"`{one.judge}` {one.version} |" in text


def test_a_changed_request_is_two_clicks_away_and_its_answers_only_where_asked_for(folder, open_page):
    hidden, revealed = page_of(folder), page_of(folder, reveal=True)
    assert (hidden.name, revealed.name) == ("report.html", "report-revealed.html")
    opened = open_page(hidden)
    flips = opened.page.locator(".flip")
    assert flips.count() > 3
    assert re.fullmatch(
        r"… random [0-3] of 3, top [1-3] of 3", " ".join(flips.first.locator("summary").text_content().split())
    )
    opened = open_page(revealed)
    opened.page.locator(".flip summary").first.click()
    assert opened.texts(".flip[open] h3") == ["base", "random", "top"]
    assert all(opened.texts(".flip[open] .body"))
    opened.is_quiet_and_fits()
