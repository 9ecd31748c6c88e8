"""A scan's page in a browser: what a reader does with it."""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ripcurrent.report import build
from tests.report.conftest import HOSTILE, number
from tests.report.fabricate import fabricate_run

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    return build(fabricate_run(tmp_path_factory.mktemp("page") / "run", texts=[(HOSTILE, HOSTILE)]))


@pytest.fixture(scope="module")
def table(report) -> list[dict[str, Any]]:
    return pq.read_table(report.with_name("scores.parquet")).to_pylist()


def wait_for_plots(opened) -> None:
    for plot in ("distribution", "length", "formats"):
        opened.page.wait_for_selector(f"#{plot} svg")


@pytest.mark.parametrize(("scheme", "width"), [("light", 1360), ("dark", 900), ("light", 400)])
def test_it_loads_without_complaint_fetches_nothing_and_fits(report, open_page, scheme, width):
    opened = open_page(report, color_scheme=scheme, width=width)
    wait_for_plots(opened)
    drawn = "score => document.querySelector('#distribution svg')?.textContent.includes(score)"
    for score in opened.texts("#score option"):
        opened.page.select_option("#score", score)
        opened.page.wait_for_function(drawn, arg=score)
    wait_for_plots(opened)
    opened.page.fill("#search", "lesson-00000")
    opened.page.locator("button.open").click()
    assert opened.page.locator("td.text").first.bounding_box()["width"] > 250
    for part in ("prompt", "response"):
        assert opened.page.locator(f".body[data-part={part}]").text_content() == HOSTILE
    assert opened.page.locator("#table img, #table script, #table b").count() == 0
    opened.is_quiet_and_fits()
    opened.lets_nothing_slip_in()


def test_rows_start_riskiest_first_and_open_with_their_parts(table, report, open_page):
    scored = [row for row in table if row["status"] == "ok"]
    expected = [row["row"] for row in sorted(scored, key=lambda row: (-row["gradient_balanced"], row["row"]))]
    opened = open_page(report)
    assert opened.shown_rows() == expected[:25]
    assert opened.column("rank") == [str(rank) for rank in range(1, 26)]
    opened.page.locator("button.open").first.click()
    parts = dict(zip(opened.texts(".numbers dt"), opened.texts(".numbers dd"), strict=True))
    for name in ("gradient_harmful", "gradient_safe", "gradient_norm", "loss", "representation_safe"):
        assert number(parts[name]) == pytest.approx(table[expected[0]][name], abs=6e-4)


@pytest.mark.parametrize(("column", "shown"), [("gradient_harmful", "gradient_harmful"), ("response_tokens", "tokens")])
def test_sorting_by_click_goes_both_ways_and_rows_without_a_value_are_last(report, open_page, column, shown):
    opened = open_page(report)
    head = opened.page.locator(f'th:has([data-sort="{column}"])')
    for direction in ("descending", "ascending"):
        head.locator("button").click()
        assert "–" not in opened.column(shown)
        values = [number(text) for text in opened.column(shown)]
        assert head.get_attribute("aria-sort") == direction
        assert values == sorted(values, reverse=direction == "descending")


def test_keyboard_alone_sorts_opens_and_pages(report, open_page):
    opened = open_page(report)
    page = opened.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    opened.tab_to("dataset.sort === 'gradient_harmful'")
    page.keyboard.press("Enter")
    assert page.locator('th:has([data-sort="gradient_harmful"])').get_attribute("aria-sort") == "descending"
    assert page.evaluate("document.activeElement.dataset.sort") == "gradient_harmful", "sorting must keep the focus"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid", "and show it"
    opened.tab_to("classList.contains('open')")
    page.keyboard.press("Space")
    assert page.locator("tr.detail").count() == 1
    first = opened.shown_rows()
    page.focus("#next")
    page.keyboard.press("Enter")
    assert page.locator("#where").text_content() == "Page 2 of 10"
    assert not {*first} & {*opened.shown_rows()}


def test_filters_by_trait_status_text_number_and_id_combine(table, report, open_page):
    opened = open_page(report)
    page = opened.page
    page.select_option("#size", "100")
    page.locator('[data-trait="numbered"]').click()
    assert set(opened.shown_rows()) == {row["row"] for row in table if row["is_numbered"]}
    page.fill("#search", "SET UP A KETTLE")
    assert {"set up a kettle" in text for text in opened.texts("#table .ask")} == {True}
    page.fill("#search", "")
    page.locator('[data-trait="numbered"]').click()
    page.select_option("#status", "no_response")
    assert set(opened.shown_rows()) == {row["row"] for row in table if row["status"] == "no_response"}
    assert page.locator("#table .status").first.text_content() == "not scored: no_response"
    page.select_option("#status", "")
    page.fill("#search", "lesson-00017")
    assert opened.shown_rows() == [17]
    page.fill("#search", "17")
    assert 17 in opened.shown_rows()
    page.fill("#search", "no such words anywhere")
    assert opened.shown_rows() == []
    assert "No row matches" in page.locator("#table tbody").text_content()


def test_the_theme_turns_with_its_plots_and_paper_is_white(report, open_page):
    opened = open_page(report, color_scheme="light")
    wait_for_plots(opened)
    colours = "() => [getComputedStyle(document.body).backgroundColor, "
    colours += "getComputedStyle(document.querySelector('#distribution .mark-rect path')).fill]"
    before = opened.page.evaluate(colours)
    opened.page.get_by_role("button", name="Dark theme").click()
    assert all(now != then for now, then in zip(opened.page.evaluate(colours), before, strict=True))
    assert opened.page.get_by_role("button", name="Light theme").count() == 1
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert not opened.page.locator("#filters").is_visible()
    # a printer lays out the page again, and the plots keep the width that they had on the screen
    opened.page.evaluate("document.querySelector('main').style.cssText = 'width: 700px; margin: 0'")
    widths = opened.page.evaluate(
        """() => [...document.querySelectorAll('.plot')].map(
            plot => [plot.querySelector('svg').getBoundingClientRect().width, plot.clientWidth])"""
    )
    assert all(plot <= room for plot, room in widths), widths
    table = opened.page.locator("#verdict .plain").bounding_box()
    assert table["x"] + table["width"] <= 701


@pytest.mark.parametrize(
    ("signals", "ranking"), [("representation", "representation_bidirectional"), ("gradient", "gradient_balanced")]
)
def test_columns_that_were_not_measured_are_left_out(tmp_path, open_page, signals, ranking):
    opened = open_page(build(fabricate_run(tmp_path / "run", rows=60, signals=signals)))
    wait_for_plots(opened)
    scores = opened.texts("#score option")
    assert ranking in scores
    assert all(score.startswith((signals, "predicted")) for score in scores)
    assert opened.complaints == []


def test_no_scored_row_and_no_dataset_are_said_and_leave_numbers_and_ids(tmp_path, open_page):
    opened = open_page(build(fabricate_run(tmp_path / "run", rows=30, scored=False, dataset=False)))
    assert "None of the 30 rows could be scored" in opened.page.locator("#verdict .lead").text_content()
    assert "without their text" in opened.page.locator("#text-note").text_content()
    assert opened.shown_rows() == list(range(25))
    opened.page.locator('[data-sort="row"]').click()
    assert opened.shown_rows() == list(range(29, 4, -1))
    assert opened.texts("#table .ask")[0].startswith("id lesson-")
    opened.page.locator("button.open").first.click()
    assert opened.page.locator(".body").count() == 0
    opened.is_quiet_and_fits()


def test_a_large_set_shows_both_ends_and_says_so(tmp_path, open_page):
    opened = open_page(build(fabricate_run(tmp_path / "run", rows=4000)))
    page = opened.page
    assert "of 4,000 rows" in page.locator("#rows > .sub").first.text_content()
    assert "that this page holds are drawn" in page.locator("#plots").text_content()
    page.select_option("#group", "riskiest")
    assert page.locator("#found").text_content().startswith("500 of")
