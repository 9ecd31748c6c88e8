"""A scan's page in a browser, as a file and from the viewer: what a reader does with it."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ripcurrent.report import build
from ripcurrent.select import select
from tests.report.conftest import HOSTILE, number
from tests.report.fabricate import fabricate_run

pytestmark = pytest.mark.browser

UNSEEN = "A plain answer\u202e with what is not seen.\u200b"


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    texts = [(HOSTILE, HOSTILE), ("Tell me of row 17 and the harbour.", UNSEEN)]
    return build(fabricate_run(tmp_path_factory.mktemp("page") / "run", texts=texts))


@pytest.fixture(scope="module")
def table(report) -> list[dict[str, Any]]:
    return pq.read_table(report.with_name("scores.parquet")).to_pylist()


@pytest.fixture(params=["file", "viewer"])
def opened(request, report, open_page, serve):
    """The page of one run, from its file and from the viewer."""
    return open_page(report if request.param == "file" else serve(report.parent))


def ranked(table: list[dict[str, Any]], column: str = "gradient_balanced", sign: int = -1) -> list[int]:
    scored = [row for row in table if row["status"] == "ok"]
    return [row["row"] for row in sorted(scored, key=lambda row: (sign * row[column], row["row"]))]


@pytest.mark.parametrize(("scheme", "width"), [("light", 1440), ("dark", 1100), ("light", 820), ("light", 390)])
def test_it_loads_without_complaint_fetches_nothing_and_fits(report, open_page, scheme, width):
    opened = open_page(report, color_scheme=scheme, width=width)
    opened.search("lesson-00000")
    opened.page.locator("button.open").click()
    for part in ("prompt", "response"):
        assert opened.page.locator(f".body[data-part={part}]").text_content() == HOSTILE
    assert opened.page.locator("#pane img, #pane script, #table img, #table b").count() == 0
    opened.page.keyboard.press("Escape")
    opened.page.locator("#more > summary").click()
    for plot in ("distribution", "length", "formats"):
        opened.page.wait_for_selector(f"#{plot} svg")
    drawn = "score => document.querySelector('#distribution svg')?.textContent.includes(score)"
    for score in opened.texts("#score option"):
        opened.page.select_option("#score", score)
        opened.page.wait_for_function(drawn, arg=score)
    opened.is_quiet_and_fits()
    opened.lets_nothing_slip_in()
    # a table stays one down to 800 px
    assert opened.page.evaluate("getComputedStyle(document.querySelector('#table tbody td')).display") == (
        "table-cell" if width > 760 else "block"
    )


def test_the_first_screen_has_rows_and_commands_and_few_numbers(report, open_page):
    opened = open_page(report, width=1440)
    above = (".top", "#answer", "#do", "#parts", "#groups", "#table thead", "#table tr:nth-child(-n+6) td:not(.text)")
    seen = " ".join(opened.page.locator(", ".join(above)).all_inner_texts())
    seen = seen.replace(str(report.parents[1]), "")
    assert len(re.findall(r"\d[\d.,]*", seen)) <= 25, seen
    assert len(re.findall(r"\b[a-z]+_[a-z_]+", seen)) <= 2, seen
    assert seen.count("ripcurrent select") == seen.count("ripcurrent check") == 1
    assert sum(row.bounding_box()["y"] < 840 for row in opened.page.locator("#table tr[data-row]").all()) >= 3


def test_rows_are_ranked_found_filtered_and_paged(opened, table):
    expected = ranked(table)
    assert opened.shown_rows() == expected[:25]
    opened.choose("#by", "gradient_safe")
    assert opened.shown_rows() == ranked(table, "gradient_safe", 1)[:25]
    opened.choose("#by", "row")
    assert opened.shown_rows() == list(range(25))
    opened.choose("#by", "gradient_balanced")
    opened.click("#next")
    assert opened.shown_rows() == expected[25:50]
    opened.click("#reverse")
    assert opened.shown_rows()[-1] != expected[0]
    unscored = [row["row"] for row in table if row["status"] != "ok"]
    assert set(opened.shown_rows()[: len(unscored)]) == set(unscored)
    opened.click("#reverse")
    opened.click("[data-part=unscored]")
    assert set(opened.shown_rows()) == set(unscored)
    assert opened.texts("#table .status") == ["no response"] * len(unscored)
    opened.click("[data-part=cut]")
    assert opened.shown_rows() == expected[: round(0.05 * len(expected))]
    opened.click("[data-part=hidden]")
    assert opened.shown_rows() == [1]
    assert opened.texts("#table mark") == ["U+202E", "U+200B"]
    opened.click("[data-part=all]")
    opened.click("[data-kind='numbered lists']")
    assert opened.shown_rows() == [row for row in expected if table[row]["is_numbered"]][:25]
    opened.search("KETTLE steps")
    assert opened.shown_rows()
    assert {"set up a kettle" in text for text in opened.texts("#table .ask")} == {True}
    opened.click("[data-kind='numbered lists']")
    opened.search('"the harbour" -allotment 17')
    assert opened.shown_rows() == [1]
    opened.search("no such words anywhere")
    assert opened.shown_rows() == []
    assert "No row matches" in opened.page.locator("#table tbody").text_content()
    opened.search("")
    opened.fill("#shortest", "20")
    opened.fill("#longest", "40")
    assert {20 <= table[row]["response_tokens"] <= 40 for row in opened.shown_rows()} == {True}
    opened.is_quiet_and_fits()


def test_the_keyboard_opens_row_after_row_and_the_address_leads_to_one(opened, table):
    page, expected = opened.page, ranked(table)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("j")
    page.wait_for_selector("#pane h2")
    page.keyboard.press("j")
    page.wait_for_function("row => document.querySelector('#pane h2').textContent === `Row ${row}`", arg=expected[1])
    page.keyboard.press("k")
    page.wait_for_function("row => document.querySelector('#pane h2').textContent === `Row ${row}`", arg=expected[0])
    page.locator("#pane summary").click()
    found = dict(zip(opened.texts("#pane .numbers dt"), opened.texts("#pane .numbers dd"), strict=True))
    for name in ("gradient_harmful", "gradient_safe", "gradient_norm", "loss", "representation_safe"):
        assert number(found[name]) == pytest.approx(table[expected[0]][name], abs=6e-4)
    scored = [row for row in table if row["status"] == "ok"]
    below = sum(row["gradient_harmful"] < table[expected[0]]["gradient_harmful"] for row in scored)
    assert f"complying examples than {min(99, 100 * below // len(scored))} %" in opened.texts(".why li")[0]
    assert page.evaluate("location.hash") == f"#row={expected[0]}"
    page.reload()
    page.wait_for_selector("#pane h2")
    assert opened.texts("#pane h2") == [f"Row {expected[0]}"]
    page.keyboard.press("Escape")
    assert not page.locator("#pane").is_visible()
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "search"


def test_leaving_out_more_shows_what_goes_and_changes_the_command(report, table, open_page):
    opened, expected = open_page(report), ranked(table)
    opened.page.locator("#leave").focus()
    for _ in range(2):
        opened.page.keyboard.press("ArrowRight")
    rows = expected[: round(0.1 * len(expected))]
    tokens = sum(table[row]["response_tokens"] for row in rows) / sum(table[row]["response_tokens"] for row in expected)
    assert opened.texts("#lost")[0].startswith(f"{len(rows)} rows and {100 * tokens:.1f} % of the trained tokens")
    assert "--top 10% --drop" in opened.texts("[data-command]")[0]


def test_marks_are_saved_and_select_reads_them(opened, table, report, tmp_path):
    viewer, expected = "file:" not in opened.page.url, ranked(table)
    for place in range(4):
        opened.page.locator("[data-decision=drop]").nth(place).click()
    opened.page.locator("[data-decision=drop]").nth(3).click()
    opened.page.locator("[data-decision=keep]").nth(4).click()
    if viewer:
        opened.page.wait_for_timeout(300)
        path = report.with_name("decisions.jsonl")
        opened.page.reload()
        opened.page.wait_for_selector("#table tr[data-row]")
    else:
        with opened.page.expect_download() as saved:
            opened.page.click("#save")
        path = tmp_path / saved.value.suggested_filename
        saved.value.save_as(path)
    assert opened.page.locator("#table [data-decision=drop][aria-pressed=true]").count() == 3
    records = select(report.parent, decisions=path, drop=True, out=tmp_path / "drop")
    assert set(records[0].selection.indices) == set(expected[:3])
    records = select(report.parent, decisions=path, top=5, out=tmp_path / "top")
    assert set(records[0].selection.indices) == set(expected[:4])
    rest = [json.loads(line)["id"] for line in (tmp_path / "drop" / "without-decided.jsonl").read_text().splitlines()]
    assert rest == [row["id"] for row in table if row["row"] not in expected[:3]]


def test_the_theme_turns_and_paper_is_white(report, open_page):
    opened = open_page(report, color_scheme="light")
    colour = "getComputedStyle(document.body).backgroundColor"
    before = opened.page.evaluate(colour)
    opened.page.get_by_role("button", name="Dark theme").click()
    assert opened.page.evaluate(colour) != before
    opened.page.emulate_media(media="print")
    assert opened.page.evaluate(colour) == "rgb(255, 255, 255)"
    assert not opened.page.locator("#search").is_visible()


@pytest.mark.parametrize(
    ("signals", "ranking"), [("representation", "representation_bidirectional"), ("gradient", "gradient_balanced")]
)
def test_columns_that_were_not_measured_are_left_out(tmp_path, open_page, signals, ranking):
    opened = open_page(build(fabricate_run(tmp_path / "run", rows=60, signals=signals)))
    scores = opened.texts("#score option")
    assert ranking in scores
    assert all(score.startswith((signals, "predicted")) for score in scores)
    assert opened.complaints == []


def test_no_scored_row_and_no_dataset_are_said_and_leave_numbers_and_ids(tmp_path, open_page):
    opened = open_page(build(fabricate_run(tmp_path / "run", rows=30, scored=False, dataset=False)))
    assert "None of the 30 rows could be scored" in opened.page.locator("#answer .lead").text_content()
    assert "without their text" in opened.page.locator("#text-note").text_content()
    assert opened.shown_rows() == list(range(25))
    opened.click("#reverse")
    assert opened.shown_rows() == list(range(29, 4, -1))
    assert "id lesson-" in opened.texts("#table .ask")[0]
    opened.page.locator("button.open").first.click()
    assert "not available" in opened.page.locator("#pane").text_content()
    opened.is_quiet_and_fits()


def test_a_large_set_shows_both_ends_and_says_so_and_the_viewer_has_all(tmp_path, open_page, serve):
    report = build(fabricate_run(tmp_path / "run", rows=4000))
    opened = open_page(report)
    assert "of 4,000 rows" in opened.page.locator("#held").text_content()
    opened = open_page(serve(report.parent.parent))
    assert opened.page.locator("#found").text_content() == "4,000 rows"
    assert opened.page.locator("#held").count() == 0
    opened.search("2345")
    assert 2345 in opened.shown_rows()
