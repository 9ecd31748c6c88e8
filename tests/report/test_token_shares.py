"""The page of a run with token shares: a row's text coloured by them, by pointer and by keyboard."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ripcurrent.data import read_rows
from ripcurrent.errors import RipcurrentError
from ripcurrent.report import build
from ripcurrent.scan import TOKEN_SCHEMA
from tests.report.conftest import HOSTILE, number
from tests.report.fabricate import fabricate_run

pytestmark = pytest.mark.browser

LONG = "A walk " + "over the hill and down again, " * 400


def add_token_shares(run: Path, rows: list[int], *, safe_sets: int = 2) -> None:
    """Token shares as a scan leaves them, made up: a token a word, half an emoji a token; they add up to the scores."""
    random = np.random.default_rng(4)
    scores = pq.read_table(run / "scores.parquet")
    tokens: list[dict[str, Any]] = []
    for row in read_rows(run.parent / "lessons.jsonl").at(sorted(rows)):
        places = [("template", -1, -1)]
        for part, text in (("prompt", row.prompt), ("response", row.response)):
            for found in re.finditer(r"\s*[^\s\U0001f9ed]+|\s*\U0001f9ed", text):
                places += [(part, *found.span())] * (1 + found.group().endswith("\U0001f9ed"))
            places.append(("template", -1, -1))
        shares = random.normal(0, 0.01, (2, len(places)))
        shares[:, -1] = 0
        wanted = [scores[f"gradient_{side}"][row.index].as_py() for side in ("harmful", "safe")]
        shares[:, 0] += wanted - shares.sum(axis=1)
        shares *= scores["gradient_norm"][row.index].as_py()
        fixed = {"row": row.index, "id": row.id, "group": "riskiest", "token_id": 7, "kind": "word"}
        for position, (part, start, end) in enumerate(places):
            where = {"position": position, "part": part, "text_start": start, "text_end": end}
            where |= {"is_prompt": part != "response", "in_loss": part == "response"}
            harmful, safe = shares[:, position].tolist()
            tokens.append({**fixed, **where, "share_harmful": harmful, "share_safe": safe})
    pq.write_table(pa.Table.from_pylist(tokens, TOKEN_SCHEMA), run / "tokens.parquet")
    manifest = json.loads((run / "manifest.json").read_text())
    (run / "manifest.json").write_text(json.dumps(manifest | {"tokens": {"safe_sets": safe_sets}}))


KEPT = [0, 1, 2, 5]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    texts = [(HOSTILE, HOSTILE), ("Walk?", LONG), ("Hi", "Yes.")]
    run = fabricate_run(tmp_path_factory.mktemp("shares") / "run", rows=60, texts=texts)
    add_token_shares(run, KEPT)
    return run


@pytest.fixture(scope="module")
def report(run) -> Path:
    return build(run)


def shares_of(run: Path, row: int, part: str) -> list[dict[str, Any]]:
    """Tokens of a row's part with their text, and shares divided by the gradient norm."""
    norm = pq.read_table(run / "scores.parquet")["gradient_norm"][row].as_py()
    (text,) = (getattr(one, part) for one in read_rows(run.parent / "lessons.jsonl").at([row]))
    tokens = pq.read_table(run / "tokens.parquet").to_pylist()
    return [
        {
            **{"text": text[token["text_start"] : token["text_end"]], "start": token["text_start"]},
            **{side: token[f"share_{side}"] / norm for side in ("harmful", "safe")},
        }
        for token in tokens
        if (token["row"], token["part"]) == (row, part)
    ]


def open_row(open_page, report: Path, row: int, **context: object):
    opened = open_page(report, **context)
    opened.search(f"lesson-{row:05d}")
    opened.page.click(f'button.open[data-row="{row}"]')
    return opened


def test_texts_stay_texts_and_nothing_is_fetched(run, report, open_page):
    opened = open_row(open_page, report, 0)
    for part in ("prompt", "response"):
        assert opened.page.locator(f'.body[data-part="{part}"]').evaluate("body => body.textContent") == HOSTILE
        assert opened.page.locator(f'.body[data-part="{part}"] :not(span.token)').count() == 0
        spans = opened.page.locator(f'.body[data-part="{part}"] .token').all_text_contents()
        # the two halves of an emoji are one stretch of text
        assert "".join(spans) == HOSTILE
        assert [s.strip() for s in spans if "\U0001f9ed" in s] == ["\U0001f9ed"] * 2
    opened.page.locator("#pane input[value=gradient_safe]").check()
    opened.is_quiet_and_fits()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_are_the_shares_of_the_chosen_score(run, report, open_page, scheme):
    opened = open_row(open_page, report, 5, color_scheme=scheme)
    tokens = shares_of(run, 5, "response")
    # what lies along the safe direction makes a row safer
    ways = {"balanced": (1, -1), "bidirectional": (1, -2), "harmful": (1, 0), "safe": (0, -1)}
    assert opened.page.locator(".shares input:checked").get_attribute("value") == "gradient_balanced"
    backgrounds = set()
    for name, (harmful, safe) in ways.items():
        opened.page.locator(f".shares input[value=gradient_{name}]").check()
        shares = np.array([harmful * token["harmful"] + safe * token["safe"] for token in tokens])
        spans = opened.page.locator('.body[data-part="response"] .token')
        drawn = spans.evaluate_all(
            """spans => spans.map(s => [
                s.textContent, s.classList.contains("up"),
                Number(s.style.getPropertyValue("--depth")), getComputedStyle(s).backgroundColor])"""
        )
        texts, ups, depths, colours = zip(*drawn, strict=True)
        assert texts == tuple(token["text"] for token in tokens)
        assert ups == tuple(shares > 0)
        sizes, depths = np.abs(shares), np.array(depths)
        pale = depths < 1
        assert depths.max() == 1
        np.testing.assert_allclose(depths[pale] / depths[pale].max(), sizes[pale] / sizes[pale].max(), atol=0.01)
        assert len(set(colours)) > 3
        backgrounds.add(colours)
    assert len(backgrounds) == 4


def test_the_keyboard_reads_token_after_token(run, report, open_page):
    opened = open_row(open_page, report, 0)
    tokens = shares_of(run, 0, "response")
    page = opened.page
    opened.tab_to("dataset.part === 'response'")
    for key, place in (("ArrowRight", 0), ("ArrowRight", 1), ("ArrowLeft", 0), ("ArrowLeft", 0), ("End", -1)):
        page.keyboard.press(key)
        read = page.locator(".readout").text_content()
        found = re.search(r"adds ([+−\d.e]+) to gradient_balanced \(harmful ([+−\d.e]+), safe ([+−\d.e]+)\)", read)
        token = tokens[place]
        assert f"“{token['text'].replace(chr(10), '⏎')}”" in read
        expected = [token["harmful"] - token["safe"], token["harmful"], token["safe"]]
        assert [number(value) for value in found.groups()] == pytest.approx(expected, abs=6e-4)
        assert page.locator(".token.at").count() == 1
    page.keyboard.press("Escape")
    assert page.locator(".token.at").count() == 0
    # the strongest tokens are buttons that lead to their place
    page.locator(".strongest button").first.focus()
    page.keyboard.press("Enter")
    assert page.locator(".token.at").count() == 1
    assert page.evaluate("document.activeElement.classList.contains('body')")


def test_the_filter_finds_rows_with_shares_and_the_next_row_shows_the_same_score(report, open_page):
    opened = open_row(open_page, report, 7)
    assert opened.page.locator(".token, .shares").count() == 0, "no shares were kept of this row"
    opened.page.keyboard.press("Escape")
    opened.search("")
    opened.click("[data-part=shares]")
    assert sorted(opened.shown_rows()) == KEPT
    opened.page.keyboard.press("j")
    opened.page.locator("#pane input[value=gradient_safe]").check()
    opened.page.keyboard.press("Escape")
    opened.page.locator("button.open").nth(1).click()
    assert opened.page.locator("#pane input:checked").get_attribute("value") == "gradient_safe"
    assert "by gradient_safe" in opened.page.locator("#pane .readout").text_content()


def test_the_viewer_colours_the_whole_text(run, serve, open_page):
    opened = open_row(open_page, serve(run), 1)
    opened.page.wait_for_selector("#pane .token")
    assert opened.page.locator('.body[data-part="response"]').text_content() == LONG


def test_parts_add_up_and_a_long_row_says_what_lies_beyond_its_text(run, report, open_page):
    opened = open_row(open_page, report, 1)
    values = map(number, opened.texts("[data-shares=sums] dd"))
    found = dict(zip(opened.texts("[data-shares=sums] dt"), values, strict=True))
    score = pq.read_table(run / "scores.parquet")["gradient_balanced"][1].as_py()
    assert found["sum"] == pytest.approx(score, abs=6e-4)
    assert sum(found[part] for part in ("prompt", "template", "response")) == pytest.approx(score, abs=2e-3)
    body = opened.page.locator('.body[data-part="response"]')
    shown = body.text_content()
    assert len(shown) < len(LONG)
    tokens = shares_of(run, 1, "response")
    expected = sum(token["harmful"] - token["safe"] for token in tokens if token["start"] >= len(shown))
    assert found["of it, tokens beyond the text shown"] == pytest.approx(expected, abs=1e-3)
    body.focus()
    opened.page.keyboard.press("End")
    # the row scrolls to the token that the keyboard went to
    at = opened.page.locator(".token.at").bounding_box()
    assert at["y"] >= 0
    assert at["y"] + at["height"] <= 901


def test_one_safe_set_has_one_difference_and_without_the_dataset_the_sums_remain(tmp_path, open_page):
    run = fabricate_run(tmp_path / "run", rows=60)
    add_token_shares(run, [3], safe_sets=1)
    opened = open_row(open_page, build(run), 3)
    values = opened.page.locator(".shares input").evaluate_all("inputs => inputs.map(input => input.value)")
    assert values == ["gradient_balanced", "gradient_harmful", "gradient_safe"]
    (tmp_path / "lessons.jsonl").unlink()
    opened = open_row(open_page, build(run), 3)
    assert opened.page.locator("[data-shares=sums] dt").count() == 4
    assert opened.page.locator(".token").count() == 0
    assert opened.complaints == []


def test_damaged_shares_name_the_file(run):
    (run / "tokens.parquet").write_bytes(b"PAR1 torn")
    with pytest.raises(RipcurrentError, match=r"tokens\.parquet is damaged"):
        build(run)
